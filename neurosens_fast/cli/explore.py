"""``neurosens-fast explore``: a page on which one looks at what an attack does to each neuron."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from .explore_job import AttacksOptions, OtherOptions, PageOptions, Views, explorer_of, named_attacks, page_folder
from .interrupts import endings_told
from .options import AttackOptions, DataOptions, ModelOptions, RunOptions
from .output import print_facts, print_notes, standard_output
from .parsing import listed

NEURONS = "Neurons"
SHOWN = "What is shown"


def run(
    *,
    model: ModelOptions,
    other: OtherOptions,
    data: DataOptions,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST",
            help="Names of the classes, in order. Default: those of an imagefolder, or numbers.",
            rich_help_panel="Data",
        ),
    ] = None,
    attack: AttacksOptions,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Layer of the neurons. Default: the penultimate one, which the last linear layer reads.",
            rich_help_panel=NEURONS,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Report of neurosens-fast audit on the same model, whose measures are shown too.",
            rich_help_panel=NEURONS,
        ),
    ] = None,
    fragility: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The same of neurosens-fast fragility, with the same --layer.",
            rich_help_panel=NEURONS,
        ),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="How many images are shown one by one. Measures are over all samples.",
            rich_help_panel=SHOWN,
        ),
    ] = 1000,
    swap_images: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Images whose receptive fields are computed for the file.",
            rich_help_panel=SHOWN,
        ),
    ] = 8,
    swap_neurons: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="The same of neurons, most vulnerable first; with --serve the page asks for others.",
            rich_help_panel=SHOWN,
        ),
    ] = 64,
    projection: Annotated[
        Literal["auto", "pca", "umap"],
        typer.Option(
            metavar="NAME",
            help="How images become points: pca, umap, or auto, which is umap where umap-learn is installed.",
            rich_help_panel=SHOWN,
        ),
    ] = "auto",
    computing: RunOptions,
    page: PageOptions,
) -> None:
    """Look at what an attack does to neurons, on an interactive page.

    --out writes one HTML file that needs nothing else and opens by double
    click; --serve shows the same page from this machine, to this machine
    only, and computes receptive fields that the file leaves out.
    --attack takes several names, separated by commas.

    A network that neurosens-fast demo trained:

    [bold]neurosens-fast explore --model digits-cnn --data digits --eps 0.05,0.1,0.2 \\
        --weights demo-output/model.safetensors --out page.html[/]
    """
    from neurosens_fast.support.packages import import_package

    from .prepare import load_network, prepare

    folder = page_folder(page)
    for package in ("bokeh", "scipy"):
        import_package(package, "explore needs", extra="explore")
    if page.serve:
        _check_port(page.port_number)
    attacks = named_attacks(attack, computing.seed)
    views = Views(layer, images, swap_images, swap_neurons, projection, tuple(listed(classes or ())))
    views.load(report, fragility)
    second = other.options(model)
    # whatever a second model's name or weights lack is found before data are read
    network = None if second is None else load_network(second.model, second, computing.seed)
    subject = prepare(model, data, AttackOptions(attack="none"), computing, lambda network: None)
    subject.attack_description = attacks.description
    console = standard_output(page.quiet)
    with endings_told(), nullcontext() if folder is None else folder.opened():
        facts = subject.facts()
        if network is not None:
            facts.insert(1, ("other", network[1]))
        print_facts(console, facts)
        names = other.names(model)
        progress = page.progress and not page.quiet
        explorer = explorer_of(subject, attacks, views, network, names, data, computing.seed, progress)
        notes = [note for one in explorer.explorations for note in one.notes]
        console.print()
        print_notes(console, dict.fromkeys(notes))
        if page.out is not None:
            size = explorer.save(page.out, page.bytes, lambda notes: print_notes(console, notes))
            console.print(f"written: {page.out}, {size / 1e6:.1f} MB", soft_wrap=True)
        if page.serve:
            from neurosens_fast.explorer.explorer import wait_for_interrupt

            with explorer.served(page.port_number, page.bytes) as url:
                console.print(f"the page is at {url} until Ctrl-C", soft_wrap=True)
                wait_for_interrupt()


def _check_port(port: int) -> None:
    """``ValueError`` for a port that cannot be had, before anything costs time."""
    from neurosens_fast.explorer.server import bound

    for socket in bound(port):
        socket.close()
