"""Folders of images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from neurosens_fast.data import load_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes; the first image is 6 wide and 4 high, its left third red and the rest blue."""
    pixels = numpy.zeros((4, 6, 3), numpy.uint8)
    pixels[:, :2, 0] = pixels[:, 2:, 2] = 255
    for name in ("ape", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name / "1.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "images" / "bee" / "grey.png")
    (tmp_path / "images" / "notes.txt").write_text("no class")
    return tmp_path / "images"


def test_images_as_they_are(folder: Path) -> None:
    source = load_data(f"imagefolder:{folder}")
    assert (source.description, source.classes, source.shape) == (f"image folder {folder}", 2, (3, 4, 6))
    image, label = source.dataset[0]
    assert label == 0
    assert torch.equal(image[0], torch.tensor([1.0, 1, 0, 0, 0, 0]).expand(4, 6))
    assert torch.equal(image[2], 1 - image[0])
    assert [label for _, label in source.dataset] == [0, 1, 1]
    assert source.dataset[2][0].shape == (3, 4, 6), "grey images are made RGB"


def test_shorter_side_then_centre(folder: Path) -> None:
    source = load_data(f"imagefolder:{folder}@4")
    assert (source.shape, source.description) == ((3, 4, 4), f"image folder {folder}@4")
    assert torch.equal(source.dataset[0][0][0], torch.tensor([1.0, 0, 0, 0]).expand(4, 4)), "columns 1 to 4 of 0 to 5"
    assert load_data(f"imagefolder:{folder}@16").dataset[0][0].shape == (3, 16, 16)


def test_a_folder_whose_name_holds_an_at_sign(folder: Path) -> None:
    odd = folder.rename(folder.with_name("images@2"))
    assert load_data(f"imagefolder:{odd}").shape == (3, 4, 6)
    assert load_data(f"imagefolder:{odd}@5").shape == (3, 5, 5)


@pytest.mark.parametrize("size", ["0", "-3", "x", "", "2.5", "²"])
def test_bad_size(folder: Path, size: str) -> None:
    with pytest.raises(ValueError, match="SIZE in imagefolder:DIR@SIZE must be a whole number of at least 1"):
        load_data(f"imagefolder:{folder}@{size}")


def test_folders_that_are_none(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none"):
        load_data(f"imagefolder:{folder}/none@8")
    with pytest.raises(
        FileNotFoundError, match=r"ape holds no folders: imagefolder wants one folder of images for each"
    ):
        load_data(f"imagefolder:{folder}/ape")
    (folder / "cat").mkdir()
    with pytest.raises(FileNotFoundError, match=r"images in each folder of .*no valid file for the classes cat"):
        load_data(f"imagefolder:{folder}")


def test_splits_are_no_classes(folder: Path) -> None:
    for name, new in (("ape", "train"), ("bee", "Val")):
        (folder / name).rename(folder / new)
    with pytest.raises(ValueError, match=r"holds the splits Val, train, not classes; choose one: imagefolder:.*/Val"):
        load_data(f"imagefolder:{folder}")


def test_an_image_that_is_none_is_named(folder: Path) -> None:
    (folder / "ape" / "0.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"ape/0.png cannot be read as an image"):
        load_data(f"imagefolder:{folder}")


def test_no_training_split_and_no_torchvision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="imagefolder has no training split of its own"):
        load_data(f"imagefolder:{folder}", train=True)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ModuleNotFoundError, match="imagefolder needs torchvision; type: pip install torchvision"):
        load_data(f"imagefolder:{folder}")
