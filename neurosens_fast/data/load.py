"""A data set by the text that names it."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import TensorDataset

from neurosens_fast.support.messages import did_you_mean
from neurosens_fast.support.userfile import is_user_function

from .digits_split import digits
from .source import DataSource
from .torchvision_sets import PUBLISHED, image_folder, published_set
from .user_data import user_data

_KINDS = ["digits", *PUBLISHED, "imagefolder"]


def data_names() -> list[str]:
    """The forms of ``spec`` that :func:`load_data` takes, for help texts."""
    return ["digits", *(f"{kind}:DIR" for kind in PUBLISHED), "imagefolder:DIR[@SIZE]", "FILE.py:FUNCTION"]


def load_data(spec: str, *, train: bool = False, download: bool = False) -> DataSource:
    """The data set that ``spec`` names, images as float32 in [0, 1].

    ``digits``: scikit-learn's, split by seed 0. ``mnist:DIR``, ``fashion-mnist:DIR``, ``cifar10:DIR``: from the files
    below ``DIR`` (in ``MNIST/raw``, ``FashionMNIST/raw``, ``cifar-10-batches-py``), fetched if missing only with
    ``download``. ``imagefolder:DIR[@SIZE]``: a folder of images for each class; with ``SIZE`` the shorter side is
    resized and the centre cut out. ``FILE.py:FUNCTION``: a function of yours that is called without arguments (with
    ``train=`` if it takes that) and returns a data set of samples, an iterable of batches or samples, or a tuple of
    two tensors. The test split unless ``train``. Global random generators are left as they were.

    Raises ``ValueError``, ``TypeError``, ``ModuleNotFoundError`` or ``OSError`` with one sentence that says what was
    wrong and what to do.
    """
    if not isinstance(spec, str):
        raise TypeError(
            f"the data must be named as text, got {type(spec).__name__}; a data set goes to audit() as it is"
        )
    kind, colon, argument = spec.partition(":")
    if kind in _KINDS:
        if kind == "digits":
            if colon:
                raise ValueError(f"digits takes no folder, got {spec!r}; they come with scikit-learn")
            return _digits(train)
        if not argument:
            raise ValueError(f"say which folder holds the data: {kind}:DIR")
        if kind == "imagefolder":
            if train:
                raise ValueError("imagefolder has no training split of its own; name the folder that holds it")
            return image_folder(argument)
        return published_set(kind, Path(argument).expanduser(), train, download)
    if is_user_function(spec):
        return user_data(spec, train)
    hint = did_you_mean(kind, _KINDS)
    raise ValueError(f"unknown data {spec!r}; choose one of {', '.join(data_names())}{hint}")


def _digits(train: bool) -> DataSource:
    split = digits(0)
    if train:
        dataset, description = TensorDataset(split.train_images, split.train_labels), "training split of seed 0"
    else:
        dataset, description = TensorDataset(split.test_images, split.test_labels), "test split of seed 0"
    return DataSource(dataset, f"scikit-learn digits, {description}", 10, tuple(split.test_images.shape[1:]))
