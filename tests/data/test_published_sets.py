"""MNIST, Fashion-MNIST and CIFAR-10 from small files in their own formats."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torchvision import datasets

from neurosens_fast.data import data_names, load_data

COUNTS = {"train": 6, "t10k": 5}


def mnist(root: Path, kind: str = "MNIST", seed: int = 0) -> dict[str, numpy.ndarray]:
    """Files in the idx format below ``root``, and their content."""
    numbers = numpy.random.default_rng(seed)
    folder = root / kind / "raw"
    folder.mkdir(parents=True)
    content: dict[str, numpy.ndarray] = {}
    for split, count in COUNTS.items():
        images = numbers.integers(0, 256, (count, 28, 28), numpy.uint8)
        labels = numpy.arange(count, dtype=numpy.uint8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
        content[split] = images
    return content


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, numpy.ndarray]:
    """Files in CIFAR-10's format below ``root``; torchvision checks them against their own checksums."""
    numbers = numpy.random.default_rng(0)
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    content: dict[str, numpy.ndarray] = {}

    def write(name: str, value: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(value))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        content[name] = numbers.integers(0, 256, (3, 3072), numpy.uint8)
        checksum = write(name, {"data": content[name], "labels": [2, 0, 1]})
        lists["test_list" if "test" in name else "train_list"].append([name, checksum])
    checksum = write("batches.meta", {"label_names": ["plane", "car", "bird"]})
    for key, value in lists.items():
        monkeypatch.setattr(datasets.CIFAR10, key, value)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": checksum})
    return content


@pytest.mark.parametrize(
    ("name", "folder", "title"), [("mnist", "MNIST", "MNIST"), ("fashion-mnist", "FashionMNIST", "Fashion-MNIST")]
)
def test_mnist_files(name: str, folder: str, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = mnist(tmp_path, folder)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    source = load_data(f"{name}:~/{tmp_path.name}")
    images, labels = source.dataset.tensors
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(images, torch.from_numpy(content["t10k"]).float().unsqueeze(1) / 255)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert (source.description, source.classes, source.shape) == (f"{title}, test split", 10, (1, 28, 28))
    train = load_data(f"{name}:{tmp_path}", train=True)
    assert train.description == f"{title}, training split"
    assert torch.equal(train.dataset.tensors[0], torch.from_numpy(content["train"]).float().unsqueeze(1) / 255)
    assert f"{name}:DIR" in data_names()


def test_cifar_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = cifar(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    source = load_data("cifar10:.")
    images, labels = source.dataset.tensors
    assert torch.equal(images, torch.from_numpy(content["test_batch"]).float().view(3, 3, 32, 32) / 255)
    assert images.is_contiguous()
    assert labels.tolist() == [2, 0, 1]
    assert (source.description, source.classes, source.shape) == ("CIFAR-10, test split", 3, (3, 32, 32))
    assert len(load_data("cifar10:.", train=True).dataset) == 6


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("mnist", "MNIST/raw", "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images"),
        ("fashion-mnist", "FashionMNIST/raw", "train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py", "data_batch_1, data_batch_2, data_batch_3, data_batch_4 and 3 more"),
    ],
)
def test_missing_files_name_the_folder(name: str, folder: str, files: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"is not in {tmp_path}/{folder}: {files}.* missing; .*--download"):
        load_data(f"{name}:{tmp_path}")
    assert not list(tmp_path.iterdir()), "nothing is made without --download"


def test_packed_files_are_still_missing(tmp_path: Path) -> None:
    mnist(tmp_path)
    labels = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    with open(labels, "rb") as source, gzip.open(f"{labels}.gz", "wb") as packed:
        shutil.copyfileobj(source, packed)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="raw: t10k-labels-idx1-ubyte missing; put the unpacked files there"):
        load_data(f"mnist:{tmp_path}")


def test_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mnist(tmp_path)
    cifar(tmp_path, monkeypatch)
    for path in (tmp_path / "MNIST/raw/t10k-images-idx3-ubyte", tmp_path / "cifar-10-batches-py/test_batch"):
        path.write_bytes(path.read_bytes()[:1000])
    for spec, title in (("mnist", "MNIST"), ("cifar10", "CIFAR-10")):
        with pytest.raises(
            ValueError, match=f"^the files of {title} in .* are damaged or altered; .*--download"
        ) as caught:
            load_data(f"{spec}:{tmp_path}")
        assert "\n" not in str(caught.value)
    labels = tmp_path / "MNIST/raw/train-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">2i", 2049, 5) + bytes(5))
    with pytest.raises(ValueError, match="are damaged or altered"):
        load_data(f"mnist:{tmp_path}", train=True)


def test_downloads_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(self: Any) -> None:
        asked.append(self.root)
        if Path(self.root).name == "offline":
            raise RuntimeError("Tried https://a\ngot: name unknown")
        mnist(Path(self.root))

    monkeypatch.setattr(datasets.MNIST, "download", download)
    with pytest.raises(FileNotFoundError):
        load_data(f"mnist:{tmp_path}")
    assert not asked
    assert len(load_data(f"mnist:{tmp_path}", download=True).dataset) == 5
    with pytest.raises(OSError, match=r"MNIST could not be downloaded to .*offline/MNIST/raw: Tried https://a got"):
        load_data(f"mnist:{tmp_path}/offline", download=True)


def test_missing_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"^mnist needs torchvision; type: pip install torchvision$"):
        load_data(f"mnist:{tmp_path}")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "operator torchvision::nms does not exist"),
        ("import no_such_package_of_torchvision", "No module named 'no_such_package_of_torchvision'"),
    ],
)
def test_unfit_torchvision(code: str, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As under a torch without CUDA, for which torchvision has no build."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match=rf"under torch .* \({problem}\); install the torchvision that"):
        load_data(f"mnist:{tmp_path}")
