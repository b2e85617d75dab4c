"""What makes two runs the same audit: an unfinished one goes on only where all of this agrees."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.capture import Selection, leaves

from .source import NumberedBatch


def weights_fingerprint(model: nn.Module) -> str:
    """12 hexadecimal digits of the SHA-256 over names, dtypes, shapes and bytes of a model's whole state."""
    named: dict[str, Any] = {**model.state_dict(), **dict(model.named_parameters()), **dict(model.named_buffers())}
    return _fingerprint([pair for name, value in named.items() for pair in _tensors(name, value)])


def structure_fingerprint(model: nn.Module) -> str:
    """The same over the modules of the model, as they print."""
    return hashlib.sha256(repr(model).encode()).hexdigest()[:12]


def selected(selection: Selection) -> str:
    """How many layers are chosen, and a fingerprint of their names."""
    names = [(name, sorted(selection.calls.get(name, ()))) for name in selection.modules]
    return f"{len(names)} of {hashlib.sha256(repr(names).encode()).hexdigest()[:12]}"


def _tensors(name: str, value: Any) -> list[tuple[str, Tensor]]:
    """The tensors in an entry of a state dict; quantised layers pack theirs into tuples."""
    if isinstance(value, Tensor):
        return [] if value.is_meta else [(name, value)]
    if isinstance(value, tuple | list):
        return [pair for place, part in enumerate(value) for pair in _tensors(f"{name}.{place}", part)]
    return []


def batch_fingerprint(batch: NumberedBatch) -> str:
    """The same over the inputs and labels of a batch."""
    return _fingerprint([(str(place), leaf) for place, leaf in enumerate((*leaves(batch.inputs), batch.labels))])


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """``model: A, now B``: the first thing that is not the same in both, or nothing."""
    for name in wanted:
        if found.get(name) != wanted[name]:
            return f"{name}: {found.get(name)}, now {wanted[name]}"
    return ""


def _fingerprint(tensors: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        values = tensor.detach().cpu().clone()  # numpy() leaves a storage that cannot be resized any more
        digest.update(f"{name} {values.dtype} {list(values.shape)};".encode())
        if values.is_quantized:
            values = values.int_repr()
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    return digest.hexdigest()[:12]
