"""The picture of a fragility report: every neuron's score under every condition, and the scores sorted."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from neurosens_fast.audit.figure import LINE, MUTED, figure_in

from .judging import CLASSES

if TYPE_CHECKING:
    from .report import FragilityReport

_NAMED_NEURONS = 40


def plot(report: FragilityReport, path: str | PathLike[str], threshold: float | None = None) -> None:
    """See :meth:`FragilityReport.plot`."""
    scores = torch.stack([report.score("clean"), *(report.score("adversarial", eps) for eps in report.eps)], 1)
    with figure_in(path, 13.0, max(4.8, min(9.0, 2.4 + 0.14 * len(scores)))) as figure:
        table, curves = figure.subplots(1, 2, width_ratios=(1, 1.35))
        _draw_table(table, report, scores, figure)
        _draw_curves(curves, report, threshold)
        figure.suptitle(
            f"{report.model.split(',')[0]}: neurons of {report.layer} dropped, {report.attack} ({report.protocol})\n"
            f"{report.samples:,} samples; accuracy with all neurons {_accuracies(report)}",
            x=0.01,
            ha="left",
            fontsize=11,
        )


def _accuracies(report: FragilityReport) -> str:
    attacked = ", ".join(f"{100 * report.adversarial_accuracy(eps):.1f} % at eps {eps:g}" for eps in report.eps)
    return f"{100 * report.clean_accuracy:.1f} % clean, {attacked}"


def _draw_table(axes: Any, report: FragilityReport, scores: torch.Tensor, figure: Any) -> None:
    order = report.score().argsort(stable=True)
    limit = 100 * float(scores.abs().max()) or 1.0
    image = axes.imshow(
        100 * scores[order].numpy(), aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest"
    )
    axes.set_xticks(range(scores.shape[1]), ["clean", *(f"{eps:g}" for eps in report.eps)])
    axes.set_xlabel("inputs: clean, or the eps of the attack")
    step = max(1, -(-len(order) // _NAMED_NEURONS))
    axes.set_yticks(range(0, len(order), step), [str(report.neurons[i]) for i in order[::step].tolist()], fontsize=7)
    axes.set_ylabel("neuron, sorted by its score at the largest eps")
    axes.set_title("Change of accuracy without the neuron", loc="left", fontweight="bold")
    figure.colorbar(image, ax=axes, label="points of accuracy", shrink=0.8)


def _draw_curves(axes: Any, report: FragilityReport, threshold: float | None) -> None:
    from matplotlib import colormaps

    axes.axhline(0, color=MUTED, linewidth=1)
    colours = colormaps["viridis"](torch.linspace(0.75, 0.0, len(report.eps)).numpy())
    rows = [
        ("clean", None, LINE),
        *(("adversarial", eps, colour) for eps, colour in zip(report.eps, colours, strict=True)),
    ]
    for score, eps, colour in rows:
        values, order = report.score(score, eps).sort(stable=True)
        error = report.standard_error(score, eps)[order]
        places = list(range(len(values)))
        classes = report.classes(score, eps, threshold)
        counts = ", ".join(f"{classes.count(name)} {name}" for name in CLASSES)
        axes.plot(places, (100 * values).tolist(), color=colour, linewidth=2, marker="o", markersize=3,
                  linestyle="--" if eps is None else "-",
                  label=f"{'clean' if eps is None else f'eps {eps:g}'}: {counts}")  # fmt: skip
        axes.fill_between(places, (100 * (values - error)).tolist(), (100 * (values + error)).tolist(), color=colour,
                          alpha=0.15, linewidth=0)  # fmt: skip
    axes.set_xlabel("neurons, sorted by score for each curve")
    axes.set_ylabel("change of accuracy without the neuron (points)")
    axes.set_title("Sorted; bands are one standard error", loc="left", fontweight="bold")
    axes.legend(frameon=False, fontsize=8.5)
    axes.grid(axis="y", color=MUTED, alpha=0.25)
