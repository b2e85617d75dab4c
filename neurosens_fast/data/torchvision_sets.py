"""MNIST, Fashion-MNIST, CIFAR-10 and image folders, through torchvision's loaders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

from neurosens_fast.support.messages import listing, one_line
from neurosens_fast.support.packages import import_package

from .source import DataSource

SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
"""Names of folders that hold a split and not a class."""


@dataclass(frozen=True)
class Published:
    """A published data set: its name, torchvision's class for it, and the folder below the root where that looks."""

    title: str
    class_name: str
    folder: str


PUBLISHED = {
    "mnist": Published("MNIST", "MNIST", "MNIST/raw"),
    "fashion-mnist": Published("Fashion-MNIST", "FashionMNIST", "FashionMNIST/raw"),
    "cifar10": Published("CIFAR-10", "CIFAR10", "cifar-10-batches-py"),
}


def published_set(kind: str, root: Path, train: bool, download: bool) -> DataSource:
    """One of :data:`PUBLISHED`, converted at once to float32 images ``[N, C, H, W]`` in [0, 1], labels ``[N]`` int64.

    Raises ``FileNotFoundError`` that names the folder and the missing files, ``OSError`` for a failed download,
    ``ValueError`` for damaged files.
    """
    entry = PUBLISHED[kind]
    loader = getattr(import_package("torchvision.datasets", f"{kind} needs"), entry.class_name)
    place = root / entry.folder
    try:
        content = loader(str(root), train=train, download=download)
        images = torch.as_tensor(content.data)
        images = images.permute(0, 3, 1, 2) if images.dim() == 4 else images.unsqueeze(1)
        images = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        dataset = TensorDataset(images, torch.as_tensor(content.targets, dtype=torch.int64))
    except Exception as error:  # torchvision asserts, unpacks and unpickles
        missing = [name for name in _files(loader) if not (place / name).is_file()]
        if download and missing:
            raise OSError(f"{entry.title} could not be downloaded to {place}: {one_line(error)}") from error
        if missing:
            raise FileNotFoundError(
                f"{entry.title} is not in {place}: {listing(missing)} missing; put the unpacked files there, "
                f"or let --download fetch them"
            ) from error
        raise ValueError(
            f"the files of {entry.title} in {place} are damaged or altered; remove them and let --download fetch them "
            f"again ({one_line(error, 120)})"
        ) from error
    split = "training" if train else "test"
    return DataSource(dataset, f"{entry.title}, {split} split", len(content.classes), tuple(images.shape[1:]))


def _files(loader: Any) -> list[str]:
    """The names of the unpacked files that torchvision's class asks for."""
    if hasattr(loader, "resources"):
        return [Path(name).stem for name, _ in loader.resources]
    return [name for name, _ in (*loader.train_list, *loader.test_list)] + [loader.meta["filename"]]


def image_folder(argument: str) -> DataSource:
    """Samples ``(image [3, H, W], class)`` of ``DIR[@SIZE]`` with a folder of images for each class.

    With ``SIZE`` the shorter side is resized to it and the centre ``[3, SIZE, SIZE]`` cut out; without, images keep
    their sizes. Images are read when they are asked for.
    """
    folder, size = _folder_and_size(argument)
    datasets = import_package("torchvision.datasets", "imagefolder needs")
    transforms = import_package("torchvision.transforms", "imagefolder needs")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} for imagefolder:{argument}")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise FileNotFoundError(f"{folder} holds no folders: imagefolder wants one folder of images for each class")
    if {name.lower() for name in classes} <= SPLIT_NAMES:
        raise ValueError(
            f"{folder} holds the splits {listing(classes)}, not classes; choose one: imagefolder:{folder}/{classes[0]}"
        )
    steps: list[Callable[[Any], Any]] = [transforms.ToTensor()]
    if size is not None:
        steps = [transforms.Resize(size), transforms.CenterCrop(size), *steps]
    try:
        images = datasets.ImageFolder(
            str(folder), transform=transforms.Compose(steps), loader=_readable(datasets.folder.default_loader)
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"imagefolder wants images in each folder of {folder}, but: {one_line(error, 400)}"
        ) from error
    except PermissionError as error:
        raise ValueError(f"the folder {folder} may not be read: {one_line(error)}; change its permissions") from error
    first = images[0][0]
    return DataSource(images, f"image folder {argument}", len(images.classes), tuple(first.shape))


def _readable(load: Callable[[str], Any]) -> Callable[[str], Any]:
    """``load``, with one sentence for a file that is no image."""

    def loader(path: str) -> Any:
        try:
            return load(path)
        except Exception as error:  # PIL and its decoders
            raise ValueError(f"{path} cannot be read as an image: {one_line(error)}") from error

    return loader


def _folder_and_size(argument: str) -> tuple[Path, int | None]:
    whole = Path(argument).expanduser()
    before, at, after = argument.rpartition("@")
    if not at or whole.is_dir():  # a folder's own name may hold an @
        return whole, None
    if not after.isdecimal() or int(after) < 1:
        raise ValueError(f"SIZE in imagefolder:DIR@SIZE must be a whole number of at least 1, got {after!r}")
    return Path(before).expanduser(), int(after)
