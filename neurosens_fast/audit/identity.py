"""What makes two runs the same audit: an unfinished one goes on only where all of this agrees."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.capture import leaves

from .source import NumberedBatch


def weights_fingerprint(model: nn.Module) -> str:
    """12 hexadecimal digits of the SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return _fingerprint([(name, tensor) for name, tensor in tensors if not tensor.is_meta])


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
