"""A private copy of a model with batch norm folded into the layers before it.

The copy shares no tensor that it changes with the model. Its structure is traced, its tensors are computed anew from
the model's at every refresh, into the same memory, so that CUDA graphs that read them stay valid.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from neurosens_fast.ops import supports_winograd

from .linear import FastLinear
from .trace import HOOKS, NotTraced, Observe, Root, has_hooks, is_special, trace
from .winograd import WinogradConvolution, is_winograd

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
FOLDABLE: tuple[type[nn.Module], ...] = (*CONVOLUTIONS, nn.Linear)
NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class _Folded:
    """A layer of the copy that stands for ``layer`` and, if there is one, the ``norm`` behind it."""

    layer: nn.Module
    norm: nn.Module | None
    copy: nn.Module
    placed: nn.Module  # what the graph calls: the copy, or what runs it faster


class PrivateCopy:
    """The traced copy of ``model``; ``folded`` counts the norms that are gone, ``convolutions`` those that are 2-D.

    ``channels_last`` says whether its convolutions lie so, and images are to. ``winograd``, the
    tile of Winograd's algorithm or 0, lets convolutions run by it where their images suit it, in channels_last memory;
    ``winograd_convolutions`` counts them. ``fast_linear`` lets large linear layers run by oneDNN.

    A norm is folded only where nothing else, no observer either, reads what the layer before it puts out. Tensors that
    would be the model's own in every bit are shared with it.
    Raises :class:`NotTraced` with the reason where the model cannot be traced. The model must be in evaluation mode.
    """

    def __init__(
        self,
        model: nn.Module,
        fold: bool,
        channels_last: bool,
        dtype: torch.dtype | None,
        observe: Observe | None = None,
        winograd: int = 0,
        fast_linear: bool = False,
    ) -> None:
        if has_hooks(model):
            raise NotTraced("the model itself carries hooks")
        if is_special(model):
            raise NotTraced("the model itself is compiled or has a forward of its own instance")
        if nn.modules.module._has_any_global_hook():
            raise NotTraced("hooks on all modules are set")
        graph, traced, observers = trace(model, observe)
        self._format = torch.channels_last if channels_last else torch.preserve_format
        self._dtype = dtype
        self._pairs: list[_Folded] = []
        self.convolutions = 0
        self._tile = winograd if channels_last else 0
        self._fast_linear = fast_linear
        modules = dict(Root(model).named_modules(remove_duplicate=False))
        root: dict[str, Any] = {**observers}
        self._place_layers(graph, modules, root, fold)
        for node in graph.nodes:
            if node.op == "get_attr":
                root[node.target] = _attribute(traced, node.target).detach()
        self.module = fx.GraphModule(root, graph)
        self.channels_last = channels_last and self.convolutions > 0
        self.folded = sum(pair.norm is not None for pair in self._pairs)
        self.winograd_convolutions = sum(isinstance(pair.placed, WinogradConvolution) for pair in self._pairs)

    def _place_layers(self, graph: fx.Graph, modules: dict[str, nn.Module], root: dict[str, Any], fold: bool) -> None:
        calls = [node for node in graph.nodes if node.op == "call_module" and node.target not in root]
        for number, node in enumerate(calls):
            module = modules[str(node.target)]
            if type(module) not in FOLDABLE or is_special(module):
                continue
            self.convolutions += isinstance(module, nn.Conv2d)
            norm_node = _norm_behind(node, modules) if fold else None
            norm = None if norm_node is None else modules[str(norm_node.target)]
            rearranged = self._format == torch.channels_last and isinstance(module, nn.Conv2d)
            if norm is None and self._dtype is None and not rearranged:
                continue
            layer = _blank(module)
            pair = _Folded(module, norm, layer, self._faster(layer, module))
            self._pairs.append(pair)
            name = f"private_{number}"  # no name of the model's may begin so: its parts would land inside
            node.target = name
            root[name] = pair.placed
            if norm_node is not None:
                norm_node.replace_all_uses_with(node)
                graph.erase_node(norm_node)
        for node in graph.nodes:
            if node.op == "call_module" and node.target not in root:
                module = modules[node.target]
                root[node.target] = self._faster(_without_gradients(module), module)

    def _faster(self, layer: nn.Module, original: Any) -> nn.Module:
        """What the graph calls for ``layer``, which stands for the model's ``original``."""
        if is_special(layer):
            return layer
        if self._tile and is_winograd(layer):
            weight = original.weight
            if supports_winograd(weight.device, self._dtype or weight.dtype, self._tile):
                return WinogradConvolution(layer, self._tile)
        if self._fast_linear and type(layer) is nn.Linear:
            return FastLinear(layer)
        return layer

    def run(self, images: Tensor) -> Any:
        """The copy's output; not by its ``__call__``, which prints where a traced line fails."""
        return self.module.forward(images)

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Inside, :meth:`run` raises :class:`NotTraced` where a folded norm works on another axis than its layer."""

        def check(layer: Any, module: Any, inputs: Any, output: Tensor) -> None:
            if output.dim() != layer.weight.dim():  # [N, L, F]: batch norm takes the second axis, linear the last
                raise NotTraced("a batch norm normalises another axis than the layer before it puts out")

        handles = [
            pair.placed.register_forward_hook(partial(check, pair.copy))
            for pair in self._pairs
            if pair.norm is not None
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def clear(self) -> None:
        """Let go of all tensors and modules at once; a traced module is otherwise freed by the garbage collector."""
        self._pairs.clear()
        for table in (self.module._modules, self.module._parameters, self.module._buffers):
            table.clear()

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the copy's tensors from the model's present ones."""
        for pair in self._pairs:
            weight, bias = _folded_tensors(pair.layer, pair.norm)
            if self._format == torch.channels_last and weight.dim() == 4:
                # Not contiguous(), which leaves the strides of a single channel, by which torch chooses the output's.
                weight = weight.to(memory_format=torch.channels_last)
            _put(pair.copy, "weight", weight if self._dtype is None else weight.to(self._dtype))
            if bias is not None:
                _put(pair.copy, "bias", bias if self._dtype is None else bias.to(self._dtype))
            if isinstance(pair.placed, WinogradConvolution):
                pair.placed.forget()


