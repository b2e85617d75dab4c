"""``neurosens-fast compare``: two reports side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neurosens_fast.support.names import REPORT

from .output import OutputFolder, print_facts, print_notes, standard_output
from .parsing import count_or_share, one_of
from .show import read_report

FILES = ("comparison.csv", "neurons.csv", "comparison.png")


def run(
    a: Annotated[Path, typer.Argument(metavar="A", help=f"A report, or a folder that holds {REPORT}.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The report to compare it with, or its folder.")],
    by: Annotated[
        str,
        typer.Option("--by", metavar="METRIC", help="Metric to compare; neurosens-fast show --metrics lists them."),
    ] = "sensitivity",
    top: Annotated[
        Any,  # a count (int) or a share (float); typer takes no unions
        typer.Option(
            parser=count_or_share, metavar="K", help="How many of the largest neurons to match: a count, or a share."
        ),
    ] = "10%",
    moved: Annotated[
        int, typer.Option("--moved", min=0, metavar="N", help="How many neurons that climbed, and that fell, to print.")
    ] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the tables and a picture into this folder.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are in DIR.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Compare two reports: do the same neurons react, and how strongly?

    Layers are matched by name. For each layer and for all together: the means
    and their ratio, the rank correlation of the neurons, and how many of the
    most sensitive ones are the same; then the neurons whose rank changed most.
    Models, attacks and data may differ. With --out these are written to DIR:

    [bold]comparison.csv[/]  one row per layer
    [bold]neurons.csv[/]     one row per neuron: values and ranks in A and in B
    [bold]comparison.png[/]  the means of the layers, and each neuron

    [bold]neurosens-fast compare run1 run2[/]
    [bold]neurosens-fast compare run1 run2 --by relative_l1 --top 5% --out run1-run2[/]
    """
    from neurosens_fast.audit import compare
    from neurosens_fast.audit.storage import write_whole
    from neurosens_fast.audit.tables import accuracies, comparison_notes, counted, moved_table
    from neurosens_fast.statistics import METRICS
    from neurosens_fast.support.files import csv_content

    one_of(by, METRICS, "metric")
    folder = OutputFolder(out, FILES, overwrite) if out is not None else None
    (first, place_a), (second, place_b) = read_report(a), read_report(b)
    comparison = compare(first, second, by, top)
    console = standard_output(quiet)
    if folder is not None:
        with folder.opened() as path:
            comparison.to_csv(path / "comparison.csv")
            write_whole(path / "neurons.csv", csv_content(comparison.neurons()))
            comparison.plot(path / "comparison.png")
    for side, place, report in (("A", place_a, first), ("B", place_b, second)):
        print_facts(
            console,
            [
                (side, str(place)),
                ("data", "; ".join(report.data)),
                ("accuracy", accuracies(report)),
            ],
        )
    compared = counted(len(comparison.layers), "layer")
    print_facts(console, [("compared", f"{comparison.overall.neurons:,} neurons in {compared}")])
    console.print()
    console.print(comparison.table())
    console.print()
    if moved and any(comparison.moved(1)):
        console.print(moved_table(comparison, moved))
        console.print()
    print_notes(console, comparison_notes(comparison))
    if folder is not None:
        console.print(folder.written(), soft_wrap=True)
