"""``python -m neurosens_fast.env``: whole with the extension, helpful without it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import build_config
from neurosens_fast import env


def test_environment_has_every_section_as_plain_values() -> None:
    facts = env.environment()
    assert list(facts) == ["extension", "python", "system", "torch", "cpu", "gpu", "packages"]
    assert json.loads(json.dumps(facts)) == facts
    assert facts["extension"]["version"] == build_config.version()
    assert facts["torch"]["version"] == str(torch.__version__)
    assert facts["torch"]["threads"] == torch.get_num_threads()
    assert facts["cpu"]["cores"] >= 1
    assert facts["packages"]["numpy"]


def test_command_prints_every_value() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "neurosens_fast.env"],
        cwd=build_config.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    facts = env.environment()
    assert done.stderr == ""
    for section in facts:
        assert f"\n{section}:\n" in "\n" + done.stdout
    for value in (facts["extension"]["compiler"], facts["torch"]["version"], facts["cpu"]["model"]):
        assert str(value) in done.stdout


def test_says_how_to_build_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "neurosens_fast._C", None)
    facts = env.environment()
    assert facts["extension"] == {"error": env.HOW_TO_BUILD}
    assert "pip install --no-build-isolation ." in env.format_environment(facts)
    assert facts["torch"]["version"]


def test_format_aligns_and_names_what_is_absent() -> None:
    text = env.format_environment({"gpu": {"devices": None}, "x": {"a": [], "long": ["1", "2"]}})
    assert text.splitlines() == ["gpu:", "  devices  none", "x:", "  a     none", "  long  1 2"]
