"""What a private copy calls behind its layers: a tap, or a ReLU and its tap in one."""

from __future__ import annotations

import operator
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from neurosens_fast.capture import Taps, main_tensor
from neurosens_fast.capture.channels import CONVOLUTIONS, LINEAR, NORMS_FIRST, NORMS_LAST

from .linear import FastLinear
from .trace import add_in_place, is_special
from .winograd import WinogradConvolution

_MAKE_NEW = frozenset((*CONVOLUTIONS, *LINEAR, *NORMS_FIRST, *NORMS_LAST, WinogradConvolution, FastLinear))
"""Modules that put out a tensor of their own, which they do not keep."""


@dataclass(frozen=True)
class Place:
    """The row of a tap, its layer, that layer's module, and the channel axis, as a forward of the model showed them."""

    row: str
    layer: str
    module: nn.Module
    axis: int | None


class Observer(nn.Module):
    """Adds the outputs of one layer to the rows of ``taps``; ``is_relu``: takes the layer's input, and is its ReLU."""

    def __init__(self, place: Place, taps: Taps) -> None:
        super().__init__()
        self.held = (place,)  # in a tuple, so that the module in it is none of the copy's
        self.taps = taps
        self.is_relu = False

    def forward(self, output: Any) -> Tensor | None:
        """Nothing; of a ReLU ``output``, overwritten."""
        (place,) = self.held
        if self.is_relu:
            self.taps.reduce_relu_(place.row, place.layer, output, place.axis)
            return output  # type: ignore[no-any-return]
        self.taps.reduce(place.row, place.layer, place.module, main_tensor(output), place.axis)
        return None


def fuse_relus(copy: fx.GraphModule, rows: Container[str]) -> list[str]:
    """Let observers of plain ReLUs be the ReLU, where that may overwrite its input; returns which of ``rows`` are so.

    It may where the ReLU itself would (``inplace=True``), and where its input is new memory that nobody reads later.
    """
    modules: dict[str, Any] = dict(copy.named_modules(remove_duplicate=False))
    fused = []
    for node, observer in _observed_relus(copy.graph, modules):
        relu = node.args[0]
        assert isinstance(relu, fx.Node)
        if observer.held[0].row not in rows or not (
            modules[str(relu.target)].inplace or _is_overwritable(relu, modules)
        ):
            continue
        observer.is_relu = True
        fused.append(observer.held[0].row)
        relu.replace_all_uses_with(node)
        node.args = relu.args
        copy.graph.erase_node(relu)
    if fused:
        copy.recompile()
    return fused


def _observed_relus(graph: fx.Graph, modules: dict[str, Any]) -> Iterator[tuple[fx.Node, Observer]]:
    """Observers right behind the call of a plain ``nn.ReLU`` without hooks, of one tensor."""
    for node in list(graph.nodes):
        observer = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(observer, Observer) or not isinstance(node.args[0], fx.Node):
            continue
        relu = node.prev
        if relu is not node.args[0] or relu.op != "call_module" or relu.kwargs or len(relu.args) != 1:
            continue
        module = modules[str(relu.target)]
        # The observer of a module around the ReLU may stand there too, where the ReLU's own call is not observed.
        if type(module) is nn.ReLU and not is_special(module) and observer.held[0].module is module:
            yield node, observer


def _is_overwritable(relu: fx.Node, modules: dict[str, Any]) -> bool:
    """Whether the input of ``relu`` is new memory that only ``relu`` reads, and taps before it."""
    node: Any = relu.args[0]
    reader = relu
    while isinstance(node, fx.Node):
        if any(user is not reader and not _only_looks(user, reader, modules) for user in node.users):
            return False
        if node.op == "call_module":
            module = modules[str(node.target)]
            return type(module) in _MAKE_NEW and not is_special(module)
        if _is_sum(node):
            return True
        if not _is_sum_in_place(node):
            return False
        node, reader = node.args[0], node
    return False


def _only_looks(user: fx.Node, reader: fx.Node, modules: dict[str, Any]) -> bool:
    observer = modules.get(str(user.target)) if user.op == "call_module" else None
    return isinstance(observer, Observer) and not observer.is_relu and user < reader


def _is_sum(node: fx.Node) -> bool:
    called = (node.op == "call_function" and node.target in (operator.add, torch.add)) or (
        node.op == "call_method" and node.target == "add"
    )
    return called and not set(node.kwargs) - {"input", "other", "alpha"}  # out= would be somebody else's


def _is_sum_in_place(node: fx.Node) -> bool:
    return (node.op == "call_function" and node.target is add_in_place) or (
        node.op == "call_method" and node.target == "add_"
    )
