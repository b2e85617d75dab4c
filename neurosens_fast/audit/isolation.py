"""Leaving no trace: what an audit takes note of before, and puts back after, whatever happens in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch
from torch import nn

from neurosens_fast.capture import evaluation_mode


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards modes, ``.grad``, ``requires_grad`` and buffers are as before.

    This holds whatever an attack of the user does with the model in between: a ``backward()`` that
    fills the parameters' gradients, or a forward in training mode that moves batch-norm statistics.
    """
    parameters = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
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
        for module, name, buffer, saved in buffers:
            module._buffers[name] = buffer  # a forward may have put another tensor in its place
            # Compared by value: batch norm does not count its writes, and a needless write would spoil a
            # graph of the user's that waits for its backward pass.
            if not torch.equal(buffer, saved):
                with torch.no_grad():
                    buffer.copy_(saved)


@contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's global generators seeded inside, and back where they were afterwards."""
    python, arrays, cpu = random.getstate(), numpy.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the global state itself
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        random.seed(seed)
        numpy.random.seed(seed % 2**32)  # noqa: NPY002 - the global state itself
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)  # noqa: NPY002 - the global state itself
        torch.set_rng_state(cpu)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
