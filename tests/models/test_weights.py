"""Weights from files: every layout that people save, and a sentence for what does not fit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from neurosens_fast.models import CifarResNet18, DigitsCNN, load_model
from neurosens_fast.models.weights import load_weights, read_weights


@pytest.fixture
def trained() -> DigitsCNN:
    """A network whose every number differs from a fresh one's."""
    model = DigitsCNN()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape) if value.is_floating_point() else torch.tensor(7))
    return model


def written(state: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def assert_same(model: nn.Module, expected: dict[str, Tensor]) -> None:
    got = model.state_dict()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.model.module."]
)
@pytest.mark.parametrize("level", [None, "state_dict", "model_state_dict", "model", "net"])
def test_levels_and_prefixes(trained: DigitsCNN, level: str | None, prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    content = state if level is None else {"epoch": 3, "optimizer": {"state": {}}, level: state}
    path = written(content, tmp_path / "weights.pth")
    assert_same(load_model("digits-cnn", weights=path), trained.state_dict())


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "checkpoint.pth.tar"])
def test_kinds_of_file(trained: DigitsCNN, name: str, tmp_path: Path) -> None:
    path = written({f"module.{key}": value for key, value in trained.state_dict().items()}, tmp_path / name)
    assert_same(load_model("digits-cnn", weights=str(path)), trained.state_dict())


def test_levels_inside_levels_and_old_format(trained: DigitsCNN, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"model": {"state_dict": trained.state_dict()}}, path, _use_new_zipfile_serialization=False)
    assert_same(load_model("digits-cnn", weights=path), trained.state_dict())


def test_compiled_part_and_half_precision(trained: DigitsCNN, tmp_path: Path) -> None:
    halved = {name.replace("conv2.", "conv2._orig_mod."): value.half() if value.is_floating_point() else value
              for name, value in trained.state_dict().items()}  # fmt: skip
    model = load_model("digits-cnn", weights=written(halved, tmp_path / "half.safetensors"))
    assert model.state_dict()["conv2.weight"].dtype == torch.float32
    assert torch.equal(model.state_dict()["conv2.weight"], halved["conv2._orig_mod.weight"].float())


def test_other_packages_names_of_a_resnet(tmp_path: Path) -> None:
    own = CifarResNet18(3).state_dict()
    theirs = {"module." + name.replace("shortcut", "downsample").replace("linear", "fc"): own[name] for name in own}
    assert_same(load_model("cifar-resnet18", weights=written(theirs, tmp_path / "r.pth")), own)


def test_number_of_classes_follows_from_the_weights(tmp_path: Path) -> None:
    path = written({"model": DigitsCNN(4).state_dict()}, tmp_path / "w.pth")
    assert load_model("digits-cnn", weights=path)(torch.rand(1, 1, 8, 8)).shape == (1, 4)
    with pytest.raises(ValueError, match=r"logits.bias is \[4\], the model has \[5\].*trained for 4 classes\? .*4$"):
        load_model("digits-cnn", weights=path, num_classes=5)


def test_batch_counts_and_tied_weights_may_be_missing(trained: DigitsCNN, tmp_path: Path) -> None:
    state = {name: value for name, value in trained.state_dict().items() if "num_batches" not in name}
    model = load_model("digits-cnn", weights=written(state, tmp_path / "w.safetensors"))
    assert torch.equal(model.state_dict()["bn3.running_var"], state["bn3.running_var"])
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    tied = nn.Sequential(first, second)
    ones = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2), "1.bias": torch.ones(2)}
    load_weights(tied, ones, "w", "tied")
    assert torch.equal(second.weight, torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"1 missing \(1.bias\)"):
        load_weights(tied, {name: value for name, value in ones.items() if name != "1.bias"}, "w", "tied")


def misfit(change: dict[str, Tensor | None]) -> dict[str, Tensor]:
    state: dict[str, Any] = {**DigitsCNN().state_dict(), **change}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (misfit({"fc4.bias": None, "conv1.weight": None}), r"2 missing \(conv1.weight, fc4.bias\); is --model"),
        (misfit({"fc9.bias": torch.ones(2)}), r"1 unexpected \(fc9.bias\); is --model or --num-classes wrong\?"),
        (misfit({"conv1.weight": torch.ones(16, 3, 3, 3)}), r"1 of another.*\[16, 3, 3, 3\].*\[16, 1, 3, 3\]"),
        (misfit({"fc4.bias": torch.ones(128, dtype=torch.int8)}), r"fc4.bias is int8, the model has float32"),
        ({"a": torch.ones(1)}, r"19 missing \(bn1.bias, .* and 16 more\), 1 unexpected \(a\)"),
    ],
)  # fmt: skip
def test_misfits_are_counted_in_one_sentence(state: dict[str, Tensor], problem: str, tmp_path: Path) -> None:
    path = written(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=problem) as caught:
        load_model("digits-cnn", weights=path)
    assert str(caught.value).startswith(f"weights {path} do not fit digits-cnn: ")
    assert "\n" not in str(caught.value)


def damaged(kind: str, folder: Path) -> Path:
    path = folder / f"w.{'safetensors' if 'safetensors' in kind else 'pth'}"
    state = DigitsCNN().state_dict()
    if kind.startswith("truncated"):
        written(state, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "module":
        torch.save(DigitsCNN(), path)
    elif kind == "namespace":
        torch.save({"state_dict": state, "args": argparse.Namespace(lr=0.1)}, path)
    elif kind == "script":
        torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)
    elif kind == "no tensors":
        torch.save({"epoch": 3, "state_dict": {}}, path)
    elif kind == "one tensor":
        torch.save(torch.ones(3), path)
    else:
        path.write_bytes(b"" if "empty" in kind else b"no weights at all, but text\n" * 9)
    return path


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("truncated", "truncated, damaged, or no weights of PyTorch"),
        ("truncated safetensors", "truncated, damaged, or no safetensors file"),
        ("text", "no weights of PyTorch"),
        ("text safetensors", "no safetensors file"),
        ("empty", "no weights of PyTorch"),
        ("empty safetensors", "no safetensors file"),
        (
            "module",
            r"the Python object neurosens_fast[\w.]*DigitsCNN, not only tensors.*save model.state_dict\(\) alone",
        ),
        ("namespace", "the Python object argparse.Namespace, not only tensors"),
        ("script", "a TorchScript program"),
        ("no tensors", "no tensors by name, .*its keys: epoch, state_dict"),
        ("one tensor", "no tensors by name, .*no dict"),
    ],
)
def test_damaged_files_are_one_sentence(kind: str, problem: str, tmp_path: Path) -> None:
    path = damaged(kind, tmp_path)
    with pytest.raises(ValueError, match=problem) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Executes:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"state_dict": DigitsCNN().state_dict(), "payload": Executes()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"hold the Python object [\w.]+, not only tensors"):
        load_model("digits-cnn", weights=tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


def test_missing_files_name_close_ones(tmp_path: Path) -> None:
    written({"a": torch.ones(1)}, tmp_path / "resnet.pth")
    with pytest.raises(FileNotFoundError, match=r"no file of weights .*resnet.pt; did you mean resnet.pth\?"):
        read_weights(tmp_path / "resnet.pt")
    with pytest.raises(FileNotFoundError, match=r"its folder .* does not exist"):
        read_weights(tmp_path / "none" / "w.pth")
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
        read_weights(tmp_path)
