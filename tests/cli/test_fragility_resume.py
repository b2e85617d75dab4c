"""``neurosens-fast fragility --resume``: after Ctrl-C, in folders that are complete, and in those of other runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas
import pytest

from neurosens_fast.cli import main

from .conftest import Run, undrawn
from .fragility_run import fine, names, words


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete run of ``words("load", "tiny.py:counting", "--no-target")``; tests do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(Path(__file__).with_name("tiny.py"), folder)
    with pytest.MonkeyPatch.context() as patch:
        undrawn(patch)
        patch.chdir(folder)
        assert main(words("load", "tiny.py:counting", "--no-target", "--quiet")) == 0
    return folder / "out"


@pytest.mark.parametrize("calls", [3, 11])
def test_ctrl_c_then_resume(calls: int, run: Run, quick: Path) -> None:
    """Of 32 samples in 4 batches under two strengths: in the second batch, and during targeting after the dropout."""
    fine(run(*words("load", "tiny.py:counting", "--out", "whole")))
    (quick / "calls").unlink()
    (quick / "last").write_text(str(calls))
    ended = run(*words("load", "tiny.py:counting"))
    assert ended.status == 130
    assert ended.err == (
        "neurosens-fast: interrupted; what was done is kept in out, the same command with --resume goes on\n"
    )
    (quick / "last").unlink()
    if calls == 3:
        unfinished = "fragility.unfinished-0-of-1.safetensors"
        assert names(quick / "out") == [unfinished]
        refused = run(*words("load", "tiny.py:counting"))
        assert (refused.status, refused.out) == (2, "")
        assert refused.err == (
            "neurosens-fast: out holds an unfinished run; go on with --resume, or begin anew with --overwrite\n"
        )
        other = run(*words("load", "tiny.py:counting", "--resume", "--eps", "0.02,0.2"))
        assert other.status == 2
        assert "is of another nodal dropout, eps: " in other.err
        assert names(quick / "out") == [unfinished]
    (quick / "calls").unlink()
    fine(run(*words("load", "tiny.py:counting", "--resume")))
    # Eight calls measure everything and eight hit; one batch of the dropout was done, or all were.
    assert len((quick / "calls").read_text()) == (8 - 2 if calls == 3 else 0) + 8
    assert names(quick / "out") == names(quick / "whole")
    for name in names(quick / "out"):
        assert (quick / "out" / name).read_bytes() == (quick / "whole" / name).read_bytes(), name


def test_an_interruption_before_anything_is_done(run: Run, quick: Path) -> None:
    (quick / "last").write_text("0")
    ended = run(*words("load", "tiny.py:counting"))
    assert (ended.status, ended.err) == (130, "neurosens-fast: interrupted\n")
    assert not (quick / "out").exists()


def test_resume_of_a_finished_folder(run: Run, quick: Path) -> None:
    fine(run(*words("load", "tiny.py:counting")))
    written = {name: (quick / "out" / name).read_bytes() for name in names(quick / "out")}
    for name in ("neurons.csv", "report.md", "hits.csv"):
        (quick / "out" / name).unlink()
    (quick / "calls").unlink()
    fine(run(*words("load", "tiny.py:counting", "--resume")))
    assert {name: (quick / "out" / name).read_bytes() for name in names(quick / "out")} == written
    assert len((quick / "calls").read_text()) == 8, "targeting alone attacked anew"
    fine(run(*words("load", "tiny.py:counting", "--resume", "--no-target", "--threshold", "0.5", "--layer", "0")))
    assert len((quick / "calls").read_text()) == 8
    assert "fragile" not in set(pandas.read_csv(quick / "out" / "neurons.csv").clean_class)


@pytest.mark.parametrize(
    "other",
    [
        "--eps 0.02,0.2",
        "--eps 0.05,0.02",
        "--attack tiny.py:attack",
        "--attack fgsm",
        "--layer 3",
        "--where before_norm",
        "--protocol adaptive",
        "--seed 1",
        "--dtype float64",
        "--max-samples 16",
        "--data tiny.py:tensors",
        "--repair",
    ],
)  # fmt: skip
def test_a_finished_folder_of_another_run(other: str, run: Run, quick: Path, finished: Path) -> None:
    common = ("--resume", "--no-target", "--out", str(finished))
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    refused = run(*words("load", "tiny.py:counting", *common, *other.split()))
    assert refused.status == 2
    assert refused.err == (
        f"neurosens-fast: {finished} holds a complete report of another run; choose another folder, or add "
        "--overwrite\n"
    )
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_the_default_is_not_taken_for_a_layer_that_was_named(run: Run, quick: Path) -> None:
    fine(run(*words("load", "fgsm", "--no-target", "--layer", "3")))
    refused = run(*words("load", "fgsm", "--no-target", "--resume"))
    assert refused.status == 2
    assert "out holds a complete report of another run" in refused.err
