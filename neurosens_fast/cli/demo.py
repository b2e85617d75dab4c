"""``neurosens-fast demo``: a first look that needs no model and no data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import OutputFolder
from .parsing import fraction, seed_number

DEFAULT = Path("demo-output")


def run(
    out: Annotated[Path, typer.Option(file_okay=False, metavar="DIR", help="Folder for the results.")] = DEFAULT,
    seed: Annotated[int, typer.Option(parser=seed_number, metavar="N", help="Seed of split, training and attack.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Passes over the 1,258 training images.")] = 6,
    eps: Annotated[
        float,
        typer.Option(
            parser=fraction, metavar="NUMBER", help="Largest change of a pixel, which lies in 0..1: 0.15 or 8/255."
        ),
    ] = 0.15,
    steps: Annotated[int, typer.Option(min=0, metavar="N", help="Steps of the PGD attack.")] = 10,
    top: Annotated[int, typer.Option(min=0, metavar="N", help="How many of the most sensitive neurons to print.")] = 15,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that are in DIR (those in demo-output always are).")
    ] = False,
) -> None:
    """Train a small network on scikit-learn's digits, attack it with PGD, and rank its neurons by sensitivity.

    Needs no download and takes seconds. It writes five files:

    [bold]audit.safetensors[/]  the report, for neurosens-fast show
    [bold]neurons.csv[/]        one row per neuron: every metric and its rank
    [bold]sensitivity.png[/]    each layer, and its sorted neurons
    [bold]model.safetensors[/]  the network, for neurosens-fast audit
    [bold]explorer.html[/]      the page of its neurons, where bokeh is installed

    Examples:

    [bold]neurosens-fast demo --out demo-output --eps 0.2[/]
    [bold]neurosens-fast audit --model digits-cnn --data digits --eps 0.1 \\
        --weights demo-output/model.safetensors --out run1[/]
    """
    from neurosens_fast.demo import FILES, run_demo

    with OutputFolder(out, FILES, overwrite or out == DEFAULT).opened() as folder:
        run_demo(folder, seed, epochs, eps, steps, top)
