"""``neurosens-fast env``: what a bug report needs."""

from __future__ import annotations

import typer


def run() -> None:
    """Print versions, the build and the machine, ready to paste into a bug report."""
    from neurosens_fast.env import environment, format_environment

    typer.echo(format_environment(environment()))
