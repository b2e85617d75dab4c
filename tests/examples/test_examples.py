"""Every example runs as it stands, on real digits, and finds what it says."""

from __future__ import annotations

import re
import runpy
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from neurosens_fast.data import digits
from neurosens_fast.models import MnistCNN

EXAMPLES = Path(__file__).parents[2] / "examples"


class Example:
    """Runs a script of ``examples/`` as ``python examples/NAME`` would, and gives what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, name: str, *words: str) -> str:
        self._monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return self._capsys.readouterr().out


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    return Example(monkeypatch, capsys)


def percentages(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+)%", text)]


def test_every_example_is_tested() -> None:
    tested = set(re.findall(r'example\(\s*"(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


@pytest.mark.slow
def test_sns_pytorch(example: Example) -> None:
    """The SNS term makes the network much harder to attack at little cost."""
    without, stable = example("sns_pytorch.py", "--epochs", "2").splitlines()
    (clean, attacked), (clean_stable, attacked_stable) = percentages(without), percentages(stable)
    assert without.startswith("without the SNS term  clean ")
    assert stable.startswith("with the SNS term     clean ")
    assert min(clean, clean_stable) > 90
    assert attacked_stable > attacked + 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning")
def test_sns_lightning(example: Example) -> None:
    lines = example("sns_lightning.py", "--epochs", "2").splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in epochs] == ["epoch 1", "epoch 2"]
    for line in epochs:
        values = {name: float(value) for name, value in re.findall(r"(\S+) ([\d.]+)(?:  |$)", line)}
        assert values.keys() == {"accuracy", *(f"sensitivity/model.relu{number}" for number in range(1, 5))}
        assert min(values.values()) > 0
    assert values["accuracy"] > 0.8
    assert re.fullmatch(r"of 256 attacked images [\d.]+% right", lines[-1])
    assert percentages(lines[-1])[0] > 25


@pytest.mark.slow
def test_sns_timm(example: Example) -> None:
    lines = example("sns_timm.py", "--epochs", "2").splitlines()
    first, second, accuracies, *layers = lines
    assert all(
        re.fullmatch(r"epoch \d: loss [\d.]+, of which the SNS term is [\d.]+", line) for line in (first, second)
    )
    assert percentages(accuracies)[0] > 60
    names = [re.fullmatch(r"(\S+) +\d+ neurons, mean sensitivity 0\.\d{4}", line)[1] for line in layers]  # type: ignore[index]
    blocks = [f"layer{number}.0.act{act}" for number in range(1, 5) for act in (1, 2, 3)]
    assert names == [name for name in blocks if name[-1] != "3" or name.startswith("layer3")]


def mnist_files(root: Path, images: dict[str, Tensor], labels: dict[str, Tensor]) -> None:
    """Images ``[N, 28, 28]`` uint8 and labels ``[N]`` by split, in MNIST's files below ``root``."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split, content in images.items():
        count = len(content)
        header = struct.pack(">4i", 2051, count, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + content.numpy().tobytes())
        header = struct.pack(">2i", 2049, count)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + labels[split].to(torch.uint8).numpy().tobytes())


@pytest.mark.slow
def test_train_mnist(example: Example, tmp_path: Path) -> None:
    """scikit-learn's digits, enlarged to 28 by 28, in the place of MNIST."""
    split = digits()
    large = [
        nn.functional.interpolate(images, (28, 28), mode="bilinear").squeeze(1).mul(255).to(torch.uint8)
        for images in (split.train_images[:1000], split.test_images[:100])
    ]
    labels = {"train": split.train_labels[:1000], "t10k": split.test_labels[:100]}
    mnist_files(tmp_path, {"train": large[0], "t10k": large[1]}, labels)
    out = tmp_path / "mnist-cnn.safetensors"
    lines = example("train_mnist.py", f"mnist:{tmp_path}", str(out), "--epochs", "3").splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == ["epoch 1", "epoch 2", "epoch 3"]
    assert lines[-1].endswith("% of 100 test images right")
    model = MnistCNN()
    model.load_state_dict(load_file(out))
    with torch.no_grad():
        right = (model.eval()(large[1].unsqueeze(1) / 255).argmax(1) == labels["t10k"]).double().mean()
    assert percentages(lines[-1]) == [pytest.approx(100 * float(right))]
    assert right > 0.5


def test_train_mnist_checks_the_folder_first(
    example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        example("train_mnist.py", f"mnist:{tmp_path}", str(tmp_path / "no/mnist-cnn.safetensors"))
    assert f"there is no folder {tmp_path}/no for " in capsys.readouterr().err
