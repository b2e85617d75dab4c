"""``neurosens-fast audit``: any model, data and attack; every neuron's sensitivity."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from neurosens_fast.support.names import REPORT

from .interrupts import endings_told
from .options import GROUPS, AttackOptions, DataOptions, ModelOptions, OutputOptions, RunOptions
from .output import OutputFolder, print_facts, print_notes, standard_output
from .parsing import axes, listed

if TYPE_CHECKING:
    from neurosens_fast.audit import AuditReport

    from .prepare import Subject

CLASSES = "classes.csv"
SCORES = "scores"
FILES = (REPORT, "neurons.csv", "sensitivity.png", "report.md", "report.html")


def run(
    *,
    model: ModelOptions,
    data: DataOptions,
    attack: AttackOptions,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            metavar="TEXT",
            help=f"{GROUPS}, a name as in layer1.0.relu, or a glob as in 'layer1.*'. Several with commas, or by "
            "giving the option again. Default: activations.",
            rich_help_panel="Layers",
        ),
    ] = None,
    channel_dim: Annotated[
        list[str] | None,
        typer.Option(
            "--channel-dim",
            metavar="NAME=AXIS",
            help="Channel axis of layers where the usual one is wrong, as in 'blocks.*=-1'. Can be given again.",
            rich_help_panel="Layers",
        ),
    ] = None,
    tokens: Annotated[
        Literal["all", "cls", "last"],
        typer.Option(
            metavar="NAME",
            help="Positions of token layouts that count: all, cls (the first) or last. Padding by an attention_mask in "
            "dict inputs never does.",
            rich_help_panel="Layers",
        ),
    ] = "all",
    fuse: Annotated[
        bool,
        typer.Option(
            "--fuse/--no-fuse",
            help="Measure on a private copy with folded batch norm, ReLUs in one pass; or on the model as it is.",
            rich_help_panel="Computing",
        ),
    ] = True,
    computing: RunOptions,
    output: OutputOptions,
    by_class: Annotated[
        bool,
        typer.Option("--by-class", help=f"Sensitivity for each class too; writes {CLASSES}.", rich_help_panel="Output"),
    ] = False,
    scores: Annotated[
        bool,
        typer.Option(
            "--scores",
            help=f"How much each sample shakes the model; writes Parquet files to DIR/{SCORES}.",
            rich_help_panel="Output",
        ),
    ] = False,
    top: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="How many of the most sensitive neurons to print.", rich_help_panel="Output"
        ),
    ] = 15,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on where an audit in DIR was ended, if there is one.", rich_help_panel="Output"
        ),
    ] = False,
    save_every: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How often to save for --resume.", rich_help_panel="Output"),
    ] = 10.0,
    workers: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Processes that read the data; 0: this one.", rich_help_panel="Data"),
    ] = 0,
) -> None:
    """Measure how strongly every neuron of a model reacts to an attack.

    Benign and attacked inputs run through the model together; every chosen
    layer is read once. Five files are written to DIR:

    [bold]audit.safetensors[/]  the report, for neurosens-fast show
    [bold]neurons.csv[/]        one row per neuron: every metric and its rank
    [bold]sensitivity.png[/]    each layer, and its sorted neurons
    [bold]report.md[/]          all of it as a document, with that picture
    [bold]report.html[/]        the same as one page that needs no other file

    A network that neurosens-fast demo trained:

    [bold]neurosens-fast audit --model digits-cnn --data digits --eps 0.15 \\
        --weights demo-output/model.safetensors --out run1[/]

    Images in folders, one per class; all convolutions of a model of torchvision:

    [bold]neurosens-fast audit --model torchvision:resnet50 --normalize imagenet \\
        --weights resnet50.pth --data imagefolder:val@224 \\
        --layers convolutions --max-samples 1000 --out run2[/]

    Your own code; model.py holds def build(), data.py holds def load():

    [bold]neurosens-fast audit --model model.py:build --data data.py:load --out run3[/]

    By two processes; the same line goes on after whatever ended it:

    [bold]torchrun --nproc-per-node 2 -m neurosens_fast audit --resume \\
        --model model.py:build --data data.py:load --out run4[/]
    """
    from neurosens_fast.audit import audit, read_scores
    from neurosens_fast.audit.checkpoint import unfinished
    from neurosens_fast.audit.scores import score_parts
    from neurosens_fast.audit.storage import write_whole
    from neurosens_fast.audit.tables import (
        accuracies,
        counted,
        layer_table,
        neuron_table,
        report_notes,
        sample_table,
        tap_line,
    )
    from neurosens_fast.capture import Taps
    from neurosens_fast.support.files import csv_content
    from neurosens_fast.support.processes import process_group, rank_and_world, wait_for_all

    from .prepare import prepare

    if output.overwrite and resume:
        raise ValueError("--resume goes on with what --overwrite would replace; drop one")
    present = unfinished(output.out)
    if present and not resume and not output.overwrite:
        raise ValueError(f"{output.out} holds an unfinished audit; go on with --resume, or begin anew with --overwrite")

    chosen = listed(layers or ()) or ["activations"]
    channels = axes(channel_dim or ())
    files = (*FILES, *([CLASSES] if by_class else []), *([SCORES] if scores else []))
    folder = OutputFolder(output.out, files, output.overwrite or resume)
    found: dict[str, int] = {}
    subject = prepare(
        model,
        data,
        attack,
        computing,
        lambda network: found.update(modules=len(Taps(network, chosen, channels).selection.modules)),
    )
    complete = _complete(output.out, subject) if resume and not present else None
    with endings_told(), process_group(subject.device), folder.opened() as path:
        rank, world = rank_and_world()
        console = standard_output(output.quiet or rank > 0)
        if output.overwrite and rank == 0:
            for file in (*unfinished(path), path / REPORT, *score_parts(path / SCORES)):
                file.unlink(missing_ok=True)
        wait_for_all()
        print_facts(
            console, [*subject.facts(), ("layers", f"{', '.join(chosen)}: {counted(found['modules'], 'module')}")]
        )
        begin = time.perf_counter()
        report = complete or audit(
            subject.model,
            subject.data,
            subject.attack,
            chosen,
            channel_dims=channels,
            tokens=tokens,
            device=subject.device,
            dtype=subject.dtype,
            batch_size=data.batch_size,
            max_samples=data.max_samples,
            progress=output.progress and not output.quiet,
            seed=computing.seed,
            model_description=subject.model_description,
            data_description=subject.data_description,
            attack_description=subject.attack_description,
            workers=workers,
            checkpoint=path,
            checkpoint_seconds=save_every,
            resume=resume,
            distributed=world > 1,
            fuse=fuse,
            by_class=by_class,
            scores=path / SCORES if scores else None,
        )
        taken = time.perf_counter() - begin
        if rank > 0:
            return
        report.to_csv(path / "neurons.csv")
        if by_class:
            write_whole(path / CLASSES, csv_content(report.classes_to_pandas()))
        picture = path / "sensitivity.png"
        report.plot(picture)
        report.save_markdown(path / "report.md", picture=picture)
        report.save_html(path / "report.html", picture=picture)
    measured = (
        f"{report.neurons:,} neurons in {counted(len(report.layers), 'layer')}, {report.samples:,} pairs; "
        f"with the attack {taken:.1f} s"
    )
    print_facts(console, [("audit", measured), ("taps", tap_line(report)), ("accuracy", accuracies(report))])
    console.print()
    console.print(layer_table(report))
    console.print()
    if top:
        console.print(neuron_table(report, top))
        console.print()
    if scores:
        console.print(sample_table(read_scores(folder.path / SCORES), top))
        console.print()
    print_notes(console, report_notes(report))
    console.print(folder.written(), soft_wrap=True)


def _complete(folder: Path, subject: Subject) -> AuditReport | None:
    """The report that an audit of the same left in ``folder``, whose other files may be missing; None without one."""
    from neurosens_fast.audit import AuditReport

    path = folder / REPORT
    if not path.exists():
        return None
    report = AuditReport.load(path)
    wanted = (subject.model_description, subject.attack_description, (subject.data_description,))
    if (report.model, report.attack, report.data) != wanted:
        raise ValueError(f"{path} is a complete report of another audit; choose another folder, or add --overwrite")
    return report
