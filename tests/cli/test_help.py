"""The help texts: every option, group, model, data set, attack and metric is there, with examples, in 80 columns."""

from __future__ import annotations

import pytest
import torch
import typer

from neurosens_fast.attacks.base import NORMS
from neurosens_fast.capture import LAYER_GROUPS
from neurosens_fast.cli import app
from neurosens_fast.cli.attacks import ATTACKS
from neurosens_fast.data import data_names
from neurosens_fast.models import NORMALIZATIONS, model_names

from .conftest import Run

COMMANDS = {command.name: command for command in typer.main.get_command(app).commands.values()}  # type: ignore[attr-defined]


def words(text: str) -> str:
    """The text without frames, on one line."""
    return " ".join(text.replace("│", " ").split())


def test_commands() -> None:
    assert list(COMMANDS) == [
        "demo",
        "audit",
        "show",
        "compare",
        "layers",
        "mask",
        "fragility",
        "explore",
        "attack",
        "train",
        "reproduce",
        "bench",
        "env",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str, run: Run) -> None:
    result = run(name, "--help")
    assert (result.status, result.err) == (0, "")
    text = words(result.out)
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert f"{option} " in text
    if name != "env":
        assert f"neurosens-fast {name} " in text.split("Usage", 1)[1].split(" ", 5)[5]
    assert max(map(len, result.out.splitlines())) <= 80
    assert run(name, "-h") == result


@pytest.mark.parametrize("name", ["audit", "mask", "attack", "layers"])
def test_names_are_listed(name: str, run: Run) -> None:
    text = words(run(name, "--help").out)
    known = [*model_names(), *NORMALIZATIONS]
    if name in ("audit", "mask"):
        known += LAYER_GROUPS
    if name != "layers":
        known += [
            *data_names(),
            *NORMS,
            *ATTACKS,
            "bfloat16",
            "float16",
            "float32",
            "float64",
        ]
    for spelling in known:
        assert spelling.replace("FILE.py:FUNCTION", "file.py:function") in text


def test_without_a_command_and_with_version(run: Run) -> None:
    result = run()
    assert result == run("--help")
    for name in COMMANDS:
        assert f"│ {name} " in result.out
    assert "neurosens-fast demo" in result.out
    assert run("--version").out.startswith("neurosens-fast ")
    assert str(torch.__version__) in run("env").out
