"""``neurosens-fast explore``: the page that Python gives, served until Ctrl-C, and what is typed wrong."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.data import digits
from neurosens_fast.explorer import Exploration, explore
from neurosens_fast.models import load_model
from neurosens_fast.support.random_state import drawn
from neurosens_fast.training.checkpoints import save_weights

from .conftest import Run
from .fragility_run import fine, names

WORDS = ("explore", "--model", "tiny.py:build", "--data", "tiny.py:load", "--batch-size", "8")
FGSM_WORDS = (*WORDS, "--attack", "fgsm", "--eps", "0.02,0.05")
PAGE = ("--out", "page.html")


@pytest.fixture
def shown(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Exploration]]:
    """What pages show; the page itself, which takes seconds to make, is its budget."""
    pages: list[Sequence[Exploration]] = []

    def page_html(explorations: Sequence[Exploration], budget: int, tell: Callable[[list[str]], None]) -> str:
        pages.append(explorations)
        tell(["Pictures are shown at half of their size."])
        return f"page of {budget} bytes"

    monkeypatch.setattr("neurosens_fast.explorer.explorer.page_html", page_html)
    return pages


def assert_same(one: Exploration, other: Exploration) -> None:
    """Both hold the same numbers and words, apart from versions and how models and data are described."""
    np.testing.assert_array_equal(one.images.values, other.images.values)
    np.testing.assert_array_equal(one.images.probabilities, other.images.probabilities)
    np.testing.assert_array_equal(one.images.coordinates, other.images.coordinates)
    assert (one.levels, one.layer, one.classes, one.samples) == (
        other.levels,
        other.layer,
        other.classes,
        other.samples,
    )
    assert [measure.name for measure in one.measures] == [measure.name for measure in other.measures]
    for mine, others in zip(one.measures, other.measures, strict=True):
        np.testing.assert_array_equal(mine.values, others.values, mine.name)
    assert one.fields is not None
    assert other.fields is not None
    np.testing.assert_array_equal(one.fields.masks, other.fields.masks)
    np.testing.assert_array_equal(one.fields.drop, other.fields.drop)


def test_shows_what_python_gives(run: Run, shown: list[Sequence[Exploration]], tiny: Path) -> None:
    model = ("explore", "--model", "tiny.py:of_digits", "--data", "digits", "--max-samples", "20", "--batch-size", "8")
    chosen = ("--attack", "pgd,fgsm", "--eps", "1/20,0.02", "--steps", "3", "--images", "10", "--layer", "2")
    result = fine(run(*model, *chosen, "--swap-images", "2", "--swap-neurons", "3", "--seed", "3", *PAGE))
    [[found]] = shown

    def pgd(model: nn.Module, eps: float) -> PGD:
        return PGD(model, eps, alpha=2.5 * eps / 3, steps=3, seed=3)

    def fgsm(model: nn.Module, eps: float) -> FGSM:
        return FGSM(model, eps, seed=3)

    split, places = digits(), drawn(539, 20, 3)
    [expected] = explore(
        load_model("tiny.py:of_digits", seed=3),
        (split.test_images[places], split.test_labels[places]),
        {"pgd": pgd, "fgsm": fgsm},
        "2",
        eps=(0.05, 0.02),
        images=10,
        swap_images=2,
        swap_neurons=3,
        batch_size=8,
        progress=False,
        seed=3,
    ).explorations
    assert_same(found, expected)
    levels = [f"{attack}, eps {eps}" for attack in ("pgd", "fgsm") for eps in (0.02, 0.05)]
    assert [str(level) for level in found.levels] == levels
    assert (found.name, found.samples, len(found.images.labels)) == ("tiny.py:of_digits", 20, 10)
    assert np.abs(found.measures[0].values).min() > 0
    facts = dict(found.facts)
    assert facts["attack"].startswith("pgd, steps 3; fgsm, eps ")
    assert facts["data"].startswith("scikit-learn digits, test split of seed 0, 20 of 539 drawn by seed 3")
    assert facts["model"].startswith("tiny.py:of_digits (sha256 ")
    assert (tiny / "page.html").read_text() == "page of 15000000 bytes"
    for text in ("model    tiny.py:of_digits (sha256 ", "attack   pgd, steps 3; fgsm, eps 0.05, 0.02", "on       cpu"):
        assert text in result.out
    assert result.out.endswith("note     Pictures are shown at half of their size.\nwritten: page.html, 0.0 MB\n")


def test_a_whole_page(run: Run, tiny: Path) -> None:
    result = fine(run(*FGSM_WORDS, "--images", "4", "--out", "deep/page.html"))
    page = tiny / "deep" / "page.html"
    assert result.out.endswith(f"written: deep/page.html, {page.stat().st_size / 1e6:.1f} MB\n")
    text = page.read_text("utf-8")
    assert text.lstrip().startswith("<!DOCTYPE html>")
    assert "tiny.py:build" in text
    assert names(page.parent) == ["page.html"]


def test_two_models(run: Run, shown: list[Sequence[Exploration]], tiny: Path) -> None:
    state = {name: value + 0.1 for name, value in load_model("tiny.py:build").state_dict().items() if value.ndim}
    state["1.num_batches_tracked"] = torch.tensor(0)
    save_weights(tiny / "other.safetensors", state, {})
    result = fine(run(*FGSM_WORDS, "--other-weights", "other.safetensors", *PAGE))
    [[first, second]] = shown
    assert [first.name, second.name] == ["tiny.py:build, no weights", "tiny.py:build, other.safetensors"]
    assert (first.images.labels == second.images.labels).all()
    assert not np.array_equal(first.images.values, second.images.values)
    assert "other    tiny.py:build (sha256 " in result.out

    fine(run(*FGSM_WORDS, "--other", f"{tiny}/tiny.py:build", "--overwrite", *PAGE))
    assert [one.name for one in shown[-1]] == ["tiny.py:build", f"{tiny}/tiny.py:build"]


def test_reports_made_before(run: Run, shown: list[Sequence[Exploration]], tiny: Path) -> None:
    subject = ("--model", "tiny.py:build", "--data", "tiny.py:load", "--quiet")
    fine(run("audit", *subject, "--attack", "tiny.py:no_eps", "--layers", "all", "--out", "audit"))
    dropped = ("--layer", "3", "--where", "before_norm", "--no-target")
    fine(run("fragility", *subject, "--attack", "fgsm", "--eps", "0.02,0.05", *dropped, "--out", "fragility"))
    result = run(*FGSM_WORDS, "--layer", "3", "--report", "audit", "--fragility", "fragility", *PAGE)
    fine(result)
    [[found]] = shown
    groups = [measure.group for measure in found.measures]
    assert {"audit", "fragility"} < set(groups)
    again = ("--report", "audit/audit.safetensors", "--fragility", "fragility/fragility.safetensors", "--overwrite")
    fine(run(*FGSM_WORDS, "--layer", "3", *again, *PAGE))
    assert [measure.group for measure in shown[-1][0].measures] == groups
    (tiny / "page.html").unlink()
    wrong = run("explore", "--model", "tiny.py:of_digits", "--data", "digits", "--report", "audit", *PAGE)
    assert (wrong.status, wrong.out.count("written")) == (2, 0)
    assert "layer 3 of the audit report has 4 neurons, that of the model 216" in wrong.err
    assert not (tiny / "page.html").exists()


def test_options_reach_the_page(run: Run, shown: list[Sequence[Exploration]], tiny: Path) -> None:
    extras = ("--classes", "a,b", "--classes", "c", "--budget", "0.5", "--dtype", "float64", "--layer", "0")
    result = fine(run(*WORDS, "--attack", "tiny.py:attack", *extras, "--swap-images", "0", "--quiet", *PAGE))
    [[found]] = shown
    assert result.out == ""
    assert found.classes == ("a", "b", "c")
    assert (tiny / "page.html").read_text() == "page of 500000 bytes"
    assert found.layer.startswith("0")
    assert found.fields is None
    assert [str(level) for level in found.levels] == [f"tiny.py:attack, eps {eps}" for eps in ("0.02", "0.05", "0.1")]
    assert dict(found.facts)["computed"].startswith("float64 on cpu")


def test_classes_of_an_image_folder(run: Run, shown: list[Sequence[Exploration]], tiny: Path) -> None:
    from PIL import Image

    for place, name in enumerate(("cat", "dog", "owl")):
        (tiny / "animals" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8), (80 * place, 60 * number, 90)).save(tiny / "animals" / name / f"{number}.png")
    (tiny / "net.py").write_text(
        "from torch import nn\n"
        "def three(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))\n"
        "def four(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))\n"
    )
    for name, expected in (("three", ("cat", "dog", "owl")), ("four", ("0", "1", "2", "3"))):
        words = ("explore", "--model", f"net.py:{name}", "--data", "imagefolder:animals", "--attack", "fgsm")
        fine(run(*words, "--max-samples", "5", "--overwrite", *PAGE))
        assert shown[-1][0].classes == expected


def test_serves_until_interrupted(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosens_fast.explorer import explorer

    wait = explorer.wait_for_interrupt
    found: list[str] = []

    def look() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/")
        found.append(connection.getresponse().read().decode())
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        wait()

    monkeypatch.setattr(explorer, "wait_for_interrupt", look)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell in the background ignores it
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = fine(run(*FGSM_WORDS, "--images", "4", "--serve", "--port", port))
    assert result.out.endswith(f"the page is at http://127.0.0.1:{port}/ until Ctrl-C\n")
    assert "tiny.py:build" in found[0]
    assert names(tiny) == ["tiny.py"]


def test_a_port_in_use_costs_no_time(run: Run, tiny: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run(*FGSM_WORDS, "--serve", "--port", port)
    assert (result.status, result.out) == (2, "")
    assert (
        result.err == f"neurosens-fast: port {port} of 127.0.0.1 is in use; choose another, or 0 for any that is free\n"
    )


@pytest.mark.parametrize("package", ["bokeh", "scipy"])
def test_missing_packages(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = run(*FGSM_WORDS, *PAGE)
    assert (result.status, result.out) == (1, "")
    assert result.err == f"neurosens-fast: explore needs {package}; type: pip install 'neurosens-fast[explore]'\n"


@pytest.fixture
def ready(tiny: Path) -> Iterator[Path]:
    (tiny / "there.html").write_text("mine")
    (tiny / "folder.html").mkdir()
    yield tiny
    assert names(tiny) == ["folder.html", "there.html", "tiny.py"]
    assert (tiny / "there.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("", "say where the page goes: --out page.html, or --serve to look at it now"),
        ("--out page", "--out page is no page: its name must end in .html"),
        ("--out folder.html", "--out folder.html is a folder; choose another name"),
        ("--out there.html", "there is a file there.html already; choose another --out, or add --overwrite"),
        ("--out there.html/page.html", "cannot write to the folder there.html: there.html is a file"),
        ("--out page.html --port 5006", "--port says nothing without --serve; add it"),
        ("--serve --port 65536", "--port"),
        ("--out page.html --budget 0", "--budget 0 is no size in MB"),
        ("--out page.html --budget nan", "--budget nan is no size in MB"),
        ("--out page.html --attack cw", "--attack cw has no eps to vary; choose one of pgd, fgsm, "),
        ("--out page.html --attack ,", "--attack names no attack"),
        ("--out page.html --attack fgsm,pdg", "unknown attack 'pdg'; did you mean pgd?"),
        ("--out page.html --attack fgsm,ffgsm --steps 3", "--steps says nothing to --attack fgsm,ffgsm; leave it out"),
        ("--out page.html --eps 0.1,0.1", "eps holds a strength twice; give each once"),
        ("--out page.html --layer conv9", "the model has no layer 'conv9'"),
        ("--out page.html --projection tsne", "'tsne' is not one of 'auto', 'pca', 'umap'"),
        ("--out page.html --images 0", "--images"),
        ("--out page.html --classes a,b", "class_names has 2 names, the model 3 classes"),
        ("--out page.html --report none.safetensors", "none.safetensors"),
        ("--out page.html --report folder.html", "the folder folder.html holds no audit.safetensors"),
        ("--out page.html --fragility folder.html", "the folder folder.html holds no fragility.safetensors"),
        ("--out page.html --other digits-cn", "did you mean digits-cnn?"),
        ("--out page.html --other-weights none.safetensors", "there is no file of weights none.safetensors"),
    ],
)
def test_typed_wrong(run: Run, ready: Path, chosen: str, message: str) -> None:
    result = run(*WORDS, *chosen.split())
    assert result.status == 2
    assert result.err.startswith("neurosens-fast: ")
    assert result.err.count("\n") == 1
    assert message in result.err


def test_help_does_not_wait_for_torch_or_bokeh() -> None:
    code = (
        "import sys\n"
        "from neurosens_fast.cli import main\n"
        "assert main(['explore', '--help']) == 0\n"
        "assert not {'torch', 'numpy', 'bokeh', 'scipy'} & set(sys.modules), 'imported too early'"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert (result.returncode, result.stderr) == (0, "")
