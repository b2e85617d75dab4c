"""Calls past torch's generated autograd are those of the operators, and are not taken where anything else looks on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from neurosens_fast import _calls, ops
from neurosens_fast.statistics import new_totals

OPERATORS = torch.ops.neurosens_fast
Outputs = tuple[Tensor, ...]


def calling(functions: Any, name: str, norm: int | str) -> Callable[[Tensor, Tensor], Outputs]:
    calls: dict[str, Callable[[Tensor, Tensor], Outputs]] = {
        "neuron_sensitivity": lambda z, z_adv: (functions.neuron_sensitivity(z, z_adv, norm),),
        "sns_loss": lambda z, z_adv: functions.sns_loss(z, z_adv, 3, norm),
        "paired_sensitivity": lambda z, z_adv: functions.paired_sensitivity(torch.cat((z, z_adv)), norm),
        "relu_tap": lambda z, z_adv: functions.relu_tap(torch.cat((z, z_adv)), norm),
    }
    return calls[name]


def ours(name: str, norm: int | str) -> Callable[[Tensor, Tensor], Outputs]:
    """The operator ``name`` of a pair, as the public function calls it."""
    return calling(ops, name, norm)


def theirs(name: str, norm: int | str) -> Callable[[Tensor, Tensor], Outputs]:
    """The same through the operator itself, whose gradient torch generates."""
    return calling(OPERATORS, name, str(norm))


DIFFERENTIABLE = {"neuron_sensitivity": 1, "sns_loss": 1, "paired_sensitivity": 1, "relu_tap": 2}
"""Operator -> how many of its outputs have a gradient, the first ones."""
by_name = pytest.mark.parametrize("name", DIFFERENTIABLE)


def leaves(device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    z = torch.randn(4, 7, 5, device=device, dtype=dtype)
    return z.requires_grad_(), (z.detach() + 0.1 * torch.randn_like(z)).requires_grad_()


def total(outputs: Outputs) -> Tensor:
    """A number to which all outputs with a gradient add, with another weight for each of their elements."""
    weighted = [(x * torch.arange(1, x.numel() + 1, device=x.device).view(x.shape)).sum() for x in outputs]
    return torch.stack([x for x in weighted if x.requires_grad]).sum()


@by_name
@pytest.mark.parametrize("norm", ops.NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_same_results_and_gradients_as_the_operator(
    name: str, norm: int | str, dtype: torch.dtype, needs: tuple[bool, bool], device: str
) -> None:
    found = []
    for function in (ours(name, norm), theirs(name, norm)):
        pair = leaves(device, dtype)
        for leaf, needed in zip(pair, needs, strict=True):
            leaf.requires_grad_(needed)
        outputs = function(*pair)
        assert [x.requires_grad for x in outputs] == [at < DIFFERENTIABLE[name] for at in range(len(outputs))]
        total(outputs).backward()
        assert [leaf.grad is not None for leaf in pair] == list(needs)
        found.append([*outputs, *(leaf.grad for leaf in pair if leaf.grad is not None)])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@by_name
def test_the_generated_node_is_passed_by(name: str, device: str) -> None:
    def node(outputs: Outputs) -> str:
        assert outputs[0].grad_fn is not None
        return outputs[0].grad_fn.name()

    assert "Generated" not in node(ours(name, 1)(*leaves(device)))
    assert "Generated" in node(theirs(name, 1)(*leaves(device)))  # else nothing is compared here


@by_name
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_no_gradient_where_none_is_recorded(
    name: str, context: Callable[[], AbstractContextManager[None]], device: str
) -> None:
    wanted = ours(name, 1)(*leaves(device))
    with context():
        found = ours(name, 1)(*leaves(device))
    assert not any(x.requires_grad for x in found)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    outputs = ours(name, 1)(*(leaf.detach() for leaf in leaves(device)))
    assert not any(x.requires_grad for x in outputs)


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Dispatches(TorchDispatchMode):
    """Notes every operator of ours that passes by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "neurosens_fast":
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


class _Subclass(Tensor):
    pass


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode, forward_ad.dual_level])
def test_unobserved(context: Callable[[], AbstractContextManager[None]]) -> None:
    with context():
        assert _calls.unobserved((torch.zeros(2), torch.nn.Parameter(torch.zeros(2)), 1, 0.1, "1", True, None))
        with torch.autocast("cpu", torch.bfloat16), torch.profiler.profile():
            assert _calls.unobserved((torch.zeros(2),))


@pytest.mark.parametrize("mode", [_Functions, _Dispatches, FakeTensorMode, lambda: torch.device("cpu")])
def test_modes_observe(mode: Callable[[], Any]) -> None:
    x = torch.zeros(2)
    with mode():
        assert not _calls.unobserved((x,))
    assert _calls.unobserved((x,))


def test_tensors_that_observe() -> None:
    with FakeTensorMode():
        fake = torch.zeros(2)
    assert not _calls.unobserved((torch.zeros(2), fake))
    assert not _calls.unobserved((torch.zeros(2).as_subclass(_Subclass),))


@pytest.mark.filterwarnings("ignore:.*jit.trace.*")
def test_tracers_and_transforms_observe() -> None:
    seen: list[bool] = []

    def note(x: Tensor) -> Tensor:
        seen.append(_calls.unobserved((x,)))
        return x * 2

    x = torch.ones(2, 3)
    torch.func.vmap(note)(x)
    torch.func.grad(lambda x: note(x).sum())(x)
    torch.func.functionalize(note)(x)
    make_fx(note)(x)
    make_fx(note, pre_dispatch=True)(x)
    torch.jit.trace(note, x, check_trace=False)
    torch.export.export(_Noting(note), (x,), strict=False)
    assert len(seen) == 7
    assert not any(seen)


