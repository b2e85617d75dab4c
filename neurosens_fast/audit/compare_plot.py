"""The picture of a comparison: the layers' means in both reports, and every neuron's value in one over the other."""

from __future__ import annotations

import math
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from .figure import LINE, MUTED, PEAK, figure_in
from .plot import explain_colours, layer_colours, logarithmic, name_layers, scale, unit

if TYPE_CHECKING:
    from .compare import Comparison


def plot(comparison: Comparison, path: str | PathLike[str]) -> None:
    """See :meth:`Comparison.plot`."""
    with figure_in(path, max(12.0, min(20.0, 7.5 + 0.3 * len(comparison.layers))), 6.0) as figure:
        layers, neurons = figure.subplots(1, 2)
        _draw_layers(layers, comparison)
        _draw_neurons(neurons, comparison, figure)
        names = (f"{side}: {report.model.split(',')[0]} under {report.attack}"
                 for side, report in (("A", comparison.a), ("B", comparison.b)))  # fmt: skip
        figure.suptitle("\n".join(names), x=0.01, ha="left", fontsize=11)


def _draw_layers(axes: Any, comparison: Comparison) -> None:
    means = {
        side: torch.tensor([getattr(row, f"mean_{side}") for row in comparison.layers], dtype=torch.float64)
        for side in ("a", "b")
    }
    finite = {side: column[column.isfinite()].sort(descending=True).values for side, column in means.items()}
    if len(finite["a"]):  # a mean is finite in both reports or in none
        scale(axes, finite)
        if axes.get_yscale() == "log":  # which leaves out what lies far below the rest; here every mean counts
            positive = torch.cat([column[column > 0] for column in finite.values()])
            axes.set_ylim(bottom=float(positive.min()) / 1.5)
    places = list(range(len(comparison.layers)))
    for side, colour, marker, line in (("a", LINE, "o", "-"), ("b", PEAK, "s", "--")):
        axes.plot(places, means[side].tolist(), color=colour, marker=marker, linestyle=line, linewidth=2,
                  markersize=5, label=side.upper())  # fmt: skip
    name_layers(axes, [row.layer for row in comparison.layers])
    axes.set_ylabel(unit(comparison.by))
    axes.set_title("Mean of each layer", loc="left", fontweight="bold")
    axes.legend(frameon=False, fontsize=9)


def _draw_neurons(axes: Any, comparison: Comparison, figure: Any) -> None:
    first, second = comparison.a.metric(comparison.by), comparison.b.metric(comparison.by)
    points = {row.layer: torch.stack([first[row.layer], second[row.layer]]) for row in comparison.layers}
    points = {name: pair[:, pair.isfinite().all(0)] for name, pair in points.items()}
    joined = torch.cat(list(points.values()), dim=1)
    log = logarithmic({"all": joined.flatten()})
    hidden = 0
    for (name, pair), colour in zip(points.items(), layer_colours(len(points)), strict=True):
        shown = pair[:, (pair > 0).all(0)] if log else pair
        hidden += pair.shape[1] - shown.shape[1]
        # Many neurons are drawn as dots of the picture, so that a vector file stays small.
        axes.scatter(*shown.tolist(), s=14, color=colour, alpha=0.65, linewidth=0, label=name, rasterized=True)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    seen = joined[:, (joined > 0).all(0)] if log else joined
    if seen.numel():
        low, high = float(seen.min()), float(seen.max())
        low, high = (low / 1.5, high * 1.5) if log else (low - 0.05 * (high - low), high + 0.05 * (high - low))
        if not low < high:  # all values are the same
            low, high = low - 1, high + 1
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1, zorder=0)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
    else:
        axes.text(0.5, 0.5, "no neuron with a value to draw", ha="center", transform=axes.transAxes)
    axes.set_xlabel(f"{unit(comparison.by)}, in A")
    axes.set_ylabel("the same, in B")
    if hidden:
        axes.text(0.99, 0.02, f"{hidden:,} with a 0 not drawn", ha="right", fontsize=8.5, transform=axes.transAxes)
    correlation = comparison.overall.spearman
    axes.set_title(
        "Each neuron" + (f", rank correlation {correlation:.2f}" if math.isfinite(correlation) else ""),
        loc="left",
        fontweight="bold",
    )
    explain_colours(axes, figure, list(points), "layer")
