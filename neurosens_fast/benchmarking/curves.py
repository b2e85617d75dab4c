"""Scaling curves: the rows of a title by the axis that they stand on."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .results import OURS, Row, SuiteResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def on_axis(rows: Sequence[Row]) -> list[Row]:
    """The rows that stand on an axis, in its order."""
    return sorted((row for row in rows if row.axis), key=lambda row: row.axis.value if row.axis else 0.0)


def curves(result: SuiteResult) -> dict[str, list[Row]]:
    """Curves by title, and by device where there are several; a curve has two points at least."""
    found: dict[str, list[Row]] = {}
    for row in result.rows:
        if row.axis:
            name = f"{row.title}, {row.device}" if len(result.roofs) > 1 else row.title
            found.setdefault(name, []).append(row)
    return {name: on_axis(rows) for name, rows in found.items() if len(rows) > 1}


def crossover(rows: Sequence[Row], rival: str) -> float | None:
    """The largest value of the axis at which the rival was faster in the median, or None where it never was."""
    slower = [row.axis.value for row in rows if row.axis and rival in row.rivals and row.gain(rival).median < 1]
    return max(slower, default=None)


def crossover_note(rows: Sequence[Row]) -> str:
    """One sentence on every rival of a curve."""
    parts = []
    for rival in dict.fromkeys(name for row in rows for name in row.rivals):
        value, axis = crossover(rows, rival), rows[0].axis
        assert axis is not None
        parts.append(
            f"{rival} is faster nowhere" if value is None else f"{rival} is faster up to {axis.name} {value:,.0f}"
        )
    return "; ".join(parts)


def draw(result: SuiteResult) -> bytes | None:
    """A PNG of all curves, time by amount of work; None where there are none."""
    panels = curves(result)
    if not panels:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(5 * across, 3.6 * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False)
    for place, (title, rows) in zip(axes.flat, panels.items(), strict=False):
        _panel(place, title, rows)
    for place in list(axes.flat)[len(panels) :]:
        place.set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _panel(place: Axes, title: str, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator

    axis = rows[0].axis
    assert axis is not None
    for name in dict.fromkeys(name for row in rows for name in row.seconds):
        points = [
            (row.axis.value, row.median(name) / row.axis.amount) for row in rows if row.axis and name in row.seconds
        ]
        style = {"linewidth": 2.2, "zorder": 3} if name == OURS else {"linewidth": 1.2}
        place.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, **style)  # type: ignore[arg-type]
    place.set_xscale("log")
    place.set_yscale("log")
    places = [row.axis.value for row in rows if row.axis]
    place.set_xticks(places, [f"{value:,.0f}" for value in places])
    place.minorticks_off()
    place.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    place.yaxis.set_major_formatter(EngFormatter("s"))
    place.set_title("\n".join(textwrap.wrap(title, 56)), fontsize=9)
    place.set_xlabel(axis.name, fontsize=8)
    place.set_ylabel(f"time per {axis.unit}", fontsize=8)
    place.tick_params(labelsize=7)
    place.grid(alpha=0.3)
    place.legend(fontsize=7)