class _Noting(torch.nn.Module):
    def __init__(self, note: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.note = note

    def forward(self, x: Tensor) -> Tensor:
        return self.note(x)


@by_name
def test_compilers_see_the_operator(name: str) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    z, z_adv = leaves("cpu")
    compiled = torch.compile(ours(name, 1), fullgraph=True, backend=backend)(z, z_adv)
    assert all(torch.equal(one, other) for one, other in zip(compiled, ours(name, 1)(z, z_adv), strict=True))
    called = [str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
    assert any(name in target and "neurosens_fast" in target for target in called), called


@by_name
def test_dispatch_modes_see_forward_and_backward(name: str, device: str) -> None:
    with _Dispatches() as mode:
        total(ours(name, 1)(*leaves(device))).backward()
    assert mode.seen == [f"{name}.default", f"{name}_backward.default"]


@by_name
def test_vmap_gives_what_single_calls_give(name: str) -> None:
    z, z_adv = (torch.stack((leaf, 2 * leaf)).detach() for leaf in leaves("cpu"))
    found = torch.func.vmap(lambda z, z_adv: tuple(ours(name, 1)(z, z_adv)))(z, z_adv)
    wanted = [ours(name, 1)(*pair) for pair in zip(z, z_adv, strict=True)]
    for one, other in zip(found, zip(*wanted, strict=True), strict=True):
        assert torch.equal(one, torch.stack(other))


@by_name
def test_saved_tensor_hooks_see_the_same(name: str, device: str) -> None:
    seen = []
    for function in (ours(name, 1), theirs(name, 1)):
        saved: list[Tensor] = []

        def keep(x: Tensor, saved: list[Tensor] = saved) -> Tensor:
            saved.append(x.detach().clone())
            return x

        pair = leaves(device)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            outputs = function(*pair)
        assert saved
        seen.append(saved)
        total(outputs).backward()
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


@by_name
def test_checkpointing(name: str, device: str) -> None:
    grads = []
    for run in (lambda f, *pair: f(*pair), lambda f, *pair: checkpoint(f, *pair, use_reentrant=False)):
        pair = leaves(device)
        total(run(lambda z, z_adv: tuple(ours(name, 1)(2 * z, z_adv)), *pair)).backward()
        grads.append([leaf.grad for leaf in pair])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


@by_name
def test_batched_gradients(name: str, device: str) -> None:
    pair = leaves(device)
    output = ours(name, 1)(*pair)[0].reshape(-1)
    unit = torch.eye(len(output), device=device)
    together = torch.autograd.grad(output, pair, unit, is_grads_batched=True, retain_graph=True)
    for at, weights in enumerate(unit):
        single = torch.autograd.grad(output, pair, weights, retain_graph=True)
        assert all(torch.equal(some[at], one) for some, one in zip(together, single, strict=True))


@by_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(name: str, dtype: torch.dtype, device: str) -> None:
    wanted = ours(name, 1)(*leaves(device, dtype))
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        found = ours(name, 1)(*leaves(device, dtype))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@by_name
@pytest.mark.parametrize("of", [ours, theirs])
def test_differentiable_once(
    name: str, of: Callable[[str, int | str], Callable[[Tensor, Tensor], Outputs]], device: str
) -> None:
    pair = leaves(device)
    grad, _ = torch.autograd.grad(total(of(name, 1)(*pair)), pair, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once; its gradient has no derivative"):
        grad.sum().backward()


@by_name
@pytest.mark.parametrize("of", [ours, theirs])
def test_forward_mode_is_refused(
    name: str, of: Callable[[str, int | str], Callable[[Tensor, Tensor], Outputs]], device: str
) -> None:
    z, z_adv = leaves(device)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        of(name, 1)(forward_ad.make_dual(z, torch.ones_like(z)), z_adv)


def test_an_output_that_goes_unused_has_a_gradient_of_zero(device: str) -> None:
    for function in (ops.relu_tap, ops.relu_tap_):
        pair = torch.cat(leaves(device)).detach().requires_grad_()
        out, distances, _ = function(pair * 1)
        (grad,) = torch.autograd.grad(out.sum(), pair, retain_graph=True)
        assert torch.equal(grad, (pair > 0).float())
        (grad,) = torch.autograd.grad(distances.sum(), pair)
        (wanted,) = torch.autograd.grad(ops.paired_sensitivity(pair.relu())[0].sum(), pair)
        assert torch.equal(grad, wanted)


def test_operators_without_a_gradient_take_none_of_their_inputs(device: str) -> None:
    z, z_adv = leaves(device)
    totals = new_totals(7, device)
    moved, momentum = z.detach().clone(), torch.zeros_like(z)
    ops.accumulate_pair_statistics_(*totals, z, z_adv)
    ops.project_step_(moved, z_adv, z, 0.1, 0.1)
    ops.momentum_step_(moved, momentum, z_adv, z, 0.1, 0.1, 1.0)
    results = [*totals, moved, momentum, ops.pair_statistics(z, z_adv), *ops.topk_neurons(z.sum((0, 2)), 2)]
    assert not any(x.requires_grad for x in results)
    assert totals[0].abs().sum() > 0
