"""Data that a function of a person's own file returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from neurosens_fast.support.messages import one_line
from neurosens_fast.support.random_state import random_state
from neurosens_fast.support.userfile import call_user_function, describe_user_function

from .source import DataSource


def user_data(spec: str, train: bool) -> DataSource:
    """What the function returns, called under seed 0; see :func:`load_data`."""
    given, offered = ({"train": True}, {}) if train else ({}, {"train": False})
    with random_state(0):
        dataset = call_user_function(spec, given, offered)
    if isinstance(dataset, Tensor | str | bytes | Mapping) or not (
        isinstance(dataset, Iterable) or hasattr(dataset, "__getitem__")
    ):
        raise TypeError(
            f"{spec} returned an object of type {type(dataset).__name__}; it must return a data set of "
            "samples, an iterable of batches or samples (inputs, labels), or a tuple of two tensors"
        )
    classes = getattr(dataset, "classes", None)
    count = len(classes) if isinstance(classes, list | tuple) else None
    description = describe_user_function(spec) + (", training split" if train else "")
    return DataSource(dataset, description, count, _shape(spec, dataset))


def _shape(spec: str, dataset: Any) -> tuple[int, ...] | None:
    """The shape of the first sample's input, where it is a tensor that can be read without using up an iterator."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return None
    if not len(dataset):
        raise ValueError(f"{spec} returned an empty {type(dataset).__name__}")
    if isinstance(dataset, tuple | list) and len(dataset) == 2 and all(isinstance(item, Tensor) for item in dataset):
        inputs, labels = dataset
        if not inputs.dim() or not labels.dim() or len(inputs) != len(labels) or not len(inputs):
            raise ValueError(
                f"{spec} returned inputs {list(inputs.shape)} and labels {list(labels.shape)}; they must be "
                "[N, ...] and [N] with the same N of at least 1"
            )
        return tuple(inputs.shape[1:])
    try:
        first = dataset[0]
    except Exception as error:  # whatever the user's data set raises
        raise ValueError(
            f"the first sample of {spec} cannot be read: {type(error).__name__}: {one_line(error)}"
        ) from error
    if not isinstance(first, tuple | list) or len(first) != 2 or not isinstance(first[0], Tensor):
        return None  # the audit says what is wrong with it, if anything is
    batched = isinstance(first[1], Tensor) and first[1].dim() > 0
    return tuple(first[0].shape[1:] if batched else first[0].shape)
