"""How far a run over data has come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int | None], None]
"""Called with the samples done and the total, None where it is unknown."""


@contextmanager
def progress_bar(progress: bool | Report, total: int | None, description: str) -> Iterator[Report]:
    """A function to call with the samples done so far.

    For True it moves a bar with rate and time left on the standard error stream, if that is a terminal and rich is
    installed; for False it does nothing; a function of the caller is called with samples done and total.
    """
    if callable(progress):
        yield progress
        return
    if not progress or not sys.stderr.isatty():
        yield lambda done, whole: None
        return
    try:
        from rich import progress as parts
        from rich.console import Console
    except ModuleNotFoundError:  # a bar is no reason to fail
        yield lambda done, whole: None
        return
    rate = parts.TextColumn("{task.fields[rate]}", justify="right")
    columns = (
        *(parts.TextColumn("{task.description}"), parts.BarColumn(bar_width=None), parts.MofNCompleteColumn()),
        *(rate, parts.TextColumn("elapsed"), parts.TimeElapsedColumn(), parts.TextColumn("left")),
        parts.TimeRemainingColumn(elapsed_when_finished=False),
    )
    with parts.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, rate="")

        def report_bar(done: int, whole: int | None) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = f"{done / elapsed:,.0f} samples/s" if elapsed > 0 else ""
            bar.update(task, completed=done, total=whole, rate=rate)

        yield report_bar
