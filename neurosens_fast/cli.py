"""The command ``neurosens-fast``. Anything typed wrong gives one line and exit status 2."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="neurosens-fast",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _fraction(text: str) -> float:
    """``8/255`` or ``0.03`` as a number that is finite and at least 0."""
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise typer.BadParameter(f"{text!r} is not a number of at least 0; write 0.03 or 8/255")
    return value


def _version(wanted: bool) -> None:
    if wanted:
        from .audit.run import package_version

        typer.echo(f"neurosens-fast {package_version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Which neurons does an adversarial attack move most?

    Runs benign and adversarial inputs through a network together and reduces
    every layer to per-neuron statistics in one read.

    Begin with [bold]neurosens-fast demo[/]
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(
    out: Annotated[
        Path,
        typer.Option(
            file_okay=False, metavar="FOLDER", help="Folder for audit.safetensors, neurons.csv and sensitivity.png."
        ),
    ] = Path("demo-output"),
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, metavar="NUMBER", help="Seed of split, training and attack.")
    ] = 0,
    epochs: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Passes over the 1,258 training images.")] = 6,
    eps: Annotated[
        float,
        typer.Option(
            parser=_fraction, metavar="NUMBER", help="Largest change of a pixel, which lies in 0..1: 0.15 or 8/255."
        ),
    ] = "0.15",  # type: ignore[assignment]  # parsed like typed text
    steps: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Steps of the PGD attack.")] = 10,
    top: Annotated[
        int, typer.Option(min=0, metavar="NUMBER", help="How many of the most sensitive neurons to print.")
    ] = 15,
) -> None:
    """Train a small network on scikit-learn's digits, attack it with PGD, and rank its neurons by sensitivity.

    Needs no download and takes seconds. It writes three files:

    [bold]audit.safetensors[/]  the report, for AuditReport.load
    [bold]neurons.csv[/]        one row per neuron: every metric and its rank
    [bold]sensitivity.png[/]    each layer, and its sorted neurons

    Example: [bold]neurosens-fast demo --out demo-output --eps 0.2[/]
    """
    from .demo import run_demo

    run_demo(out, seed, epochs, eps, steps, top)


@app.command()
def env() -> None:
    """Print versions, the build and the machine, ready to paste into a bug report."""
    from .env import environment, format_environment

    typer.echo(format_environment(environment()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for anything typed wrong, 1 for any other failure."""
    command = typer.main.get_command(app)
    try:
        result = command.main(
            args=list(sys.argv[1:] if arguments is None else arguments),
            prog_name="neurosens-fast",
            standalone_mode=False,
        )
        if result == 130:  # typer turns Ctrl-C into this status without a word
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of typer, or of click in older versions of typer
            message = " ".join(error.format_message().split())
            return _complain(f"{message} (try: neurosens-fast --help)", 2)
        if type(error).__name__ == "ReportError":  # a file that cannot be read or written
            return _complain(str(error), 2)
        if isinstance(error, ModuleNotFoundError | OSError):
            return _complain(str(error), 1)
        raise


def _complain(message: str, status: int) -> int:
    print(f"neurosens-fast: {message}", file=sys.stderr)
    return status
