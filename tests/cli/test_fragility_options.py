"""``neurosens-fast fragility``: what is typed wrong, missing or in the way, and the help text."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from neurosens_fast.fragility import FragilityReport

from .conftest import Run
from .fragility_run import GIVEN, REPAIR, TARGET, fine, names, words


def test_no_target_needs_no_scipy(run: Run, quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    refused = run(*words())
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == (
        "neurosens-fast: targeting, which --no-target leaves out, needs scipy; "
        "type: pip install 'neurosens-fast[fragility]'\n"
    )
    assert names(quick) == ["tiny.py"]
    result = fine(run(*words("load", "tiny.py:attack", "--no-target", "--filter", "pulse")))
    assert names(quick / "out") == sorted((*GIVEN, "filter-pulse.csv", "filter-pulse.png"))
    assert "Where the attack hits" not in result.out


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("--attack cw", "--attack cw has no eps to vary; choose one of pgd, fgsm, "),
        ("--attack none", "--attack none has no eps to vary"),
        ("--attack pdg", "unknown attack 'pdg'; did you mean pgd?"),
        ("--attack none.py:attack", "there is no file none.py"),
        ("--attack fgsm --steps 3", "--steps says nothing to --attack fgsm; leave it out"),
        ("--attack tiny.py:attack --steps 3", "--steps says nothing to --attack tiny.py:attack; set it inside"),
        ("--eps 0.1,abc", "Invalid value for --eps: 'abc' is not a number of at least 0; write 0.03 or 8/255 (try: "),
        ("--eps -1", "'-1' is not a number of at least 0"),
        ("--eps 0.1,0.1", "eps holds a strength twice; give each once"),
        ("--eps ,", "eps is empty; give at least one strength"),
        ("--layer conv9", "the model has no layer 'conv9'; closest: "),
        ("--where inside", "'inside' is not one of 'before_norm', 'after_norm'"),
        ("--protocol both", "'both' is not one of 'fixed', 'adaptive'"),
        ("--threshold -0.1", "'-0.1' is not a number of at least 0"),
        ("--top 0", "--top"),
        ("--save-every -1", "--save-every"),
        ("--compress 0.5", "--compress says nothing without --repair; add it"),
        ("--repair --compress 2", "--compress 2 is not a factor in (0, 1]"),
        ("--repair --compress 0", "--compress 0 is not a factor in (0, 1]"),
        ("--repair --compress half", "Invalid value for --compress: 'half' is not a number"),
        ("--repair --compress 1", "--compress 1 repairs nothing; give factors below 1"),
        ("--filter band", "unknown filter 'band'; choose one of high, low, pulse"),
        ("--filter high,plus", "unknown filter 'plus'"),
        ("--resume --overwrite", "--resume goes on with what --overwrite would replace; drop one"),
        ("--repair --max-samples 3", "--repair cuts the data into three parts; give at least 4 samples"),
        ("--out tiny.py", "cannot write to the folder tiny.py: "),
        ("--model tiny.py:nothing --data digits", "tiny.py has no function 'nothing'"),
        ("--data tiny.py:few --repair", "give at least 4 samples (input, label) that are read by index"),
        ("--data tiny.py:batched --repair", "give at least 4 samples (input, label) that are read by index"),
        ("--data tiny.py:stream --repair", "give at least 4 samples (input, label) that are read by index"),
        ("--data tiny.py:stream", "gives an iterator, which can be read once only, and --target and --filter read"),
    ],
)  # fmt: skip
def test_typed_wrong(chosen: str, message: str, run: Run, quick: Path) -> None:
    result = run("fragility", "--model", "digits-cnn", "--data", "digits", "--out", "out", *chosen.split())
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("neurosens-fast: ")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert names(quick) == ["tiny.py"]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("tiny.py:no_eps", "tiny.py:no_eps takes no argument eps; add it to the function"),
        ("tiny.py:no_attack", "attack(model, eps=0.02) gave a int, not an attack"),
    ],
)
def test_functions_that_make_no_attack(attack: str, message: str, run: Run, quick: Path) -> None:
    result = run(*words("load", attack))
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert message in result.err
    assert names(quick) == ["tiny.py"]


def test_an_iterator_is_enough_for_the_dropout_alone(run: Run, quick: Path) -> None:
    fine(run(*words("stream", "tiny.py:attack", "--no-target")))
    assert FragilityReport.load(quick / "out" / GIVEN[0]).samples == 32


def test_results_are_not_replaced_unasked(run: Run, quick: Path) -> None:
    fine(run(*words("load", "tiny.py:attack", "--no-target")))
    before = {path: path.stat().st_mtime_ns for path in (quick / "out").iterdir()}
    refused = run(*words("load", "tiny.py:attack", "--no-target"))
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == (
        f"neurosens-fast: out already holds {', '.join(GIVEN)}; choose another folder for --out, or add --overwrite\n"
    )
    assert {path: path.stat().st_mtime_ns for path in (quick / "out").iterdir()} == before
    fine(run(*words("load", "tiny.py:attack", "--no-target", "--eps", "0.1", "--overwrite")))
    assert FragilityReport.load(quick / "out" / GIVEN[0]).eps == (0.1,)


def test_help_tells_of_every_file(run: Run) -> None:
    text = " ".join(run("fragility", "--help").out.replace("│", " ").split())
    for name in (*GIVEN, *TARGET, *REPAIR, "filter-high.csv", "filter-high.png", "high, low or pulse"):
        assert name in text
    known = "pgd, fgsm, ffgsm, bim, mifgsm, apgd-ce, apgd-dlr, apgd-t, square, or file.py:function"
    assert known in text
    options = (
        "layer where protocol threshold no-target repair compress filter plain eps resume save-every top overwrite"
    )
    for option in options.split():
        assert f"--{option} " in text
