"""The pixels that reach every tensor of a traced model, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from neurosens_fast.capture.channels import ACTIVATIONS

from . import reach
from .reach import Flat, Grid, Reach, UnknownGeometry

_SAME_MODULES = (*ACTIVATIONS, nn.Identity, nn.modules.dropout._DropoutNd)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_OTHER_NORMS = (nn.GroupNorm, nn.InstanceNorm2d, nn.LayerNorm)
_ELEMENTWISE_NAMES = """
abs add add_in_place alpha_dropout bfloat16 celu clamp clamp_max clamp_min clip clone contiguous cpu cuda detach div
double dropout dropout2d elu exp feature_alpha_dropout feature_dropout float gelu half hardsigmoid hardswish hardtanh
leaky_relu log log1p logsigmoid masked_fill maximum minimum mish mul multiply neg pow prelu relu relu6 rrelu rsqrt selu
sigmoid silu softplus softsign sqrt square stochastic_depth sub subtract tanh to true_divide truediv type where
_divide_in_place _multiply_in_place _normalize _subtract_in_place
"""
_ELEMENTWISE = frozenset(_ELEMENTWISE_NAMES.split())
_RESHAPES = frozenset({"flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten"})
_REDUCTIONS = frozenset({"mean", "sum", "amax", "amin"})
_IN_PLACE = frozenset({"add_in_place", "_subtract_in_place", "_multiply_in_place", "_divide_in_place"})


class ReachTrace(fx.Interpreter):
    """Runs a traced model on images and notes, at each of its ``observers``, what reaches what was put out there.

    ``outputs`` and ``inputs`` hold, by the names of the observers, the reach of the output of the module call before
    it and of what that call read. Raises :class:`UnknownGeometry` at an operation that is not known.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, observers: dict[str, nn.Module]) -> None:
        super().__init__(root, graph=graph)
        self.extra_traceback = False  # it would rewrite the messages
        self.outputs: dict[str, Reach] = {}
        self.inputs: dict[str, Reach] = {}
        self._observers = observers
        self._reach: dict[fx.Node, Reach] = {}
        self._shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, as usual; its reach is noted."""
        if n.target in self._observers:
            return self._observe(n)
        if len(self.outputs) == len(self._observers):
            return None  # what follows need not be known
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self._shapes[n] = result.shape
        if n.op == "placeholder":
            self._reach[n] = reach.image(*result.shape[2:])
            return result
        if not any(node in self._reach for node in n.all_input_nodes) or _is_plain(result):
            return result
        if not isinstance(result, Tensor):
            raise UnknownGeometry(f"{_named(n, self._module(n))} puts out several tensors")
        found = self._rule(n, args, kwargs, result.shape)
        self._reach[n] = found
        name = _function(n)
        first = n.args[0] if n.args else None
        if isinstance(first, fx.Node) and (name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))):
            self._reach[first] = found  # it was written in place, and may be read again
        return result

    def _observe(self, node: fx.Node) -> None:
        called = node.all_input_nodes[0]
        name = str(node.target)
        if called in self._reach:
            self.outputs[name] = self._reach[called]
        read = next((part for part in called.args if isinstance(part, fx.Node)), None)
        if read in self._reach:
            self.inputs[name] = self._reach[read]

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.fetch_attr(str(node.target)) if node.op == "call_module" else None

    def _rule(self, node: fx.Node, args: Any, kwargs: Any, shape: torch.Size) -> Reach:
        module, name = self._module(node), _function(node).rstrip("_")
        parts = [self._reach[part] for part in node.all_input_nodes if part in self._reach]
        part = parts[0]
        if isinstance(module, _SAME_MODULES) or (module is None and name in _ELEMENTWISE):
            return reach.united(parts, shape)
        if isinstance(module, _BATCH_NORMS) and module.running_mean is not None:
            return part
        if module is None and name == "batch_norm" and not _given(args, kwargs, 5, "training", False):
            return part
        if isinstance(module, _OTHER_NORMS) and not _per_row(module, part):
            return _everywhere(part, shape)
        if isinstance(part, Flat) and (isinstance(module, nn.Linear) or (module is None and name == "linear")):
            return _everywhere(part, shape)
        if isinstance(module, nn.Flatten | nn.Unflatten) or (module is None and name in _RESHAPES):
            return reach.reshaped(part, self._shapes[node.all_input_nodes[0]], shape)
        if module is None and name in _REDUCTIONS:
            return _reduced(part, _given(args, kwargs, 1, "dim", None), shape)
        if module is None and name in ("cat", "concat", "concatenate"):
            return self._concatenated(node, args, kwargs, shape)
        if isinstance(part, Grid) and len(shape) == 4:
            found = _slid(part, module, name, args, kwargs, shape)
            if found is not None:
                return found
        raise UnknownGeometry(f"{_named(node, module)} is not known")

    def _concatenated(self, node: fx.Node, args: Any, kwargs: Any, shape: torch.Size) -> Reach:
        whole: Any = node.args[0] if node.args else node.kwargs["tensors"]
        values = args[0] if args else kwargs["tensors"]
        axis = _given(args, kwargs, 1, "dim", 0) % len(shape)
        parts = [self._reach.get(part) for part in whole]
        if axis != 1 or not all(isinstance(part, fx.Node) for part in whole):
            raise UnknownGeometry(f"tensors are concatenated along axis {axis}")
        if len(shape) == 4:
            return reach.united([part for part in parts if part is not None], shape)
        boxes = []
        for part, value in zip(parts, values, strict=True):
            if isinstance(part, Grid):
                raise UnknownGeometry("tensors of different kinds are concatenated")
            boxes.append(reach.empty_boxes(value.shape[1]) if part is None else part.boxes)
        return Flat(torch.cat(boxes))


def _per_row(module: nn.Module, part: Reach) -> bool:
    """Whether a layer norm of a map reads its last axis only."""
    return isinstance(module, nn.LayerNorm) and isinstance(part, Grid) and len(module.normalized_shape) < 2


def _slid(part: Grid, module: Any, name: str, args: Any, kwargs: Any, shape: torch.Size) -> Grid | None:
    """What windows, resizing and slices make of a map; None for anything else."""
    if isinstance(module, nn.Conv2d):
        padding = _conv_padding(module.padding, module.kernel_size, module.dilation)
        sizes = module.kernel_size, module.stride, padding, module.dilation
        return _windows(part, shape, *sizes, module.padding_mode)
    if module is None and name == "conv2d":
        size = _given(args, kwargs, 1, "weight", None).shape[2:]
        apart = _given(args, kwargs, 5, "dilation", 1)
        padding = _conv_padding(_given(args, kwargs, 4, "padding", 0), size, apart)
        return _windows(part, shape, size, _given(args, kwargs, 3, "stride", 1), padding, apart)
    if isinstance(module, nn.MaxPool2d):
        return _windows(part, shape, module.kernel_size, module.stride, module.padding, module.dilation)
    if isinstance(module, nn.AvgPool2d):
        return _windows(part, shape, module.kernel_size, module.stride, module.padding)
    if module is None and name in ("max_pool2d", "avg_pool2d"):
        kernel = _given(args, kwargs, 1, "kernel_size", None)
        stride = _given(args, kwargs, 2, "stride", None) or kernel
        dilation = _given(args, kwargs, 4, "dilation", 1) if name == "max_pool2d" else 1
        return _windows(part, shape, kernel, stride, _given(args, kwargs, 3, "padding", 0), dilation)
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) or (
        module is None and name in ("adaptive_avg_pool2d", "adaptive_max_pool2d")
    ):
        rows = reach.adaptive_windows(part.rows, shape[2])
        return Grid(rows, reach.adaptive_windows(part.columns, shape[3]))
    if isinstance(module, nn.ZeroPad2d) or (module is None and name == "pad"):
        sides = module.padding if module is not None else _given(args, kwargs, 1, "pad", ())
        mode = "constant" if module is not None else _given(args, kwargs, 2, "mode", "constant")
        left, _, top, _ = (*sides, 0, 0, 0, 0)[:4]
        return _windows(part, shape, 1, 1, (top, left), 1, mode)
    if isinstance(module, nn.Upsample) and module.mode == "nearest":
        return _enlarged(part, shape, None if module.size is not None else module.scale_factor)
    if module is None and name == "interpolate" and _given(args, kwargs, 3, "mode", "nearest") == "nearest":
        again = _given(args, kwargs, 5, "recompute_scale_factor", None)
        return _enlarged(part, shape, None if again else _given(args, kwargs, 2, "scale_factor", None))
    if module is None and name == "getitem":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        if all(isinstance(piece, slice) for piece in index):
            rows, columns = (*index, *[slice(None)] * 4)[2:4]
            return Grid(part.rows[rows], part.columns[columns])
    return None


def _windows(
    part: Grid, shape: torch.Size, kernel: Any, stride: Any, padding: Any, dilation: Any = 1, mode: str = "zeros"
) -> Grid:
    k, s, p, d = map(_pair, (kernel, stride, padding, dilation))
    rows = reach.windows(part.rows, shape[2], k[0], s[0], p[0], d[0], mode)
    return Grid(rows, reach.windows(part.columns, shape[3], k[1], s[1], p[1], d[1], mode))


def _enlarged(part: Grid, shape: torch.Size, scale: Any) -> Grid:
    scales = (None, None) if scale is None else _pair(scale)
    return Grid(
        reach.nearest(part.rows, shape[2], scales[0]),
        reach.nearest(part.columns, shape[3], scales[1]),
    )


def _conv_padding(padding: Any, kernel: Any, dilation: Any) -> Any:
    if padding == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, _pair(dilation), strict=True))
    return 0 if padding == "valid" else padding


def _everywhere(part: Reach, shape: Sequence[int]) -> Reach:
    """Of a layer that reads all positions and channels."""
    if isinstance(part, Flat) and len(shape) == 2:
        return Flat(reach.joined_boxes(part.boxes).repeat(shape[1], 1))
    if isinstance(part, Grid) and len(shape) == 4:
        whole = part.everything()
        return Grid(whole.rows.repeat(shape[2], 1), whole.columns.repeat(shape[3], 1))
    raise UnknownGeometry(f"a layer reads all of a tensor and puts out {list(shape)}")


def _reduced(part: Reach, dim: Any, shape: torch.Size) -> Reach:
    axes = set() if dim is None else {axis % 4 for axis in (dim if isinstance(dim, list | tuple) else [dim])}
    if isinstance(part, Grid):
        if len(shape) == 4 and 0 not in axes:
            rows = reach.joined(part.rows) if 2 in axes else part.rows
            return Grid(rows, reach.joined(part.columns) if 3 in axes else part.columns)
        if len(shape) == 2 and axes == {2, 3}:
            return Flat(part.everything().boxes().repeat(shape[1], 1))
    raise UnknownGeometry(f"a tensor is reduced along {dim}")


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[-1]) if isinstance(value, Sequence) else (value, value)


def _given(args: Any, kwargs: Any, place: int, name: str, otherwise: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, otherwise)


def _function(node: fx.Node) -> str:
    """The name of the function or method that a node calls; nothing for a module."""
    if node.op == "call_method":
        return str(node.target)
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""


def _named(node: fx.Node, module: nn.Module | None) -> str:
    return _function(node) or (f"{type(module).__name__} {str(node.target).removeprefix('model.')!r}")


def _is_plain(value: Any) -> bool:
    """Whether a value holds no tensor: a size, a number."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str | torch.dtype | torch.device)
