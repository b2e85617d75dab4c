"""A report as tables that fit 80 columns, and what a reader should know about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from neurosens_fast import ops
from neurosens_fast.capture import FUNCTIONAL_MEND

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table

    from .compare import Comparison, MovedNeuron
    from .report import AuditReport, Neuron

_BAR = 11
_SHORT_NAME = 14
_WIDEST_TYPE = 12
_WIDEST_HEADER = 11
_NAMED = 6
"""How many names a note lists before it says how many more there are."""


def text_table(title: str, first: str, names: Iterable[str], others: tuple[str, ...]) -> Table:
    """An empty rich table that fits 80 columns: ``first`` is the column of ``names``, ``others`` hold numbers."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        caption_justify="left",
    )
    table.add_column(first, overflow="fold", min_width=min(_SHORT_NAME, max(map(len, names), default=0)))
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def layer_table(report: AuditReport, by: str = "sensitivity", layer: str | None = None) -> Table:
    """Metric ``by`` of every layer (or one) as a rich table, with a bar for its mean over the layer's neurons."""
    from rich.text import Text

    values = {name: column for name, column in report.metric(by).items() if layer in (None, name)}
    title = f"{in_words(by).capitalize()} of each layer, in the order of execution"
    if layer is not None:
        title = f"{in_words(by).capitalize()} of one layer"
    numbers = ("type", "neurons", "dead", "mean", "largest", "of neuron")
    table = text_table(title, "layer", values, numbers)
    table.columns[1].justify = "left"
    table.columns[1].max_width = _WIDEST_TYPE
    table.add_column("", no_wrap=True)
    length = _BAR if all(len(name) <= _SHORT_NAME for name in values) else 0  # long names need the space
    dead = report.dead()
    means = {name: float(column.mean()) for name, column in values.items()}
    highest = max((mean for mean in means.values() if math.isfinite(mean)), default=0.0)
    for name, column in values.items():
        mean, some = means[name], len(column) > 0
        bar = "█" * round(length * mean / highest) if highest > 0 and 0 < mean < math.inf else ""
        table.add_row(
            Text(name),
            report.layers[name].module_type,
            str(len(column)),
            str(len(dead[name])) if name in dead else "-",
            number(mean),
            number(float(column.max())) if some else "-",
            str(int(ops.topk_neurons(column, 1)[1])) if some else "-",
            Text(bar, style="blue"),
        )
    return table


def neuron_table(report: AuditReport, k: int | float, by: str = "sensitivity", layer: str | None = None) -> Table:
    """The ``k`` neurons with the largest metric ``by`` as a rich table, with their rank inside the layer.

    ``k`` and ``layer`` are those of ``AuditReport.top``, and so are the errors.
    """
    from rich.text import Text

    rows = neuron_rows(report, k, by, layer)
    header = in_words(by) if len(by) <= _WIDEST_HEADER else "value"
    numbers = ("neuron", "in its layer", header, "relative", "benign", "adversarial")
    title = f"The {counted(len(rows), 'neuron')} with the largest {in_words(by)}"
    table = text_table(title, "layer", [row.layer for row, _, _ in rows], numbers)
    for row, place, others in rows:
        table.add_row(Text(row.layer), str(row.neuron), place, number(row.value), *others)
    table.caption = Text("relative: change / size; benign, adversarial: mean activation", style="dim")
    return table


def neuron_rows(
    report: AuditReport, k: int | float, by: str = "sensitivity", layer: str | None = None
) -> list[tuple[Neuron, str, list[str]]]:
    """The rows of :func:`neuron_table`: the neuron, its rank inside its layer, relative change and mean activations."""
    shown = ("relative_l1", "mean_activation_benign", "mean_activation_adversarial")
    columns = {name: report.metric(name) for name in shown}
    neurons = report.top(k, by=by, layer=layer)
    inside: dict[tuple[str, int], int] = {}
    for name in {neuron.layer for neuron in neurons}:
        inside.update({(name, place.neuron): place.rank for place in report.top(1.0, by=by, layer=name)})
    return [
        (
            row,
            f"{inside[row.layer, row.neuron]} of {len(columns[shown[0]][row.layer])}",
            [number(float(columns[name][row.layer][row.neuron]), 3) for name in shown],
        )
        for row in neurons
    ]


def comparison_table(comparison: Comparison) -> Table:
    """Each layer of both reports, and all together, as a rich table; the caption says what A and B are."""
    from rich.text import Text

    rows = (*comparison.layers, comparison.overall)
    numbers = ("neurons", "mean A", "mean B", "B / A", "rank corr.", "top", "in common", "Jaccard")
    title = f"{in_words(comparison.by).capitalize()} of each layer in A and in B"
    table = text_table(title, "layer", [row.layer for row in rows], numbers)
    for row in rows:
        if row is comparison.overall:
            table.add_section()
        table.add_row(
            Text(row.layer),
            str(row.neurons),
            number(row.mean_a),
            number(row.mean_b),
            number(row.ratio, 3),
            f"{row.spearman:.3f}",
            str(row.top),
            f"{row.overlap:.0%}" if row.top else "-",
            f"{row.jaccard:.2f}" if row.top else "-",
        )
    sides = (("A", comparison.a), ("B", comparison.b))
    table.caption = Text("\n".join(f"{name}: {side_of(report)}" for name, report in sides), style="dim")
    return table


def side_of(report: AuditReport) -> str:
    """What one side of a comparison measured, in one line."""
    return f"{report.model}; {report.attack}; accuracy {accuracies(report)}"


