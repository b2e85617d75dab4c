"""The picture of a report: one curve over layers, and the sorted curve of each layer's neurons."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from .figure import LINE, MUTED, PEAK, figure_in

if TYPE_CHECKING:
    from .report import AuditReport

_UNITLESS = ("relative", "cosine", "active_share", "activation_frequency")
_LEGEND_LAYERS = 18
_BRIGHTEST = 0.93  # of viridis, whose end is too pale for a line


def plot(report: AuditReport, path: str | PathLike[str] | BinaryIO, by: str = "sensitivity") -> None:
    """See :meth:`AuditReport.plot`; a stream gets a PNG."""
    finite = {name: column[column.isfinite()] for name, column in report.metric(by).items()}
    values = {name: column.sort(descending=True).values for name, column in finite.items() if len(column)}
    with figure_in(path, max(12.0, min(20.0, 6.5 + 0.35 * len(values))), 5.6) as figure:
        layers, neurons = figure.subplots(1, 2)
        if values:
            _draw_layers(layers, values, by)
            _draw_neurons(neurons, values, by, figure)
        else:
            for axes in (layers, neurons):
                axes.text(0.5, 0.5, "no neuron with a finite value", ha="center", transform=axes.transAxes)
        figure.suptitle(_title(report, by), x=0.01, ha="left", fontsize=11)


def _title(report: AuditReport, by: str) -> str:
    clean, attacked = 100 * report.clean_accuracy, 100 * report.adversarial_accuracy
    accuracy = f"; accuracy {clean:.1f} % clean, {attacked:.1f} % adversarial" if report.labelled else ""
    ours = report.model.split(",")[0]
    return f"{ours} under {report.attack}\n{report.samples:,} samples, {report.neurons:,} neurons{accuracy}"


def unit(by: str) -> str:
    """Metric ``by`` and its unit, for an axis."""
    name = by.replace("_", " ")
    if by == "sensitivity":
        return "sensitivity: mean |change of activation|  (activation units)"
    return f"{name}  (dimensionless)" if by.startswith(_UNITLESS) else f"{name}  (activation units)"


def logarithmic(values: dict[str, torch.Tensor]) -> bool:
    """Whether the values span more than a factor of 20, so that a linear axis would hide most of them."""
    joined = torch.cat(list(values.values()))
    positive = joined[joined > 0]
    if not len(positive) or bool((joined < 0).any()):
        return False
    return bool(positive.max() > 20 * positive.quantile(0.05))


def scale(axes: Any, values: dict[str, torch.Tensor]) -> None:
    """A vertical axis on which all values show: logarithmic (down to the bulk of every layer), or from 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    joined = torch.cat(list(values.values()))
    if logarithmic(values):
        axes.set_yscale("log")
        positive = joined[joined > 0]
        medians = [float(column[column > 0].median()) for column in values.values() if column[0] > 0]
        axes.set_ylim(max(float(positive.min()) / 1.5, min(medians) / 3), float(positive.max()) * 1.5)
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if positive.max() < 1000 * positive.min() else (1.0,))
        )
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif bool((joined >= 0).all()):
        axes.set_ylim(0, 1.05 * float(joined.max()) or 1.0)
    axes.grid(axis="y", which="major", color=MUTED, alpha=0.25)


def _draw_layers(axes: Any, values: dict[str, torch.Tensor], by: str) -> None:
    places = list(range(len(values)))
    shares = torch.tensor([0.05, 0.25, 0.75, 0.95], dtype=torch.float64)
    scale(axes, values)
    floor = axes.get_ylim()[0] if axes.get_yscale() == "log" else -torch.inf
    bands = torch.stack([column.quantile(shares) for column in values.values()], dim=1).clamp(min=floor).tolist()
    axes.fill_between(places, bands[0], bands[3], color=LINE, alpha=0.13, linewidth=0, label="5 to 95 % of the neurons")
    axes.fill_between(places, bands[1], bands[2], color=LINE, alpha=0.28, linewidth=0, label="25 to 75 %")
    means = [float(column.mean()) for column in values.values()]
    axes.plot(places, means, color=LINE, marker="o", markersize=5, linewidth=2, label="mean of the layer")
    peaks = [float(column[0]) for column in values.values()]
    extreme = "most sensitive neuron" if by == "sensitivity" else "neuron with the largest value"
    axes.plot(places, peaks, color=PEAK, marker="^", markersize=5, linewidth=0, label=extreme)
    name_layers(axes, list(values))
    axes.set_ylabel(unit(by))
    axes.set_title("Per layer", loc="left", fontweight="bold")
    axes.legend(frameon=False, fontsize=9)


def _draw_neurons(axes: Any, values: dict[str, torch.Tensor], by: str, figure: Any) -> None:
    colours = layer_colours(len(values))
    few = len(values) <= _LEGEND_LAYERS
    scale(axes, values)
    log = axes.get_yscale() == "log"
    for place, (name, column) in enumerate(values.items()):
        shares = (torch.arange(len(column), dtype=torch.float64) + 0.5) / len(column) * 100
        zeros = int((column == 0).sum())
        hidden = f", {zeros} at 0" if zeros and log else ""
        shown = column if not log else torch.where(column > 0, column, torch.nan)
        axes.plot(
            shares.tolist(),
            shown.tolist(),
            color=colours[place],
            linestyle=("-", "--", ":", "-.")[place % 4] if few else "-",
            linewidth=1.8,
            marker="o" if len(column) == 1 else None,
            label=f"{name} ({len(column)}{hidden})",
        )
    axes.set_xlim(0, 100)
    axes.set_xlabel("neurons of the layer, largest first  (% of the layer)")
    axes.set_ylabel(unit(by))
    axes.set_title("Per neuron, sorted within its layer", loc="left", fontweight="bold")
    explain_colours(axes, figure, list(values), "layer (neurons)")


def name_layers(axes: Any, names: list[str]) -> None:
    """A horizontal axis of layers at 0, 1, 2, ..."""
    crowded = len(names) > 14
    axes.set_xticks(list(range(len(names))), names, rotation=90 if crowded else 40, ha="center" if crowded else "right")
    if crowded:
        axes.tick_params(axis="x", labelsize=max(5, 10 - len(names) // 15))
    axes.set_xlabel("layer, in the order of execution")


def layer_colours(count: int) -> list[Any]:
    """A colour for each of ``count`` layers, from dark to light in the order of execution."""
    from matplotlib import colormaps

    colours = colormaps["viridis"]
    return [colours(_BRIGHTEST * place / max(1, count - 1)) for place in range(count)]


def explain_colours(axes: Any, figure: Any, names: list[str], title: str) -> None:
    """A legend of what was drawn under labels in :func:`layer_colours`, or a colour bar where layers are many."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if len(names) <= _LEGEND_LAYERS:
        axes.legend(frameon=False, fontsize=8.5, title=title, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return
    last = len(names) - 1
    bar = figure.colorbar(ScalarMappable(Normalize(0, last / _BRIGHTEST), colormaps["viridis"]), ax=axes)
    ticks = sorted({round(share * last / 7) for share in range(8)})
    bar.set_ticks(ticks, labels=[names[tick] for tick in ticks])
    bar.ax.set_ylim(last, 0)
    bar.set_label("layer, in the order of execution")
