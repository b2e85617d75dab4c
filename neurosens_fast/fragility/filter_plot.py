"""The picture of a filter: a panel per curve with accuracy over the threshold."""

from __future__ import annotations

import math
from os import PathLike
from typing import TYPE_CHECKING, Any

from neurosens_fast.audit.figure import LINE, MUTED, PEAK, figure_in

if TYPE_CHECKING:
    from .filter_report import FilterReport

_COLUMNS = 5
_TITLE = 24
"""Characters of a layer's name that fit above a panel."""
_AXIS = {
    "high": "sizes removed up to (% of largest)",
    "low": "sizes removed above (% of largest)",
    "pulse": "middle of removed band (% of largest)",
}


def plot(report: FilterReport, path: str | PathLike[str]) -> None:
    """See :meth:`FilterReport.plot`."""
    count = len(report.curves)
    columns = min(_COLUMNS, count)
    rows = math.ceil(count / columns)
    width, height = (max(7.0, 2.5 * columns), 2.3 * rows) if count > 1 else (7.0, 4.4)
    with figure_in(path, width, height + 0.9) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for place, axes in enumerate(grid[:count]):
            _draw(axes, report, place)
            lowest = place + columns >= count
            axes.tick_params(labelsize=8, labelbottom=lowest)
            axes.set_xlabel(_AXIS[report.kind] if lowest else "", fontsize=8)
            axes.set_ylabel("% right, % surviving" if place % columns == 0 else "", fontsize=8)
        for axes in grid[count:]:
            axes.set_axis_off()
        handles, labels = grid[0].get_legend_handles_labels()
        across = min(len(handles), int(width / 1.4))
        figure.legend(handles, labels, loc="outside lower center", ncols=across, frameon=False, fontsize=9)
        figure.suptitle(_title(report), x=0.01, ha="left", fontsize=10)


def _title(report: FilterReport) -> str:
    return (
        f"{report.model.split(',')[0]} under {report.attack}, {report.kind} filter of the weights\n"
        f"{report.samples:,} samples; classes by the change of accuracy at eps {max(report.eps):g}"
    )


def _draw(axes: Any, report: FilterReport, place: int) -> None:
    thresholds = [100 * value for value in report.thresholds]
    surviving = 100 * report.surviving()[place]
    axes.plot(thresholds, surviving, color=MUTED, linestyle=":", linewidth=1.5, label="surviving weights")
    _line(axes, report, place, thresholds, None, LINE, "clean")
    ascending = sorted(report.eps)
    for rank, eps in enumerate(ascending):
        shade = 0.35 + 0.65 * (rank + 1) / len(ascending)  # the stronger, the darker
        _line(axes, report, place, thresholds, eps, (*_rgb(PEAK), shade), f"eps {eps:g}")
    axes.set_ylim(-2, 102)
    axes.set_xlim(0, 100)
    axes.grid(color=MUTED, alpha=0.2)
    name = report.curves[place]
    short = name if len(name) <= _TITLE else f"…{name[1 - _TITLE :]}"
    axes.set_title(f"{short}\n{report.classes()[place]}", loc="left", fontsize=8)


def _line(
    axes: Any, report: FilterReport, place: int, thresholds: list[float], eps: float | None, colour: Any, label: str
) -> None:
    clean = eps is None
    accuracy = 100 * report.accuracy(eps, clean)[place]
    error = 100 * report.accuracy_error(eps, clean)[place]
    axes.fill_between(thresholds, accuracy - error, accuracy + error, color=colour, alpha=0.15, linewidth=0)
    axes.plot(thresholds, accuracy, color=colour, linewidth=1.5, marker=".", markersize=4, label=label)


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue
