"""Fused taps leave nothing behind: on the model, in memory, or waiting for the device."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neurosens_fast.capture import Taps, pair_inputs, plain_forward
from neurosens_fast.folding import FusedTaps
from tests.attacks.networks import uneven

from .networks import build, pair, shape_of


def state(model: nn.Module) -> Any:
    return (
        copy.deepcopy(model.state_dict()),
        [(module, module.training, sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
         for module in model.modules()],
        [(parameter, parameter.requires_grad, parameter.grad, parameter._version) for parameter in model.parameters()],
        [(buffer, buffer._version) for buffer in model.buffers()],
    )  # fmt: skip


def same_state(before: Any, model: nn.Module) -> None:
    after = state(model)
    assert all(torch.equal(value, after[0][key]) for key, value in before[0].items())
    assert before[1] == after[1]
    for old, new in zip((*before[2], *before[3]), (*after[2], *after[3]), strict=True):
        assert old[0] is new[0]
        assert all(first is second or first == second for first, second in zip(old[1:], new[1:], strict=True))


class Broken(nn.Module):
    """A model whose head fails for more than eight samples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build("digits")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:8].view(x.shape[0], 10)


@pytest.mark.parametrize("kind", ["digits", "bottleneck", "conv1d"])
def test_the_model_is_as_before(kind: str) -> None:
    model = uneven(build(kind)).train()
    next(iter(model.children())).eval()  # modes are per module
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    benign, adversarial = pair(shape_of(kind))
    before = state(model)
    with FusedTaps(Taps(model), benign) as fused:
        assert fused.reason == ""
        fused.forward(benign, adversarial)
        same_state(before, model)
    same_state(before, model)


def test_an_exception_in_the_copy_leaves_the_model_as_before() -> None:
    model = uneven(Broken()).train()
    benign, adversarial = pair(shape_of("digits"), count=5)
    before = state(model)
    fused = FusedTaps(Taps(model), benign)
    assert fused.reason == ""
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        fused.forward(benign, adversarial)
    same_state(before, model)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        fused.forward(benign[:, :, :2], adversarial[:, :, :2])
    same_state(before, model)


def test_the_copy_is_freed_at_once_and_holds_no_model() -> None:
    model = uneven(build("digits"))
    benign, adversarial = pair(shape_of("digits"))
    gc.collect()
    gc.disable()
    try:
        with FusedTaps(Taps(model), benign) as fused:
            fused.forward(benign, adversarial)
            assert fused._private is not None
            own = [weakref.ref(part) for pair in fused._private._pairs for part in pair.copy.parameters()]
            assert len(own) == 6
        assert all(reference() is None for reference in own)
        assert (len(fused.fused), fused.folded, fused.reason) == (4, 3, ""), "what it was stays on record"
        fused.forward(benign, adversarial)
        assert fused.rows["relu1"].statistics.samples == 6
    finally:
        gc.enable()
    seen = weakref.ref(model)
    rows = fused.rows
    del fused, model
    gc.collect()
    assert seen() is None
    assert len(rows) == 4


class Largest(TorchDispatchMode):
    """Notes the most bytes that tensors made inside hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {part.untyped_storage()._cdata for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known and storage._cdata not in given:
                    self._known[storage._cdata] = storage.nbytes()
                    self.held += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata)
        self.most = max(self.most, self.held)
        return result

    def _gone(self, key: int) -> None:
        self.held -= self._known.pop(key)


@pytest.mark.parametrize("kind", ["bottleneck", "resnet18", "cifar", "densenet", "convnext"])
def test_a_forward_holds_no_more_than_that_of_the_model(kind: str) -> None:
    model = uneven(build(kind), torch.float32)
    benign, adversarial = pair(shape_of(kind), torch.float32, 4)
    fused = FusedTaps(Taps(model, "activations"), benign)
    assert fused.reason == ""
    fused.forward(benign, adversarial)  # the rows exist from here on
    with Largest() as theirs:
        plain_forward(model, pair_inputs(benign, adversarial))
    with Largest() as ours:
        fused.forward(benign, adversarial)
    assert theirs.most > 4 * 2 * benign[0].numel() * benign.element_size()
    assert ours.most <= 1.05 * theirs.most


def test_nothing_waits_for_the_device() -> None:
    class NoWaiting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default), func
            return func(*args, **(kwargs or {}))

    model = uneven(build("bottleneck"), torch.float32)
    benign, adversarial = pair(shape_of("bottleneck"), torch.float32)
    fused = FusedTaps(Taps(model), benign)
    with NoWaiting():
        for _ in range(2):
            fused.forward(benign, adversarial)
    assert fused.reason == ""
    assert fused.rows["relu"].statistics.samples == 6
