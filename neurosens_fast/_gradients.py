"""The gradients of the operators, and calls that record them.

Mutating operators take none, and sensitivities that only choose neurons have none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._calls import below_autograd, unobserved

_ops = torch.ops.neurosens_fast

Gradients = tuple[Tensor | None, ...]


def _gradient_of(operator: Any, *arguments: Any) -> Any:
    """What a backward operator returns. It has no gradient of its own, and without ``create_graph`` nobody asks for
    one.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return operator(*arguments)
    return below_autograd(operator, *arguments)


def _differentiable(
    name: str, setup: Callable[[Any, tuple[Any, ...], Any], None], backward: Callable[..., Gradients]
) -> Callable[..., Any]:
    """Register the gradient of the operator ``name``; return a function that calls the operator and records it.

    Where only autograd takes part, the same formula is recorded by a node of its own, past torch's generated one.
    """
    operator = getattr(_ops, name)

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = below_autograd(operator.default, *inputs)
        setup(ctx, inputs, output)
        return output

    formulas = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    node: Any = type(name.title().replace("_", ""), (torch.autograd.Function,), formulas)
    torch.library.register_autograd(f"neurosens_fast::{name}", backward, setup_context=setup)

    def call(*inputs: Any) -> Any:
        if not unobserved(inputs):
            return operator(*inputs)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return node.apply(*inputs)
        return below_autograd(operator.default, *inputs)

    return call


# A pair of tensors.


def _pair_gradients(ctx: Any, operator: Any, *tensors: Tensor) -> Gradients:
    needs = ctx.needs_input_grad[:2]
    gradients = _gradient_of(operator, *tensors, ctx.norm, ctx.channel_dim, *needs)
    return gradients[0] if needs[0] else None, gradients[1] if needs[1] else None


def _setup_sensitivity(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    benign, adversarial, ctx.norm, ctx.channel_dim = inputs
    ctx.save_for_backward(benign, adversarial)


def _sensitivity_backward(ctx: Any, grad: Tensor) -> Gradients:
    return *_pair_gradients(ctx, _ops.neuron_sensitivity_backward.default, grad, *ctx.saved_tensors), None, None


def _setup_sns_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    benign, adversarial, _, ctx.norm, ctx.channel_dim, _ = inputs
    _, neurons, sensitivity = output
    ctx.mark_non_differentiable(neurons, sensitivity)
    ctx.set_materialize_grads(False)  # which would write zeros for these two
    ctx.save_for_backward(benign, adversarial, neurons)


def _sns_loss_backward(ctx: Any, grad: Tensor | None, *_: None) -> Gradients:
    if grad is None:
        return (None,) * 6
    benign, adversarial, neurons = ctx.saved_tensors
    operator = _ops.sns_loss_backward.default
    return *_pair_gradients(ctx, operator, grad, neurons, benign, adversarial), None, None, None, None


# A joined batch.


def _setup_paired(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pair, ctx.norm, ctx.channel_dim, ctx.detach_benign = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(pair)


def _paired_backward(ctx: Any, grad: Tensor | None, _: None) -> Gradients:
    if grad is None:
        return (None,) * 4
    (pair,) = ctx.saved_tensors
    arguments = grad, pair, ctx.norm, ctx.channel_dim, ctx.detach_benign
    return _gradient_of(_ops.paired_sensitivity_backward.default, *arguments), None, None, None


def _setup_relu_tap(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, ctx.norm, ctx.channel_dim, ctx.detach_benign = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[0])


def _relu_tap_backward(ctx: Any, grad_out: Tensor, grad: Tensor, _: Tensor) -> Gradients:
    (out,) = ctx.saved_tensors
    arguments = grad_out, grad, out, ctx.norm, ctx.channel_dim, ctx.detach_benign
    return _gradient_of(_ops.relu_tap_backward.default, *arguments), None, None, None


neuron_sensitivity = _differentiable("neuron_sensitivity", _setup_sensitivity, _sensitivity_backward)
sns_loss = _differentiable("sns_loss", _setup_sns_loss, _sns_loss_backward)
paired_sensitivity = _differentiable("paired_sensitivity", _setup_paired, _paired_backward)
relu_tap = _differentiable("relu_tap", _setup_relu_tap, _relu_tap_backward)


class ReluTapInPlace(torch.autograd.Function):
    """An operator's own autograd formula must not mutate its input; this may."""

    @staticmethod
    def forward(ctx: Any, pair: Tensor, norm: str, channel_dim: int, detach_benign: bool) -> tuple[Tensor, ...]:
        output = pair, *_ops.relu_tap_(pair, norm, channel_dim)
        ctx.mark_dirty(pair)
        _setup_relu_tap(ctx, (pair, norm, channel_dim, detach_benign), output)
        return output

    backward = staticmethod(_relu_tap_backward)


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("neuron sensitivity is differentiable once; its gradient has no derivative")


for _name in (
    "neuron_sensitivity_backward",
    "paired_sensitivity_backward",
    "relu_tap_backward",
    "sns_loss_backward",
):
    torch.library.register_autograd(f"neurosens_fast::{_name}", _no_second_derivative)