def _norm_behind(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The batch norm that alone uses what ``node`` puts out, and can be folded."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    if user.op != "call_module" or user.args != (node,) or user.kwargs:
        return None
    if str(user.target) not in modules:  # an observer
        return None
    norm = modules[str(user.target)]
    statistics: Any = getattr(norm, "running_mean", None)
    if type(norm) not in NORMS or is_special(norm) or statistics is None:
        return None
    layer: Any = modules[str(node.target)]
    if isinstance(layer, nn.Linear) and not isinstance(norm, nn.BatchNorm1d):
        return None
    return user if statistics.numel() == layer.weight.shape[0] else None


def _folded_tensors(layer: Any, norm: Any) -> tuple[Tensor, Tensor | None]:
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    if norm is None:
        return weight, bias
    wide = torch.float64 if weight.device.type != "mps" else weight.dtype
    scale = (norm.running_var.to(wide) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().to(wide)
    shift = -norm.running_mean.to(wide) * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().to(wide)
    if bias is not None:
        shift = shift + bias.to(wide) * scale
    folded = weight.to(wide) * scale.view(-1, *(1,) * (weight.dim() - 1))
    return folded.to(weight.dtype), shift.to(weight.dtype)


def _blank(layer: nn.Module) -> nn.Module:
    """A layer of the same settings that has no tensors yet."""
    blank = _without_hooks(layer)
    blank._parameters = dict.fromkeys(("weight", "bias"))
    return blank


def _without_hooks(module: nn.Module) -> nn.Module:
    """A shallow copy whose own hooks, idle ones, are gone."""
    bare = copy.copy(module)
    for name in HOOKS:
        setattr(bare, name, OrderedDict())
    return bare


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    present = module._parameters.get(name)
    if present is None or present.shape != value.shape or present.stride() != value.stride():
        module._parameters[name] = nn.Parameter(value.clone(), requires_grad=False)
    else:
        present.copy_(value)


def _without_gradients(module: nn.Module) -> nn.Module:
    """``module`` if it is special or has no tensors; else one that shares its tensors, without their gradients."""
    if any(is_special(inner) for inner in module.modules()):
        return module
    if next(module.parameters(), None) is None:
        return module
    shared = _without_hooks(module)
    shared._parameters = {
        name: None if value is None else nn.Parameter(value.detach(), requires_grad=False)
        for name, value in module._parameters.items()
    }
    shared._modules = {
        name: None if inner is None else _without_gradients(inner) for name, inner in module._modules.items()
    }
    return shared


def _attribute(model: nn.Module, target: str) -> Tensor:
    path, _, name = target.rpartition(".")
    value: Any = getattr(model.get_submodule(path), name)
    if not isinstance(value, Tensor):
        raise NotTraced(f"the model's {target} is no tensor")
    return value
