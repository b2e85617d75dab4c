"""``python -m neurosens_fast.env``: whole with the extension, helpful without it."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import build_config
from neurosens_fast import env
from tests.processes import Process


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
    process = Process(code="import runpy; runpy.run_module('neurosens_fast.env', run_name='__main__')")
    output, errors = process.communicate()
    facts = env.environment()
    assert (process.wait(), errors) == (0, "")
    for section in facts:
        assert f"\n{section}:\n" in "\n" + output
    for value in (facts["extension"]["compiler"], facts["torch"]["version"], facts["cpu"]["model"]):
        assert str(value) in output


def test_says_how_to_build_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "neurosens_fast._C", None)
    facts = env.environment()
    assert facts["extension"] == {"error": env.HOW_TO_BUILD}
    assert "pip install --no-build-isolation ." in env.format_environment(facts)
    assert facts["torch"]["version"]


def test_format_aligns_and_names_what_is_absent() -> None:
    text = env.format_environment({"gpu": {"devices": None}, "x": {"a": [], "long": ["1", "2"]}})
    assert text.splitlines() == ["gpu:", "  devices  none", "x:", "  a     none", "  long  1 2"]
