"""The structure of a model, by torch.fx; and what a trace cannot look into."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from neurosens_fast.support.messages import one_line

from .shadow import fingerprint, shadow

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


Observe = Callable[[str], nn.Module | None]
"""Asked at the end of each module call of a trace, by the module's name in the model (its first one): a module that is
to be called there with what was put out, on every run of the copy."""


class NotTraced(Exception):
    """Why there is no private copy."""


def has_hooks(module: nn.Module) -> bool:
    """Whether ``module`` itself carries a hook or a parametrisation, whose effect a copy would lose.

    A hook whose attribute ``idle`` is true, such as those of an SNSLoss outside of its contexts, has none.
    """
    hooks = (hook for name in HOOKS for hook in getattr(module, name, {}).values())
    return any(not getattr(hook, "idle", False) for hook in hooks) or parametrize.is_parametrized(module)


def is_special(module: nn.Module) -> bool:
    """Whether ``module`` must run as it is: it has hooks, a forward of its own, or is compiled."""
    own = vars(module)
    return (
        has_hooks(module)
        or isinstance(module, torch.jit.ScriptModule)
        or "forward" in own
        or own.get("_compiled_call_impl") is not None
    )


def add_in_place(first: Any, second: Any) -> Any:
    """``first += second`` in a graph; ``operator.iadd`` itself is written out there, and would change other numbers."""
    return operator.iadd(first, second)


def _subtract_in_place(first: Any, second: Any) -> Any:
    return operator.isub(first, second)


def _multiply_in_place(first: Any, second: Any) -> Any:
    return operator.imul(first, second)


def _divide_in_place(first: Any, second: Any) -> Any:
    return operator.itruediv(first, second)


class _Proxy(fx.Proxy):
    """Augmented assignments stay what they are; torch.fx takes ``x += y`` for ``x = x + y``, also where x has readers.

    Not on the images: they may be a leaf whose gradient is wanted.
    """

    def _assigned(self, in_place: Callable[[Any, Any], Any], plain: Callable[[Any, Any], Any], other: Any) -> Any:
        function = plain if self.node.op == "placeholder" else in_place
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def __iadd__(self, other: Any) -> Any:
        return self._assigned(add_in_place, operator.add, other)

    def __isub__(self, other: Any) -> Any:
        return self._assigned(_subtract_in_place, operator.sub, other)

    def __imul__(self, other: Any) -> Any:
        return self._assigned(_multiply_in_place, operator.mul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._assigned(_divide_in_place, operator.truediv, other)


class _Tracer(fx.Tracer):
    """Goes into modules as usual, but not into special ones; buffers are read at every run.

    ``observers`` are what ``observe`` gave, by the names that the graph has for them.
    """

    proxy_buffer_attributes = True

    def __init__(self, observe: Observe | None) -> None:
        super().__init__()
        self._observe = observe
        self.observers: dict[str, nn.Module] = {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        observer = self._observe and self._observe(self.path_of_module(m).partition(".")[2])
        if observer is not None:
            name = f"observer_{len(self.observers)}"
            self.observers[name] = observer
            self.create_node("call_module", name, (self.create_arg(output),), {})
        return output

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_special(m) or super().is_leaf_module(m, module_qualified_name)


class Root(nn.Module):
    """Calls the model with its images alone, so that optional arguments keep their defaults in a trace."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """The model's output."""
        return self.model(images)


def trace(model: nn.Module, observe: Observe | None) -> tuple[fx.Graph, nn.Module, dict[str, nn.Module]]:
    """The graph of ``model`` behind :class:`Root`, the module that holds its tensors, and the observers.

    Leaves no trace on the model.
    """
    stand_in = shadow(model, is_special)
    before = fingerprint(stand_in, is_special)
    states: tuple[Any, ...] = torch.get_rng_state(), random.getstate(), numpy.random.get_state()  # noqa: NPY002
    root, tracer = Root(stand_in), _Tracer(observe)
    try:
        graph = tracer.trace(root)
    except Exception as error:  # whatever a model's forward raises on torch.fx proxies
        raise NotTraced(f"torch.fx cannot trace the model ({one_line(error, 90)})") from error
    finally:
        now: Any = numpy.random.get_state()  # noqa: NPY002
        drawn = not torch.equal(torch.get_rng_state(), states[0]) or random.getstate() != states[1]
        drawn |= now[2] != states[2][2] or not numpy.array_equal(now[1], states[2][1])
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        numpy.random.set_state(states[2])  # noqa: NPY002
    if drawn:
        raise NotTraced("the forward draws random numbers")
    if fingerprint(stand_in, is_special) != before:
        raise NotTraced("the forward changes attributes of its modules")
    return graph, root, tracer.observers
