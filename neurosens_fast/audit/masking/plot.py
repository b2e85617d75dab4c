"""The picture of a masking curve: clean and adversarial accuracy, one line per order."""

from __future__ import annotations

from os import PathLike
from statistics import fmean
from typing import TYPE_CHECKING, Any

from neurosens_fast.audit.figure import LINE, MUTED, PEAK, figure_in

if TYPE_CHECKING:
    from .curve import MaskingCurve

_LOOKS = {"most": (PEAK, "o", "-"), "random": (MUTED, "s", "--"), "least": (LINE, "^", "-")}
_TICKS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 40, 50, 75, 100)


def plot(curve: MaskingCurve, path: str | PathLike[str]) -> None:
    """See :meth:`MaskingCurve.plot`."""
    with figure_in(path, 12.0, 5.2) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, branch in zip(panels, ("clean", "adversarial"), strict=True):
            _draw(axes, curve, branch)
        panels[0].set_ylabel("accuracy (%)")
        panels[1].legend(frameon=False, fontsize=9)
        figure.suptitle(_title(curve), x=0.01, ha="left", fontsize=11)


def _title(curve: MaskingCurve) -> str:
    within = "within each layer" if curve.scope == "layer" else "over all layers"
    adaptive = ", attacked anew for each mask" if curve.protocol == "adaptive" else ""
    return (
        f"{curve.model.split(',')[0]} under {curve.attack}{adaptive}\n{curve.samples:,} samples; "
        f"{curve.neurons:,} neurons of {len(curve.layers)} layers ranked by {curve.by.replace('_', ' ')} {within}"
    )


def _draw(axes: Any, curve: MaskingCurve, branch: str) -> None:
    for order in dict.fromkeys(point.order for point in curve.points):
        found: dict[float, list[tuple[float, float]]] = {}
        for point in curve.points:
            if point.order == order:
                accuracy = getattr(point, f"{branch}_accuracy"), getattr(point, f"{branch}_standard_error")
                found.setdefault(100 * point.share, []).append(accuracy)
        colour, marker, line = _LOOKS[order]
        shares = list(found)
        columns = [[100 * accuracy for accuracy, _ in entries] for entries in found.values()]
        repeats = len(columns[0])
        label = _label(order, curve.by)
        if repeats > 1:
            low, high = [min(column) for column in columns], [max(column) for column in columns]
            axes.fill_between(shares, low, high, color=colour, alpha=0.2, linewidth=0)
            label += f", mean and range of {repeats}"
        axes.errorbar(
            shares,
            [fmean(column) for column in columns],
            None if repeats > 1 else [100 * entries[0][1] for entries in found.values()],
            color=colour,
            marker=marker,
            linestyle=line,
            linewidth=2,
            markersize=5,
            elinewidth=1,
            label=label,
        )
    # Most happens at small shares: a square-root axis gives them room.
    axes.set_xscale("function", functions=(lambda x: abs(x) ** 0.5, lambda x: x**2))
    widest = max(100 * point.share for point in curve.points) or 100.0
    ticks = [0.0]
    for tick in _TICKS:
        if tick <= widest and tick**0.5 - ticks[-1] ** 0.5 > 0.072 * widest**0.5:
            ticks.append(tick)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(0, 1.02 * widest)
    axes.set_ylim(0, 102)
    axes.grid(axis="y", color=MUTED, alpha=0.25)
    axes.set_xlabel(f"neurons masked  (% of {curve.neurons:,}, square-root scale)")
    axes.set_title(f"{branch.capitalize()} accuracy", loc="left", fontweight="bold")


def _label(order: str, by: str) -> str:
    if order == "random":
        return order
    if by == "sensitivity":
        return f"{order} sensitive first"
    return f"{'largest' if order == 'most' else 'smallest'} {by.replace('_', ' ')} first"
