"""``neurosens-fast fragility``: which neurons does a model need, and does it help to strengthen them?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from neurosens_fast.support.names import FRAGILITY_REPORT

from .fragility_job import REPAIR_FILES, TARGET_FILES, FragilityJob
from .interrupts import endings_told
from .levels import LevelOptions, attack_maker, fractions
from .options import AttackOptions, DataOptions, ModelOptions, OutputOptions, RunOptions
from .output import OutputFolder, print_facts, print_notes, print_table, standard_output
from .parsing import fraction, listed, one_of

if TYPE_CHECKING:
    from neurosens_fast.audit.document.content import Table


PANEL = "Neurons"
FILES = (FRAGILITY_REPORT, "neurons.csv", "fragility.png", "report.md")


def run(
    *,
    model: ModelOptions,
    data: DataOptions,
    attack: LevelOptions,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Layer of the neurons. Default: the first convolution.", rich_help_panel=PANEL
        ),
    ] = None,
    where: Annotated[
        Literal["before_norm", "after_norm"],
        typer.Option(
            metavar="NAME",
            help="before_norm: set the layer's own output to zero; after_norm: that of the norm that reads it.",
            rich_help_panel=PANEL,
        ),
    ] = "after_norm",
    protocol: Annotated[
        Literal["fixed", "adaptive"],
        typer.Option(
            metavar="NAME",
            help="fixed: attack the whole model once; adaptive: every model without a neuron anew, which takes longer.",
            rich_help_panel=PANEL,
        ),
    ] = "fixed",
    threshold: Annotated[
        float | None,
        typer.Option(
            parser=fraction,
            metavar="SHARE",
            help="Change of accuracy from which a neuron is fragile or antifragile. Default: one standard error.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    target: Annotated[
        bool,
        typer.Option(
            "--target/--no-target",
            help="Which neurons does the attack hit most, and are these the fragile ones? Needs scipy.",
            rich_help_panel=PANEL,
        ),
    ] = True,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Compress robust neurons, amplify fragile ones. Neurons are then judged on half of the samples; a "
            "quarter picks the factor, a quarter judges it.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    compress: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST",
            help="Factors of --repair for robust neurons. Default: 0.95,0.9,0.75,0.5,0.25.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="LIST",
            help="Remove weights by size, layer by layer: high, low or pulse, or several with commas.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="Run the model as it is, whole, for each sample and neuron.", rich_help_panel="Computing"
        ),
    ] = False,
    computing: RunOptions,
    output: OutputOptions,
    top: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many neurons tables show.", rich_help_panel="Output")
    ] = 10,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where a run in DIR was ended, if there is one.", rich_help_panel="Output"),
    ] = False,
    save_every: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How often to save for --resume.", rich_help_panel="Output"),
    ] = 10.0,
) -> None:
    """Find the neurons that a model needs: accuracy without each of them.

    Sets each neuron of a layer to zero in turn (nodal dropout), clean and
    under an attack of several strengths, and says which neurons are fragile,
    robust or antifragile. Files in DIR:

    [bold]fragility.safetensors[/]  the report, for FragilityReport.load
    [bold]neurons.csv[/]            one row per neuron and eps: scores, errors, classes
    [bold]fragility.png[/], [bold]report.md[/]
    [bold]hits.csv[/], [bold]correlations.csv[/], [bold]targeting.png[/]   unless --no-target
    [bold]repair.csv[/], [bold]repair.png[/], [bold]repaired.safetensors[/]   with --repair
    [bold]filter-high.csv[/], [bold]filter-high.png[/], ...   with --filter

    A network that neurosens-fast demo trained:

    [bold]neurosens-fast fragility --model digits-cnn --data digits --eps 0.05,0.1,0.2 \\
        --weights demo-output/model.safetensors --out fragile1[/]
    """
    from neurosens_fast.audit.checkpoint import unfinished
    from neurosens_fast.fragility import FILTER_KINDS, FragilityReport, nodal_dropout
    from neurosens_fast.fragility.checkpoint import CountsState
    from neurosens_fast.fragility.document import class_table, neuron_table, to_markdown
    from neurosens_fast.fragility.place import check_layer
    from neurosens_fast.support.files import write_whole
    from neurosens_fast.support.packages import import_package

    from .fragility_data import cut_in_parts, whole
    from .prepare import prepare

    if output.overwrite and resume:
        raise ValueError("--resume goes on with what --overwrite would replace; drop one")
    if compress and not repair:
        raise ValueError("--compress says nothing without --repair; add it")
    kinds = [one_of(kind, FILTER_KINDS, "filter") for kind in dict.fromkeys(listed(filters or ()))]
    factors = _factors(compress or ())
    if target:
        import_package("scipy.stats", "targeting, which --no-target leaves out, needs", extra="fragility")
    levels, maker, description = attack_maker(attack, computing.seed)
    present = unfinished(output.out, CountsState.stem)
    if present and not resume and not output.overwrite:
        raise ValueError(f"{output.out} holds an unfinished run; go on with --resume, or begin anew with --overwrite")
    files = (
        *FILES,
        *(TARGET_FILES if target else ()),
        *(REPAIR_FILES if repair else ()),
        *(f"filter-{kind}.{suffix}" for kind in kinds for suffix in ("csv", "png")),
    )
    folder = OutputFolder(output.out, files, output.overwrite or resume)
    unattacked = AttackOptions(attack="none")
    subject = prepare(model, data, unattacked, computing, lambda network: check_layer(network, layer, where))
    subject.attack_description = f"{description}, eps {', '.join(f'{level:g}' for level in levels)}"
    if repair:
        parts = cut_in_parts(subject, computing.seed, data.max_samples)
    else:
        parts = whole(subject, 1 + target + len(kinds))
    subject.data_description = parts.description
    sizes = data.batch_size, data.max_samples
    job = FragilityJob(subject, parts, levels, maker, description, *sizes, computing.seed, output)
    console = standard_output(output.quiet)
    with endings_told(), folder.opened() as path:
        if output.overwrite:
            for file in (*unfinished(path, CountsState.stem), path / FRAGILITY_REPORT):
                file.unlink(missing_ok=True)
        print_facts(console, [*subject.facts(), ("dropped", f"{layer or 'first convolution'}, {where}, {protocol}")])
        report_file = path / FRAGILITY_REPORT
        if resume and not present and report_file.exists():
            report = FragilityReport.load(report_file)
            job.check_same(report, layer, where, protocol)
        else:
            report = nodal_dropout(
                subject.model,
                parts.measured,
                layer,
                maker,
                levels,
                protocol,
                where,
                plain=plain,
                attack_description=description,
                data_description=parts.description,
                model_description=subject.model_description,
                checkpoint=path,
                checkpoint_seconds=save_every,
                resume=resume,
                **job.common(dtype=True),
            )
        with _dropout_kept(path):
            report.to_csv(path / "neurons.csv", threshold)
            report.plot(path / "fragility.png", threshold)
            tables: list[Table] = []
            pictures: dict[str, str] = {}
            if target:
                tables += job.target(report, path, top, pictures)
            if repair:
                tables.append(job.repair(report, path, factors, threshold, pictures))
            for kind in kinds:
                tables.append(job.filter(kind, path, pictures))
            text = to_markdown(report, max(20, top), "fragility.png", tables, pictures, threshold)
            write_whole(path / "report.md", text.encode())
    for table in (class_table(report, threshold), neuron_table(report, top), *tables):
        print_table(console, table)
    console.print()
    print_notes(console, report.notes)
    console.print(folder.written(), soft_wrap=True)


def _factors(words: Sequence[str]) -> list[float]:
    factors = fractions(words, "--compress")
    for factor in factors:
        if not 0 < factor <= 1:
            raise ValueError(f"--compress {factor:g} is not a factor in (0, 1]")
    if factors and min(factors) == 1:
        raise ValueError("--compress 1 repairs nothing; give factors below 1, as in 0.75,0.5")
    return factors


@contextmanager
def _dropout_kept(folder: Path) -> Iterator[None]:
    """Errors inside tell that the dropout is complete in ``folder``, so that ``--resume`` need not repeat it."""
    from neurosens_fast.audit.kept import note_kept
    from neurosens_fast.fragility.checkpoint import CountsState

    try:
        yield
    except BaseException as error:
        note_kept(error, folder, CountsState.noun)
        raise
