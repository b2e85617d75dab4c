"""Models by name: what comes back, what a wrong name says, and that global random state stays as it was."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neurosens_fast.models import CifarResNet18, DigitsCNN, MnistCNN, Normalized, load_model, model_names
from neurosens_fast.models import describe_model as describe


@contextmanager
def random_state_unchanged() -> Iterator[None]:
    before = torch.get_rng_state(), random.getstate(), str(numpy.random.get_state())  # noqa: NPY002 - the global state
    yield
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(numpy.random.get_state()))  # noqa: NPY002


@pytest.mark.parametrize(
    ("spec", "network"), [("digits-cnn", DigitsCNN), ("mnist-cnn", MnistCNN), ("cifar-resnet18", CifarResNet18)]
)
def test_built_in_models(spec: str, network: type[nn.Module]) -> None:
    with random_state_unchanged():
        model = load_model(spec)
    assert type(model) is network
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert spec in model_names()
    first, again, other = (next(load_model(spec, seed=seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert list(load_model(spec, num_classes=3).state_dict().values())[-1].shape == (3,)


def test_weights_leave_the_random_state(tmp_path: Path) -> None:
    for classes in (10, 4):
        save_file(DigitsCNN(classes).state_dict(), tmp_path / f"{classes}.safetensors")
    for classes in (10, 4):
        with random_state_unchanged():
            load_model("digits-cnn", weights=tmp_path / f"{classes}.safetensors")


def test_normalisation_wraps(tmp_path: Path) -> None:
    plain, wrapped = load_model("digits-cnn"), load_model("digits-cnn", normalize="0.5/0.25")
    assert isinstance(wrapped, Normalized)
    assert not wrapped.training
    x = torch.full((2, 1, 8, 8), 0.5)
    torch.testing.assert_close(wrapped(x), plain(torch.zeros(2, 1, 8, 8)))
    save_file(wrapped.state_dict(), tmp_path / "w.safetensors")
    again = load_model("digits-cnn", weights=tmp_path / "w.safetensors", normalize="0.5/0.25", seed=1)
    assert torch.equal(again(x), wrapped(x))


def test_default_dtype_does_not_matter() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = load_model("digits-cnn", normalize="mnist")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(
    ("spec", "options", "problem"),
    [
        ("digits-cn", {}, r"'digits-cn'; choose one of digits-cnn, .*FILE.py:FUNCTION; did you mean digits-cnn"),
        ("w.pth", {}, "is a file of weights: name its model"),
        ("", {}, "unknown model ''"),
        ("digits-cnn", {"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ("digits-cnn", {"num_classes": True}, "num_classes must be"),
        ("digits-cnn", {"num_classes": 2.0}, "num_classes must be"),
        ("digits-cnn", {"normalize": "cifar"}, "'cifar'.*did you mean cifar10"),
    ],
)
def test_bad_input_is_one_sentence(spec: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        load_model(spec, **options)
    assert "\n" not in str(caught.value)


def test_a_module_is_no_name() -> None:
    with pytest.raises(TypeError, match="must be given as text, got DigitsCNN; a module goes to audit"):
        load_model(DigitsCNN())  # type: ignore[arg-type]


def test_torchvision() -> None:
    model = load_model("torchvision:squeezenet1_1", num_classes=5)
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    with pytest.raises(ValueError, match=r"no classifier 'resnet19'; did you mean .*resnet18"):
        load_model("torchvision:resnet19")
    with pytest.raises(ValueError, match="no classifier 'fasterrcnn_resnet50_fpn'"):  # would download a backbone
        load_model("torchvision:fasterrcnn_resnet50_fpn")
    with pytest.raises(ValueError, match=r"did you mean torchvision:resnet50\?"):
        load_model("resnet50")


def timm_module(built: list[dict[str, Any]]) -> ModuleType:
    """What this package uses of timm."""
    module = ModuleType("timm")

    def create_model(name: str, pretrained: bool, **options: Any) -> nn.Module:
        if name == "broken":
            raise RuntimeError("no such\nlayer")
        built.append({"name": name, "pretrained": pretrained, **options})
        return nn.Linear(2, options.get("num_classes", 1000)).half()

    vars(module).update(create_model=create_model, list_models=lambda: ["vit_tiny", "broken"])
    vars(module).update(is_model=lambda name: name in ("vit_tiny", "broken"))
    return module


def test_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "timm", timm_module(built))
    model = load_model("timm:vit_tiny", num_classes=3)
    assert (next(model.parameters()).dtype, model.training) == (torch.float32, False)
    load_model("timm:vit_tiny")
    assert built == [
        {"name": "vit_tiny", "pretrained": False, "num_classes": 3},
        {"name": "vit_tiny", "pretrained": False},
    ]
    with pytest.raises(ValueError, match=r"timm has no model 'vit_tinny'; did you mean vit_tiny\?"):
        load_model("timm:vit_tinny")
    with pytest.raises(ValueError, match="timm:broken cannot be built with 3 classes: RuntimeError: no such layer"):
        load_model("timm:broken", num_classes=3)


@pytest.mark.parametrize(
    ("spec", "package"), [("timm:vit_tiny", "timm"), ("torchvision:resnet18", "torchvision.models")]
)
def test_missing_packages_say_what_to_type(spec: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"^{spec} needs {package[:11]}.*; type: pip install"):
        load_model(spec)


NET = """
from torch import nn, randn
import numpy, random, torch
def net(num_classes=2): return nn.Linear(4, num_classes).double().train()
def fixed():
  numpy.random.rand(), random.random()
  return nn.Linear(4, 2)
def meta(): return nn.Linear(4, 2, device="meta")
def number(): return 3
"""


def test_functions_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    model = load_model(f"{tmp_path}/net.py:net", num_classes=7)
    assert model.weight.shape == (7, 4)
    assert (model.weight.dtype, model.training) == (torch.float32, False)
    save_file({"module.weight": torch.ones(2, 4), "module.bias": torch.ones(2)}, tmp_path / "w.safetensors")
    loaded = load_model(f"{tmp_path}/net.py:fixed", weights=tmp_path / "w.safetensors", normalize="0.5/1")
    assert torch.equal(loaded(torch.ones(1, 4)), torch.full((1, 2), 3.0))
    with random_state_unchanged():
        weights = [load_model(f"{tmp_path}/net.py:fixed", seed=seed).state_dict()["weight"] for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(ValueError, match=r"net.py:fixed takes no argument num_classes"):
        load_model(f"{tmp_path}/net.py:fixed", num_classes=7)
    with pytest.raises(ValueError, match="cannot be brought to the CPU"):
        load_model(f"{tmp_path}/net.py:meta")
    with pytest.raises(
        TypeError, match=r"net.py:number returned an object of type int; it must return a torch.nn.Module"
    ):
        load_model(f"{tmp_path}/net.py:number")


def test_descriptions(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    code = hashlib.sha256(NET.encode()).hexdigest()[:12]
    (tmp_path / "w.pth").write_bytes(b"content")
    weights = hashlib.sha256(b"content").hexdigest()[:12]
    assert describe("digits-cnn", seed=3) == "digits-cnn, random weights (seed 3)"
    assert describe(f"{tmp_path}/net.py:net") == f"net.py:net (sha256 {code}), seed 0"
    full = describe("torchvision:resnet50", weights=tmp_path / "w.pth", num_classes=5, normalize="imagenet")
    assert full == f"torchvision:resnet50, 5 classes, weights w.pth (sha256 {weights}), normalised imagenet"
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        describe("digits-cnn", weights=tmp_path / "none.pth")
