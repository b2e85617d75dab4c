"""``neurosens-fast reproduce``: the paper's three claims in one command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .options import DATA, MODELS, DeviceOptions, Quiet
from .output import print_facts, standard_output
from .parsing import fraction


def run(
    *,
    data: Annotated[
        str, typer.Option("--data", metavar="DATA", help=f"{DATA}.".replace("[", r"\["), rich_help_panel="Data")
    ] = "digits",
    samples: Annotated[
        int | None, typer.Option(min=10, metavar="N", help="Training samples, drawn at random.", rich_help_panel="Data")
    ] = None,
    test_samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Test samples, drawn at random.", rich_help_panel="Data")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the data set into DIR if it is not there.", rich_help_panel="Data")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", help=f"{MODELS}. Default: the one of the data.", rich_help_panel="Model"
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Of PGD training; others follow by budget.", rich_help_panel="Size"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Models of each method. Default: 3.", rich_help_panel="Size")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="PGD steps in training. Default: 7.", rich_help_panel="Size")
    ] = None,
    eps: Annotated[
        float | None,
        typer.Option(
            parser=fraction, metavar="NUMBER", help="Largest change of an input, in Linf.", rich_help_panel="Size"
        ),
    ] = None,
    where: DeviceOptions,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the results; goes on there.", rich_help_panel="Output")
    ],
    quiet: Quiet = False,
) -> None:
    """Do the paper's three claims hold here?

    Trains standard, PGD-AT, TRADES, ALP, vulnerability suppression and SNS
    at equal budget with several seeds, masks neurons, measures robustness
    and sensitivity, and writes [bold]report.md[/] with tables and figures to DIR.
    Stopped at any point, the same command goes on.

    [bold]neurosens-fast reproduce --data digits --out claims[/]
    """
    from neurosens_fast.reproduce import WRITTEN, reproduce

    from .prepare import place

    device = place(where)
    console = standard_output(quiet)
    begin = time.perf_counter()
    given = {
        "model": model, "epochs": epochs, "seeds": seeds, "steps": steps, "eps": eps, "samples": samples,
        "test_samples": test_samples,
    }  # fmt: skip
    found = reproduce(
        data,
        out,
        download=download,
        device=device,
        say=lambda text: console.print(f"{time.perf_counter() - begin:6.0f} s  {text}"),
        **{name: value for name, value in given.items() if value is not None},
    )
    console.print()
    print_facts(console, [(f"claim {number}", str(verdict)) for number, verdict in enumerate(found.verdicts, 1)])
    console.print(f"written to {out}: {', '.join(WRITTEN)}", soft_wrap=True)
