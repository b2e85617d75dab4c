"""Failures after the arguments were right: one line, the right status, and no folder left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neurosens_fast.cli.errors import explain
from neurosens_fast.support.userfile import call_user_function

from .conftest import OWN_FILE, Run

OUT_OF_MEMORY = "out of memory; make the batch (--batch-size) or the inputs smaller"


def line(text: str) -> int:
    """The number of the line of the person's file that holds ``text``."""
    return next(number for number, code in enumerate(OWN_FILE.splitlines(), 1) if text in code)


@pytest.mark.parametrize(
    ("options", "status", "part"),
    [
        ({"model": "fails", "attack": "none"}, 1, f"own.py, line {line('missing')}, in forward: KeyError: 'missing' ("),
        ({"attack": "failing"}, 1, f"own.py, line {line('luck')}, in attack: ValueError: no such luck (--traceback "),
        ({"attack": "impatient"}, 130, "interrupted"),
        ({"attack": "no_attack"}, 2, "own.py:no_attack returned a int; it must return a callable"),
        ({"attack": "nose"}, 2, "did you mean noise?"),
        ({"attack": "build"}, 2, "own.py:build takes no argument model"),
        ({"model": "quits"}, 1, f"own.py:quits failed in line {line('Exit')} with SystemExit: 3"),
        ({"data": "no_attack"}, 2, "own.py:no_attack is called without model"),
        ({"layers": "blocks,5"}, 2, "the model has no layer '5'"),
    ],
)
def test_one_line(options: dict[str, str], status: int, part: str, run: Run, own: Path) -> None:
    chosen = {"model": "build", "data": "load", "attack": "noise", **options}
    words = [
        f"--{name}={value if name == 'layers' or value == 'none' else f'{own}:{value}'}"
        for name, value in chosen.items()
    ]
    result = run("audit", *words, "--out", own.parent / "a" / "b")
    assert result.status == status
    assert result.err.startswith("neurosens-fast: ")
    assert result.err.count("\n") == 1
    assert part in result.err
    assert [path.name for path in own.parent.iterdir()] == ["own.py"]


def test_traceback_on_request(run: Run, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("layers", f"{own}:fails", "--shape", "2")
    assert "Traceback" not in run(*words).err
    shown = run(*words, "--traceback")
    assert shown.status == 1
    assert "Traceback (most recent call last)" in shown.err
    assert 'return {}["missing"]' in shown.err
    assert shown.err.splitlines()[-1].startswith("neurosens-fast: ")
    monkeypatch.setenv("NEUROSENS_FAST_TRACEBACK", "1")
    assert "Traceback" in run(*words).err
    monkeypatch.setenv("NEUROSENS_FAST_TRACEBACK", "0")
    assert "Traceback" not in run(*words).err


def test_a_file_that_does_not_compile(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def build(:\n    pass\n")
    result = run("layers", f"{tmp_path}/broken.py:build")
    assert result.status == 1
    assert "broken.py:build failed in line 1 with SyntaxError" in result.err


def test_memory_and_other_modules(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    for error, status, message in (
        (
            MemoryError("out of memory with 64 pairs at once"),
            1,
            OUT_OF_MEMORY,
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            1,
            OUT_OF_MEMORY,
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ):

        def fail(*arguments: object, error: BaseException = error, **options: object) -> None:
            raise error

        monkeypatch.setattr("neurosens_fast.demo.run_demo", fail)
        assert run("demo", "--out", tmp_path) == (status, "", f"neurosens-fast: {message}\n")


def test_the_line_names_a_users_file_that_the_message_does_not(own: Path) -> None:
    def wrapped() -> None:
        try:
            call_user_function(f"{own}:fails")(torch.zeros(1))
        except KeyError as cause:
            raise ValueError("the model fails") from cause

    with pytest.raises(ValueError, match="the model fails") as caught:
        wrapped()
    own_error = caught.value.with_traceback(_raised_in_the_package())
    explained = explain(own_error)
    assert explained is not None
    assert explained[1] == 1
    assert "the model fails; " in explained[0]
    assert f"own.py, line {line('missing')}, in forward: KeyError: 'missing'" in explained[0]


def test_causes_that_go_in_circles_end() -> None:
    error = ValueError("round and round").with_traceback(_raised_in_the_package())
    error.__cause__ = error
    assert explain(error) == ("round and round", 2)


def test_leaving_is_no_error_unless_a_users_file_does_it() -> None:
    assert explain(SystemExit(0).with_traceback(_raised_in_the_package())) is None


def _raised_in_the_package():  # type: ignore[no-untyped-def]
    """A traceback whose innermost frame is in this package."""
    from neurosens_fast.cli.parsing import axes

    with pytest.raises(ValueError, match="NAME=AXIS") as caught:
        axes(["x"])
    return caught.tb
