"""A report as Markdown (CommonMark with the tables of GitHub)."""

from __future__ import annotations

import os
import re
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from neurosens_fast.audit.plot import plot
from neurosens_fast.audit.storage import write_whole

from .content import Table, content

if TYPE_CHECKING:
    from neurosens_fast.audit.report import AuditReport

_SPECIAL = re.compile(r"[\\`*{}\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown or HTML would take for a command; an underscore inside a word is none."""


def to_markdown(report: AuditReport, by: str = "sensitivity", top: int | float = 20, picture: str | None = None) -> str:
    """See :meth:`AuditReport.to_markdown`."""
    parts = content(report, by, top)
    blocks = [
        f"# {escaped(parts.title)}",
        "\n".join(f"- **{label}**: {escaped(text)}" for label, text in parts.facts),
    ]
    if parts.notes:
        blocks += ["## Notes", "\n".join(f"- {escaped(note)}" for note in parts.notes)]
    if picture is not None:
        blocks.append(f"![{escaped(parts.caption)}]({quote(picture)})")
    for table in parts.tables:
        blocks += [f"## {escaped(table.title)}", table_text(table)]
        if table.note:
            blocks.append(escaped(table.note))
    return "\n\n".join(blocks) + "\n"


def save_markdown(
    report: AuditReport,
    path: str | PathLike[str],
    by: str = "sensitivity",
    top: int | float = 20,
    picture: str | PathLike[str] | None = None,
) -> None:
    """See :meth:`AuditReport.save_markdown`."""
    target = Path(path)
    if target.suffix.lower() == ".png":
        raise ValueError(
            f"{target} would be the picture of the document; give the Markdown file another suffix, as .md"
        )
    drawn = picture_of(target) if picture is None else Path(picture)
    text = to_markdown(report, by, top, Path(os.path.relpath(drawn, target.parent)).as_posix())
    if picture is None:
        plot(report, drawn, by)
    write_whole(target, text.encode())


def picture_of(path: Path) -> Path:
    """Where the picture of the Markdown file ``path`` goes."""
    return path.with_suffix(".png")


def escaped(text: str) -> str:
    """``text`` on one line, so that Markdown shows it as it is."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def table_text(table: Table) -> str:
    """The rows of ``table`` under its headers."""
    rules = ["---:" if place in table.numbers else "---" for place in range(len(table.headers))]
    lines = [table.headers, tuple(rules), *table.rows]
    cells = [[cell if line is lines[1] else escaped(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
