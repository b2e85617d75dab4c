"""Leaving no trace: what is noted before, and put back after, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .pairs import evaluation_mode


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards modes, ``.grad``, ``requires_grad`` and buffers are as before.

    This holds whatever an attack of the user does with the model in between: a ``backward()`` that
    fills the parameters' gradients, or a forward in training mode that moves batch-norm statistics.
    """
    parameters = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    held = [buffer for _, own in buffers for buffer in own.values() if buffer is not None]
    values = [buffer.detach().clone() for buffer in held]
    try:
        with evaluation_mode(model):
            for parameter, _, _ in parameters:
                parameter.grad = None
            yield
    finally:
        for parameter, gradient, required in parameters:
            parameter.grad = gradient
            if parameter.requires_grad != required:
                parameter.requires_grad_(required)
        for place, own in buffers:
            place.clear()  # a forward may have put other tensors there, or filled what was None
            place.update(own)
        for buffer, value in zip(held, values, strict=True):
            _restore(buffer, value)


def _restore(buffer: Tensor, value: Tensor) -> None:
    # Compared by value: batch norm does not count its writes, and a needless write would spoil a graph of the user's
    # that waits for its backward pass.
    if buffer.shape == value.shape and torch.equal(buffer, value):
        return
    with torch.no_grad():
        buffer.resize_(value.shape).copy_(value)
