"""Where a command writes and how it prints."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from neurosens_fast.audit.document.content import Table


class OutputFolder:
    """The folder of ``--out`` and the files that a command will write into it.

    Making the object changes nothing and raises ``ValueError`` where the folder cannot be written or, unless
    ``overwrite`` is set, where one of the files is there already.
    """

    def __init__(self, path: Path, names: Iterable[str], overwrite: bool) -> None:
        self.path = path
        self.names = tuple(names)
        present = [name for name in self.names if os.path.lexists(path / name)]
        if present and not overwrite:
            raise ValueError(
                f"{path} already holds {', '.join(present)}; choose another folder for --out, or add --overwrite"
            )
        parents = (path, *path.absolute().parents)
        there = next(parent for parent in parents if os.path.lexists(parent))
        if not there.is_dir():
            raise ValueError(f"cannot write to the folder {path}: {there} is a file; choose another --out")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"cannot write to the folder {path}: {there} may not be written; choose another --out")

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        """The folder, made and written to once as a trial; where the work fails, folders made for it go again."""
        made: list[Path] = []
        try:
            try:
                for folder in (*reversed(self.path.absolute().parents), self.path):
                    if not folder.is_dir():
                        folder.mkdir(exist_ok=True)  # another process of torchrun may be first
                        made.append(folder)
                trial = self.path / f".{secrets.token_hex(8)}"
                trial.touch(exist_ok=False)
                trial.unlink()
            except OSError as error:
                raise ValueError(
                    f"cannot write to the folder {self.path}: {error.strerror or error}; choose another --out"
                ) from error
            yield self.path
        except BaseException:
            with contextlib.suppress(OSError):  # not empty: something was finished before
                for folder in reversed(made):
                    folder.rmdir()
            raise

    def written(self) -> str:
        """The line that says where things are; a file that there was no reason to write is left out."""
        written = [name for name in self.names if os.path.lexists(self.path / name)]
        return f"written to {self.path}: {', '.join(written)}"


def standard_output(quiet: bool = False) -> Console:
    """A console that takes text as it is: no markup, no highlighting."""
    from rich.console import Console

    return Console(highlight=False, markup=False, quiet=quiet)


def print_facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    """Labels and values in two columns; long values continue under themselves."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1), pad_edge=False)
    grid.add_column(no_wrap=True, min_width=8)
    grid.add_column(overflow="fold")
    for label, value in facts:
        grid.add_row(label, value)
    console.print(grid)


def print_table(console: Console, table: Table) -> None:
    """A table of a document, with its note below, after an empty line. Cells that are too wide wrap between words."""
    from rich.text import Text

    from neurosens_fast.audit.tables import text_table

    first, *others = table.headers
    shown = text_table(table.title, first, [row[0] for row in table.rows], tuple(others))
    for place, column in enumerate(shown.columns):
        column.justify = "right" if place in table.numbers else "left"
        if place:
            cells = (table.headers[place], *(row[place] for row in table.rows))
            column.no_wrap, column.min_width = False, max(len(word) for cell in cells for word in cell.split())
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console.print()
    console.print(shown)
    console.print(Text(table.note, style="dim"))


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """One note after the other, each marked as such."""
    print_facts(console, [("note", note) for note in notes])