def moved_table(comparison: Comparison, n: int) -> Table:
    """The ``n`` neurons that climbed and the ``n`` that fell most from A to B as a rich table."""
    from rich.text import Text

    up, down = comparison.moved(n)
    title = f"The neurons that moved furthest from A to B, of {comparison.overall.neurons:,}"
    numbers = ("neuron", "places", "rank in A", "rank in B", "value A", "value B")
    table = text_table(title, "layer", [row.layer for row in (*up, *down)], numbers)

    def add(rows: list[MovedNeuron]) -> None:
        for row in rows:
            ranks = f"{row.places:+g}", f"{row.rank_a:g}", f"{row.rank_b:g}"
            table.add_row(Text(row.layer), str(row.neuron), *ranks, number(row.value_a), number(row.value_b))

    add(up)
    table.add_section()
    add(down)
    table.caption = Text("rank 1 is the largest value; equal values share their mean rank", style="dim")
    return table


def comparison_notes(comparison: Comparison) -> list[str]:
    """What a reader of a comparison should know, one sentence each: what was left out, and what else differs."""
    a, b = comparison.a, comparison.b
    notes = [f"not comparable: {name}, {reason}" for name, reason in comparison.incomparable.items()]
    for side, names in (("A", comparison.only_a), ("B", comparison.only_b)):
        if names:
            notes.append(f"only in {side}: {_few(names)}")
    if comparison.overall.left_out:
        places = _few(f"{row.layer} {row.left_out}" for row in comparison.layers if row.left_out)
        left_out = counted(comparison.overall.left_out, "neuron")
        notes.append(f"left out, NaN or infinite in A or B: {left_out}, {places}")
    if set(a.data) != set(b.data):
        notes.append(f"measured on different data: {'; '.join(a.data)} in A, {'; '.join(b.data)} in B")
    if a.samples != b.samples:
        notes.append(f"measured on {a.samples:,} samples in A, on {b.samples:,} in B")
    if a.dtype != b.dtype:
        notes.append(f"computed in {a.dtype} in A, in {b.dtype} in B")
    return notes


def sample_table(scores: DataFrame, count: int) -> Table:
    """The ``count`` samples with the largest score of ``read_scores`` as a rich table, with the predicted classes."""
    shaken = scores.sort_values("score", ascending=False, kind="stable", na_position="first").head(count)
    numbers = ("label", "benign", "adversarial", "score")
    title = "Samples that shake the model most"
    table = text_table(title, "sample", map(str, shaken["sample"]), numbers)
    names = ["sample", "label", "prediction_benign", "prediction_adversarial"]
    for numbers_of, score in zip(shaken[names].to_numpy().tolist(), shaken["score"].tolist(), strict=True):
        table.add_row(*(str(value) if value >= 0 else "-" for value in numbers_of), number(score))
    return table


def report_notes(report: AuditReport) -> list[str]:
    """What a reader of the tables should know, one sentence each: neurons and layers that are not what they seem."""
    notes: list[str] = []
    nonfinite, dead = report.nonfinite(), report.dead()
    if nonfinite:
        total = sum(map(len, nonfinite.values()))
        places = _few(f"{name} {_few(map(str, neurons))}" for name, neurons in nonfinite.items())
        notes.append(f"NaN or infinite: {counted(total, 'neuron')}, {places}")
    if dead:
        total = sum(map(len, dead.values()))
        places = _few(f"{name} {len(neurons)}" for name, neurons in dead.items())
        notes.append(f"dead, 0 for every sample: {total:,} of {counted(report.neurons, 'neuron')}, {places}")
    if report.functional:
        notes.append(f"functions cannot be tapped: {_few(report.functional)}; {FUNCTIONAL_MEND}")
    notes += report.notes
    notes += [f"left out {line}" for line in by_reason(report.skipped)]
    if report.not_run:
        notes.append(f"never ran as modules: {_few(report.not_run)}")
    if report.samples and not report.labelled:
        notes.append("accuracy is unknown, as there are no labels or the model puts out no logits [N, classes]")
    return notes


def accuracies(report: AuditReport) -> str:
    """Clean and adversarial accuracy in percent, or that they are unknown."""
    if not report.labelled:
        return "unknown"
    return f"{report.clean_accuracy:.1%} clean, {report.adversarial_accuracy:.1%} adversarial"


def tap_line(report: AuditReport) -> str:
    """How the layers were measured: which of them in the pass that computes their ReLU."""
    if report.not_fused:
        return f"on the model as it is ({report.not_fused})"
    return (
        f"on a folded copy; {len(report.fused)} of {counted(len(report.layers), 'layer')} in one pass with their ReLU"
    )


def by_reason(reasons: Mapping[str, str]) -> list[str]:
    """``names: reason`` once for each reason of layers that cannot be tapped, without the mend behind its semicolon."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        clause = reason.partition(";")[0].removeprefix(f"layer {name.partition('#')[0]!r}").lstrip(" :")
        names.setdefault(clause, []).append(name)
    return [f"{_few(group)}: {clause}" for clause, group in names.items()]


def number(value: float, digits: int = 4) -> str:
    """A number in about eight characters: ``0.1234``, ``1.2e-05``, ``4.6e+04``."""
    if value == 0 or 1e-3 <= abs(value) < 1e4 or not math.isfinite(value):
        return f"{value:.{digits}f}"
    return f"{value:.1e}"


def counted(count: int, noun: str) -> str:
    """``1 layer``, ``2,345 layers``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def in_words(metric: str) -> str:
    """``relative_l1`` as ``relative l1``."""
    return metric.replace("_", " ")


def _few(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _NAMED
    return ", ".join(every[:_NAMED]) + (f" and {more} more" if more > 0 else "")
