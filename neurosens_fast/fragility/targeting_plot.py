"""The picture of a targeting report: the most hit neurons, by class too, and what their number goes with."""

from __future__ import annotations

import math
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from neurosens_fast.audit.figure import MUTED, figure_in
from neurosens_fast.audit.plot import layer_colours

from .judging import listed

if TYPE_CHECKING:
    from .targeting_report import TargetingReport

_SHOWN = 40  # neurons that have room side by side


def plot(report: TargetingReport, path: str | PathLike[str]) -> None:
    """See :meth:`TargetingReport.plot`."""
    order = report.histogram.sum(0).sort(descending=True, stable=True).indices[:_SHOWN].tolist()
    names = dict.fromkeys(entry.with_what for entry in report.correlations)
    rows = sorted(names, key=lambda name: not name.startswith("fragility"))  # scores first, else in their order
    width, height = (14.0, max(7.0, 1.5 + 0.32 * len(rows))) if rows else (12.0, 7.0)
    with figure_in(path, width, height) as figure:
        grid = figure.add_gridspec(2, 2 if rows else 1, width_ratios=[1.6, 1] if rows else None)
        _draw_histogram(figure.add_subplot(grid[0, 0]), report, order)
        _draw_classes(figure.add_subplot(grid[1, 0]), report, order, figure)
        if rows:
            _draw_correlations(figure.add_subplot(grid[:, 1]), report, rows)
        figure.suptitle(_title(report), x=0.01, ha="left", fontsize=11)


def _title(report: TargetingReport) -> str:
    read = "" if report.zeroed == report.layer else f", read at {report.zeroed}"
    return (
        f"{report.model.split(',')[0]} under {report.attack}, eps {listed(report.eps)}\n{report.samples:,} samples; "
        f"{report.channels} neurons of {report.layer}{read}"
    )


def _draw_histogram(axes: Any, report: TargetingReport, order: list[int]) -> None:
    levels = len(report.eps)
    for number, (eps, colour) in enumerate(zip(report.eps, layer_colours(levels), strict=True)):
        places = [place + (number + 0.5) * 0.8 / levels - 0.4 for place in range(len(order))]
        unhit = int(report.unhit[number])
        label = f"eps {eps:g}" + (f" ({unhit:,} samples without a change)" if unhit else "")
        shares = (100 * report.share[number, order]).tolist()
        axes.bar(places, shares, width=0.8 / levels, color=colour, label=label)
    among = "most hit" if report.top == 1 else f"among the {report.top} most hit"
    fewer = f", the first {len(order)} of {report.channels}" if len(order) < report.channels else ""
    axes.set_title(f"Neurons by how often they are {among}{fewer}", loc="left", fontweight="bold")
    axes.set_ylabel("share of the samples (%)")
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=MUTED, alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    _name_neurons(axes, order)


def _draw_classes(axes: Any, report: TargetingReport, order: list[int], figure: Any) -> None:
    number = report.eps.index(max(report.eps))
    counts = report.by_class[number][:, order].double()
    samples = torch.where(report.class_samples > 0, report.class_samples, torch.nan)  # a class without any stays blank
    axes.set_title(f"The same by true class, eps {report.eps[number]:g}", loc="left", fontweight="bold")
    axes.set_ylabel("true class")
    _name_neurons(axes, order)
    if not len(counts):
        axes.text(0.5, 0.5, "no sample has a class", ha="center", transform=axes.transAxes)
        return
    image = axes.imshow(
        (100 * counts / samples[:, None]).numpy(), aspect="auto", interpolation="nearest", cmap="viridis", vmin=0
    )
    figure.colorbar(image, ax=axes, label="share of the class (%)", pad=0.01, fraction=0.05)
    if len(counts) <= 20:
        axes.set_yticks(range(len(counts)))


def _name_neurons(axes: Any, order: list[int]) -> None:
    axes.set_xticks(range(len(order)), [str(neuron) for neuron in order], rotation=90 if len(order) > 20 else 0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("neuron, the most often hit over all eps first")


def _draw_correlations(axes: Any, report: TargetingReport, rows: list[str]) -> None:
    levels = len(report.eps)
    axes.axvline(0, color=MUTED, linewidth=1)
    for number, (eps, colour) in enumerate(zip(report.eps, layer_colours(levels), strict=True)):
        entries = [entry for entry in report.correlations if entry.eps == eps and not math.isnan(entry.correlation)]
        places = [rows.index(entry.with_what) + (number + 0.5) * 0.7 / levels - 0.35 for entry in entries]
        axes.plot(
            [entry.correlation for entry in entries],
            places,
            color=colour,
            marker="o",
            markersize=4,
            linewidth=0,
            label=f"eps {eps:g}",
        )
        # Not errorbar: the bootstrap's interval need not hold the correlation itself.
        axes.hlines(places, [entry.low for entry in entries], [entry.high for entry in entries], color=colour)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-1.03, 1.03)
    axes.grid(axis="x", color=MUTED, alpha=0.25)
    axes.set_xlabel("rank correlation, 95 % bootstrap interval over neurons")
    axes.set_title("Correlation of the histogram with", loc="left", fontweight="bold")
    if all(math.isnan(entry.correlation) for entry in report.correlations):
        axes.text(0.5, 0.5, "none is defined", ha="center", transform=axes.transAxes)
