"""The commands under one name, and the one place where an error becomes a line and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from . import attack, audit, bench, compare, demo, env, explore, fragility, layers, mask, reproduce, show, train
from .errors import complain, explain, kept, show_traceback, wants_traceback
from .interrupts import Ended
from .options import command

app = typer.Typer(
    name="neurosens-fast",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from neurosens_fast.audit.descriptions import package_version

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

    Begin with [bold]neurosens-fast demo[/], then audit a model of your own:

    [bold]neurosens-fast layers model.py:build --shape 3,32,32[/]
    [bold]neurosens-fast audit --model model.py:build --data data.py:load --out run1[/]
    [bold]neurosens-fast show run1[/]
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _module in (demo, audit, show, compare, layers, mask, fragility, explore, attack, train, reproduce, bench, env):
    command(app, _module.run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 for success, 2 for anything typed wrong, 1 for any other failure (a user's file or model that fails, a full
    disk), 130 for Ctrl-C, 143 for SIGTERM. An error is one line on the standard error stream.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = typer.main.get_command(app).main(args=words, prog_name="neurosens-fast", standalone_mode=False)
        if result == 130:  # typer turns Ctrl-C into this status without a word
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return complain("interrupted", 130)
    except Ended as error:
        return complain(f"{error}{kept(error)}", error.status)
    except (Exception, SystemExit) as error:
        explanation = explain(error)
        if explanation is None:
            raise
        if wants_traceback(words):
            show_traceback(error)
        line, status = explanation
        return complain(f"{line}{kept(error)}", status)
