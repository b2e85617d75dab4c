"""``neurosens-fast mask``: accuracy with the most sensitive neurons set to zero."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from neurosens_fast.support.names import REPORT

from .options import GROUPS, AttackOptions, DataOptions, ModelOptions, OutputOptions, RunOptions
from .output import OutputFolder, print_facts, print_notes, standard_output
from .parsing import count_or_share, listed, one_of
from .show import read_report

if TYPE_CHECKING:
    from rich.table import Table

    from neurosens_fast.audit.masking import MaskingCurve, MaskingPoint

FILES = ("masking.csv", "masking.png")


def run(
    *,
    report: Annotated[
        Path, typer.Argument(metavar="REPORT", help=f"A report of the model, or a folder that holds {REPORT}.")
    ],
    model: ModelOptions,
    data: DataOptions,
    attack: AttackOptions,
    by: Annotated[
        str,
        typer.Option("--by", metavar="METRIC", help="Metric that ranks the neurons.", rich_help_panel="Masking"),
    ] = "sensitivity",
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            metavar="TEXT",
            help=f"Mask neurons of these only: {GROUPS}, names or globs. Default: all of the report.",
            rich_help_panel="Masking",
        ),
    ] = None,
    counts: Annotated[
        list[str] | None,
        typer.Option(
            "--counts",
            metavar="LIST",
            help="How many neurons to mask, as in 0,10,5%,50%. Default: a dozen shares from none to all.",
            rich_help_panel="Masking",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, metavar="N", help="Random orders to try.", rich_help_panel="Masking")
    ] = 3,
    scope: Annotated[
        Literal["layer", "model"],
        typer.Option(
            "--scope",
            metavar="NAME",
            help="layer: rank within each layer and mask the same share of each; model: rank all together.",
            rich_help_panel="Masking",
        ),
    ] = "layer",
    protocol: Annotated[
        Literal["fixed", "adaptive"],
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="fixed: attack the unmasked model once; adaptive: attack every masked model anew, which takes longer.",
            rich_help_panel="Masking",
        ),
    ] = "fixed",
    computing: RunOptions,
    output: OutputOptions,
) -> None:
    """Do the sensitive neurons matter? Accuracy with neurons set to zero.

    Masks more and more neurons of a model that was audited: the most
    sensitive first, the least sensitive first, and in random order. Writes
    [bold]masking.csv[/] and [bold]masking.png[/] to DIR.

    [bold]neurosens-fast mask run1 --model digits-cnn --data digits --eps 0.15 \\
        --weights demo-output/model.safetensors --out run1[/]
    """
    from neurosens_fast.audit.masking import masking_curve
    from neurosens_fast.audit.masking.hooks import choose_rows
    from neurosens_fast.audit.tables import counted
    from neurosens_fast.statistics import METRICS

    from .prepare import prepare

    one_of(by, METRICS, "metric")
    numbers = [count_or_share(text) for text in listed(counts or ())] or None
    chosen = listed(layers or ()) or None
    folder = OutputFolder(output.out, FILES, output.overwrite)
    found, place = read_report(report)
    subject = prepare(model, data, attack, computing, lambda network: choose_rows(network, found, chosen))
    console = standard_output(output.quiet)
    with folder.opened() as path:
        print_facts(
            console, [("report", str(place)), *subject.facts(), ("ranking", f"{by}, {scope} scope, {protocol} attack")]
        )
        curve = masking_curve(
            subject.model,
            found,
            subject.data,
            subject.attack,
            by,
            layers=chosen,
            counts=numbers,
            repeats=repeats,
            scope=scope,
            protocol=protocol,
            device=subject.device,
            dtype=subject.dtype,
            batch_size=data.batch_size,
            max_samples=data.max_samples,
            progress=output.progress and not output.quiet,
            seed=computing.seed,
            data_description=subject.data_description,
            attack_description=subject.attack_description,
        )
        curve.to_csv(path / "masking.csv")
        curve.plot(path / "masking.png")
    masked = f"at most {curve.neurons:,} neurons in {counted(len(curve.layers), 'layer')}; {curve.samples:,} pairs"
    print_facts(console, [("masked", masked)])
    console.print()
    console.print(_table(curve))
    console.print()
    print_notes(console, _notes(curve, found.model, subject.model_description))
    console.print(folder.written(), soft_wrap=True)


def _table(curve: MaskingCurve) -> Table:
    """Accuracies in percent, a row for each number of masked neurons and two columns for each order."""
    from neurosens_fast.audit.tables import text_table

    points: dict[int, dict[str, list[MaskingPoint]]] = {}
    for point in curve.points:
        points.setdefault(point.masked, {}).setdefault(point.order, []).append(point)
    orders = list(dict.fromkeys(point.order for point in curve.points))
    table = text_table("Accuracy in %, clean and adversarial, with neurons masked", "masked", (), ())
    table.add_column("share", justify="right")
    for order in orders:
        table.add_column(f"{order}\nclean", justify="right")
        table.add_column("\nadversarial", justify="right")
    for masked, by_order in sorted(points.items()):
        cells = [f"{100 * next(iter(by_order.values()))[0].share:.1f} %"]
        for order in orders:
            of_order = by_order[order]
            cells.append(_percent(point.clean_accuracy for point in of_order))
            cells.append(_percent(point.adversarial_accuracy for point in of_order))
        table.add_row(f"{masked:,}", *cells)
    table.columns[0].justify = "right"
    table.caption = "most: most sensitive first; random: mean of the random orders; least: least sensitive first"
    return table


def _percent(shares: Iterable[float]) -> str:
    values = list(shares)
    return f"{100 * sum(values) / len(values):.1f}"


def _notes(curve: MaskingCurve, audited: str, model: str) -> list[str]:
    notes = []
    ours, theirs = (re.search(r"sha256 [0-9a-f]+|random weights \(seed \d+\)", text) for text in (model, audited))
    if ours and theirs and ours[0] != theirs[0]:
        notes.append(f"the report is of another model: {audited}")
    if curve.output_layers:
        notes.append(f"not masked, as its neurons are the classes: {', '.join(curve.output_layers)}")
    if curve.unranked:
        total = sum(map(len, curve.unranked.values()))
        notes.append(f"not masked, as their {curve.by} is NaN: {total:,} neurons of {', '.join(curve.unranked)}")
    return notes
