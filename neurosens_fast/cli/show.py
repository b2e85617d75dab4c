"""``neurosens-fast show``: a report as tables, a picture, a document, CSV or Parquet."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosens_fast.support.names import REPORT

from .output import print_facts, print_notes, standard_output
from .parsing import count_or_share, one_of

if TYPE_CHECKING:
    from neurosens_fast.audit import AuditReport


def _list_metrics(wanted: bool) -> None:
    if wanted:
        from rich.padding import Padding

        from neurosens_fast.statistics import METRICS, NOTATION

        console = standard_output()
        for metric in METRICS.values():
            console.print(metric.name, style="bold")
            console.print(Padding(f"{metric.description}\n{metric.source}", (0, 0, 0, 4)))
        console.print(f"\n{NOTATION}")
        raise typer.Exit


def run(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help=f"A report, or a folder that holds {REPORT}.")],
    by: Annotated[
        str, typer.Option("--by", metavar="METRIC", help="Metric that ranks the neurons; --metrics lists them.")
    ] = "sensitivity",
    top: Annotated[
        Any,  # a count (int) or a share (float); typer takes no unions
        typer.Option(parser=count_or_share, metavar="N", help="How many neurons: a count, or a share as in 5%."),
    ] = 15,
    layer: Annotated[str | None, typer.Option("--layer", metavar="NAME", help="Of this layer only.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Print the summary per layer only.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the metric: .png, .svg or .pdf.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write all layers as a document, one HTML file.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="The same as Markdown, with its picture FILE.png beside it."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write one row per neuron with every metric.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", metavar="FILE", help="The same as Parquet; needs pyarrow.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    metrics: Annotated[
        bool,
        typer.Option(
            "--metrics", callback=_list_metrics, is_eager=True, help="List every metric with its formula and source."
        ),
    ] = False,
) -> None:
    """Show a report: per layer, and the neurons that react most.

    [bold]neurosens-fast show run1[/]
    [bold]neurosens-fast show run1 --by cosine_distance --top 5% --layer conv2[/]
    [bold]neurosens-fast show run1 --layers --plot layers.pdf --csv neurons.csv[/]
    [bold]neurosens-fast show run1 --by relative_l1 --html report.html[/]
    [bold]neurosens-fast show --metrics[/]
    """
    from neurosens_fast.audit.document import picture_of
    from neurosens_fast.audit.tables import layer_table, neuron_table, report_notes
    from neurosens_fast.statistics import METRICS

    one_of(by, METRICS, "metric")
    if parquet is not None and find_spec("pyarrow") is None:
        raise ModuleNotFoundError("--parquet needs pyarrow; type: pip install pyarrow")
    found, place = read_report(report)
    if layer is not None:
        one_of(layer, found.layers, "layer")
    picture = None if markdown is None else picture_of(markdown)
    written = [path for path in (plot, html, markdown, picture, csv, parquet) if path is not None]
    for path in written:
        if path.resolve() == place.resolve():
            raise ValueError(f"{path} is the report itself; choose another name")
        if sum(path.resolve() == other.resolve() for other in written) > 1:
            raise ValueError(f"{path} is named twice; choose another name for one of the files")
        if path.exists() and not overwrite:
            raise ValueError(f"{path} is there already; choose another name, or add --overwrite")
    if plot is not None:
        found.plot(plot, by)
    if html is not None:
        found.save_html(html, by, top)
    if markdown is not None:
        found.save_markdown(markdown, by, top)
    if csv is not None:
        found.to_csv(csv, by)
    if parquet is not None:
        _write_parquet(found, parquet, by)
    console = standard_output()
    print_facts(console, report_facts(found))
    console.print()
    console.print(layer_table(found, by, layer))
    console.print()
    if top and not layers:
        console.print(neuron_table(found, top, by, layer))
        console.print()
    print_notes(console, report_notes(found))
    if written:
        console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)


def read_report(path: Path) -> tuple[AuditReport, Path]:
    """The report in a file, or in a folder that holds ``audit.safetensors``, and the path of that file."""
    from neurosens_fast.audit import AuditReport

    place = path / REPORT if path.is_dir() else path
    if path.is_dir() and not place.exists():
        raise ValueError(f"the folder {path} holds no {REPORT}; neurosens-fast audit --out {path} would write one")
    return AuditReport.load(place), place


def report_facts(report: AuditReport) -> list[tuple[str, str]]:
    """Labels and values: what was audited, and how."""
    from neurosens_fast.audit.tables import accuracies, counted

    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return [
        ("model", report.model),
        ("data", "; ".join(report.data)),
        ("attack", report.attack),
        ("layers", report.layer_choice),
        ("on", f"{report.device}, {report.dtype}, seed {', '.join(map(str, report.seeds))}; {versions}"),
        ("audit", f"{report.neurons:,} neurons in {counted(len(report.layers), 'layer')}, {report.samples:,} pairs"),
        ("accuracy", accuracies(report)),
    ]


def _write_parquet(report: AuditReport, path: Path, by: str) -> None:
    from neurosens_fast.audit.storage import write_whole

    stream = io.BytesIO()
    report.to_pandas(by).to_parquet(stream, index=False)
    write_whole(path, stream.getvalue())
