"""How far a training run has come, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from neurosens_fast.support.processes import rank_and_world

from .result import Epoch


@contextmanager
def epoch_bar(
    progress: bool, epoch: int, epochs: int, batches: int, last: Epoch | None
) -> Iterator[Callable[[int], None]]:
    """A function to call with the batches done; shows the accuracies after the epoch before.

    A bar on the standard error stream of the first process, if ``progress`` is set and the stream is a terminal.
    """
    if not progress or rank_and_world()[0] or not sys.stderr.isatty():
        yield lambda done: None
        return
    try:
        from rich import progress as parts
        from rich.console import Console
    except ModuleNotFoundError:  # a bar is no reason to fail
        yield lambda done: None
        return
    columns = (
        *(parts.TextColumn("{task.description}"), parts.BarColumn(bar_width=None), parts.MofNCompleteColumn()),
        *(
            parts.TextColumn("elapsed"),
            parts.TimeElapsedColumn(),
            parts.TextColumn("left"),
            parts.TimeRemainingColumn(),
        ),
    )
    text = f"epoch {epoch}/{epochs}"
    if last is not None and last.clean_accuracy == last.clean_accuracy:
        text += f"  loss {last.loss:.3f}  clean {last.clean_accuracy:.1%}  adversarial {last.adversarial_accuracy:.1%}"
    with parts.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=batches)
        yield lambda done: bar.update(task, completed=done)


def epoch_line(row: Epoch, epochs: int) -> str:
    """One line about one epoch."""
    term = f"  term {row.term:.4f}" if row.term == row.term else ""
    validated = row.clean_accuracy == row.clean_accuracy
    found = f"clean {row.clean_accuracy:6.1%}  adversarial {row.adversarial_accuracy:6.1%}  " if validated else ""
    return (
        f"epoch {row.epoch:>3}/{epochs}  loss {row.loss:.4f}{term}  train {row.train_accuracy:6.1%}  {found}"
        f"{row.seconds:.1f} s"
    )
