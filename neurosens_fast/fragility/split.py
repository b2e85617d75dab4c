"""A model cut in two at a layer, so that what comes before is computed once for all the neurons that are dropped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from neurosens_fast.capture.selection import row_of
from neurosens_fast.folding import NotTraced, PrivateCopy, is_special

from .place import Place

_KEEPS_ZEROS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh),
    *(nn.Hardswish, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink),
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
)
"""Modules that make zeros of zeros, element by element, in evaluation mode."""

_POOLS: tuple[type[nn.Module], ...] = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
"""Modules that do so channel by channel, where the channel is axis 1."""

_RELUS = (torch.relu, torch.relu_, functional.relu, functional.relu_, functional.gelu, functional.silu, torch.tanh)


class _Marker(nn.Module):
    """Stands in a trace behind the call at whose output the model is cut."""

    def forward(self, output: Any) -> None:
        """Nothing."""


class SplitModel:
    """``model`` in evaluation mode, batch norm folded and in channels_last memory as :class:`PrivateCopy` has it.

    ``before(inputs)`` gives the values that the rest needs, each ``[N, ...]``: first the activations at ``place``, then
    what goes past it, as the shortcut around a residual branch does. ``behind(values)`` gives the model's output from
    those of any samples, and may overwrite them. The cut is as late as it can be: activation functions and pooling that
    make zeros of zeros belong to the first part, so that a channel that they make zero can be told.

    Raises :class:`NotTraced` where the model cannot be cut so. ``few`` samples tell values with a batch axis from
    others.
    """

    def __init__(self, model: nn.Module, place: Place, few: Tensor, channels_last: bool) -> None:
        calls: dict[str, int] = {}
        marker = _Marker()

        def observe(path: str) -> nn.Module | None:
            calls[path] = calls.get(path, 0) + 1
            return marker if row_of(path, calls[path]) == place.zeroed else None

        self._private = PrivateCopy(model, True, channels_last, None, observe, 2)
        self._private.refresh()
        self.folded, self.channels_last = self._private.folded, self._private.channels_last
        graph = self._private.module.graph
        found = [node for node in graph.nodes if _module(self._private.module, node) is marker]
        if len(found) != 1:
            raise NotTraced(f"layer {place.zeroed!r} does not run in the trace as in the model")
        at: Any = found[0].args[0]
        if not isinstance(at, fx.Node):
            raise NotTraced(f"layer {place.zeroed!r} puts out several tensors")
        graph.erase_node(found[0])
        self._cut(graph, _latest(at, self._private.module, place.axis), self._shaped(few))

    def _shaped(self, inputs: Tensor) -> Tensor:
        return inputs.contiguous(memory_format=torch.channels_last) if self.channels_last else inputs

    def before(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The values that :meth:`behind` needs of ``inputs`` ``[N, ...]``, each ``[N, ...]``."""
        values: tuple[Tensor, ...] = self._first.forward(self._shaped(inputs))
        return values

    def behind(self, values: tuple[Tensor, ...]) -> Any:
        """The model's output for ``values``, of the samples that they are of."""
        return self._rest.forward(*values)

    def rest(self) -> fx.GraphModule:
        """The part of :meth:`behind`."""
        return self._rest

    def clear(self) -> None:
        """Let go of all tensors."""
        self._private.clear()

    def _cut(self, graph: fx.Graph, at: fx.Node, few: Tensor) -> None:
        root = self._private.module
        dependent = _users_of(at)
        if not any(node.op == "output" for node in dependent):
            raise NotTraced("the model's output does not depend on the layer")
        later, crossing = set(dependent), [at]
        shapes = _shapes(root, few)
        for node in graph.nodes:
            if node in dependent:
                _bring(node, later, crossing, shapes, len(few))
        first = fx.Graph()
        table: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            if node not in dependent:
                table[node] = first.node_copy(node, table.__getitem__)
        first.output(tuple(table[node] for node in crossing))
        rest, table = fx.Graph(), {}
        for place, node in enumerate(crossing):
            table[node] = rest.placeholder(f"value_{place}")
        for node in graph.nodes:
            if node not in table and (node in later or node.op == "get_attr"):
                table[node] = rest.node_copy(node, table.__getitem__)
        self._first, self._rest = (_module_of(root, part) for part in (first, rest))


def _module_of(root: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    graph.eliminate_dead_code(lambda node: node.op != "get_attr")  # others may write in place
    graph.lint()
    return fx.GraphModule(root, graph)


def _module(root: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def _latest(at: fx.Node, root: fx.GraphModule, axis: int) -> fx.Node:
    """The last node of the chain of sole readers from ``at`` on in which a zero channel stays a zero channel."""
    while len(at.users) == 1:
        (user,) = at.users
        module = _module(root, user)
        alone = user.args == (at,) and (module is not None or not user.kwargs or set(user.kwargs) == {"inplace"})
        if module is not None:
            keeps = type(module) in _KEEPS_ZEROS or (type(module) in _POOLS and axis == 1 and not _gives_places(module))
            keeps = keeps and not is_special(module) and not user.kwargs
        else:
            keeps = (user.op == "call_function" and user.target in _RELUS) or (
                user.op == "call_method" and user.target in ("relu", "relu_")
            )
        if not (alone and keeps):
            break
        at = user
    return at


def _gives_places(pool: nn.Module) -> bool:
    """Whether a maximum pooling puts out where its maxima were, too."""
    return bool(getattr(pool, "return_indices", False))


def _users_of(at: fx.Node) -> set[fx.Node]:
    """All nodes that depend on ``at``."""
    found: set[fx.Node] = set()
    waiting = list(at.users)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.users
    return found


def _bring(
    node: fx.Node, later: set[fx.Node], crossing: list[fx.Node], shapes: dict[fx.Node, torch.Size], samples: int
) -> None:
    """Add the inputs of ``node`` to the values that cross, or, where they have no batch axis, to the second part."""
    for source in node.all_input_nodes:
        if source in later or source in crossing or source.op == "get_attr":
            continue
        if source in shapes and shapes[source][:1] == (samples,):
            crossing.append(source)
        elif source.op == "placeholder":
            raise NotTraced("the model's input has no batch axis")
        else:  # a size, or a tensor made of sizes
            later.add(source)
            _bring(source, later, crossing, shapes, samples)


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != "get_attr":
            self.found[n] = value.shape
        return value


def _shapes(module: fx.GraphModule, few: Tensor) -> dict[fx.Node, torch.Size]:
    """The shapes of all tensors in a run on ``few``."""
    interpreter = _Shapes(module)
    interpreter.run(few.clone())
    return interpreter.found


def largest_bytes(module: fx.GraphModule, values: tuple[Tensor, ...]) -> int:
    """Bytes of the two largest tensors in a row that ``module`` makes of ``values``, for one sample."""
    interpreter = _Shapes(module)
    interpreter.run(*(value.clone() for value in values))
    sizes = [shape.numel() for shape in interpreter.found.values()]
    pairs = [first + second for first, second in pairwise(sizes)]
    return max([*pairs, *sizes], default=1) * values[0].element_size() // max(1, len(values[0]))


def chunks(count: int, size: int) -> Iterator[slice]:
    """``range(count)`` in slices of at most ``size``."""
    for begin in range(0, count, size):
        yield slice(begin, min(count, begin + size))
