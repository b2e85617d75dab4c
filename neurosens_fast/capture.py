"""Choosing layers, running the benign and the adversarial batch together, and reducing what each layer puts out.

Benign and adversarial inputs go through the model as one batch of 2N, benign half first. A tap is a
forward hook that splits the output of its module into the two halves, feeds them to that layer's
:class:`~neurosens_fast.statistics.PairStatistics` at once, and keeps nothing. Because the reduction
happens inside the hook, an in-place module that follows cannot spoil the values.

Everything here leaves the model as it was: hooks are removed and modes restored per module, also
when an exception passes through.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .statistics import PairStatistics

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""What a model takes: one tensor, a tuple of tensors (positional), or a dict of tensors (by keyword)."""

CHANNEL_FIRST: tuple[type[nn.Module], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Modules whose output is ``[N, C, *S]``."""

CHANNEL_LAST: tuple[type[nn.Module], ...] = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)
"""Modules whose output is ``[N, *S, C]``."""

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Threshold),
)
"""Element-wise modules; their channel is where the module that ran before them put it."""

_DEFAULT_LAYERS = (*CHANNEL_FIRST, nn.Linear, nn.LayerNorm, nn.RMSNorm, *ACTIVATIONS)


def default_layers(model: nn.Module) -> list[str]:
    """Names of all convolutions, normalisations, linear layers and activation modules, in the model's order."""
    return [name for name, module in model.named_modules() if isinstance(module, _DEFAULT_LAYERS)]


def find_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of ``model`` with the dotted names ``layers``, in that order.

    Raises ``ValueError`` for a name the model does not have (listing the closest ones), for two names
    of one module, and for no name at all; ``TypeError`` for a name that is no string.
    """
    if isinstance(layers, str):
        layers = [layers]
    known = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, nn.Module] = {}
    names: dict[int, str] = {}
    for name in layers:
        if not isinstance(name, str):
            raise TypeError(f"layers must be dotted names of modules (str), got {type(name).__name__}")
        if name not in known:
            raise ValueError(f"the model has no layer {name!r}; {_closest(name, [n for n in known if n])}")
        module = known[name]
        if names.setdefault(id(module), name) != name:
            raise ValueError(f"layers {names[id(module)]!r} and {name!r} are the same module; keep one of them")
        found[name] = module
    if not found:
        raise ValueError("no layer to tap: the model has no convolution, normalisation, linear or activation module")
    return found


def _closest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or [n for n in known if name and name in n][:5]
    if close:
        return f"closest: {', '.join(close)}"
    return f"its layers begin {', '.join(known[:8])}" if known else "it has no named layers"


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module of ``model`` in evaluation mode inside, in the mode it had before afterwards.

    The flags are set directly: ``train()`` and ``eval()`` overridden by a user have no side effect here.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def batch_length(inputs: Inputs) -> int:
    """Number of samples N of model inputs ``[N, ...]``.

    Raises ``TypeError`` for inputs that are no tensor, tuple or dict of tensors, ``ValueError`` for
    leaves of different lengths.
    """
    lengths = {leaf.shape[0] if leaf.dim() else 0 for leaf in _leaves(inputs)}
    if len(lengths) != 1:
        raise ValueError(f"the inputs of a batch differ in length: {sorted(lengths)}; their first axis is the sample")
    return lengths.pop()


def _leaves(inputs: Inputs) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    leaves = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if not isinstance(leaves, list | tuple) or not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise TypeError(f"model inputs must be a tensor, a tuple or a dict of tensors, got {type(inputs).__name__}")
    return list(leaves)


def pair_inputs(benign: Inputs, adversarial: Inputs) -> Inputs:
    """One batch of 2N ``[benign, adversarial]``, concatenated leaf by leaf.

    Raises ``ValueError`` or ``TypeError`` where the two differ in structure, shape, dtype or device.
    """
    for first, second in ((benign, adversarial), (adversarial, benign)):
        if isinstance(first, Mapping) and (not isinstance(second, Mapping) or first.keys() != second.keys()):
            raise ValueError("benign and adversarial inputs must be dicts with the same keys")
    parts, others = _leaves(benign), _leaves(adversarial)
    if isinstance(benign, Mapping) and isinstance(adversarial, Mapping):
        others = [adversarial[key] for key in benign]
    if len(parts) != len(others) or isinstance(benign, Tensor) != isinstance(adversarial, Tensor):
        raise ValueError(f"benign inputs have {len(parts)} tensors, adversarial inputs {len(others)}")
    for part, other in zip(parts, others, strict=True):
        for what in ("shape", "dtype", "device"):
            ours, theirs = getattr(part, what), getattr(other, what)
            if ours != theirs:
                raise ValueError(f"benign and adversarial inputs differ in {what}: {_plain(ours)} and {_plain(theirs)}")
    joined = [torch.cat((part, other)) for part, other in zip(parts, others, strict=True)]
    if isinstance(benign, Tensor):
        return joined[0]
    return dict(zip(benign, joined, strict=True)) if isinstance(benign, Mapping) else tuple(joined)


def _plain(value: object) -> str:
    return str(list(value)) if isinstance(value, torch.Size) else str(value)


def call_model(model: nn.Module, inputs: Inputs) -> Any:
    """``model(x)``, ``model(*inputs)`` or ``model(**inputs)``, by the structure of ``inputs``."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def paired_forward(model: nn.Module, benign: Inputs, adversarial: Inputs) -> Any:
    """The model's output for ``[benign, adversarial]`` as one batch of 2N, in evaluation mode, without gradients.

    Uses ``no_grad`` rather than inference mode: a tensor that the model caches in its forward stays
    usable in later training.
    """
    with evaluation_mode(model), torch.no_grad():
        return call_model(model, pair_inputs(benign, adversarial))


@dataclass
class TapRow:
    """What one tap has seen: the module's type, the channel axis, the shape of one output, the totals."""

    module_type: str
    channel_dim: int
    shape: tuple[int, ...]
    statistics: PairStatistics


class Taps:
    """Context manager that reduces the paired outputs of named modules to per-neuron totals.

    Inside, each forward of ``model`` on a batch of 2N (benign half first) adds N pairs to every tapped
    layer. ``rows`` maps layer names to :class:`TapRow` in the order of execution; a module called
    several times per forward gives one row per call: ``relu``, ``relu#2``, ...

    ``layers`` are dotted names (default :func:`default_layers`). The channel axis follows the module
    that produced the values (convolution, batch norm: 1; linear, layer norm: last) through
    element-wise modules; ``channel_dims`` (name -> axis) overrides it. ``pairs``, when set, is the N
    that every tapped output must have.

    Raises ``ValueError`` or ``TypeError`` that names the layer and the mend: unknown layer, output that
    is no tensor, not floating point, without a channel axis, or whose first axis is not the batch.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        channel_dims: Mapping[str, int] | None = None,
    ) -> None:
        self.model = model
        self.modules = find_layers(model, default_layers(model) if layers is None else layers)
        self.channel_dims = dict(channel_dims or {})
        for name in self.channel_dims:
            if name not in self.modules:
                close = _closest(name, list(self.modules))
                raise ValueError(f"channel_dims names {name!r}, which is not among the tapped layers; {close}")
        self.rows: dict[str, TapRow] = {}
        self.pairs: int | None = None
        self._calls: dict[str, int] = {}
        self._axis = 1
        self._handles: list[RemovableHandle] = []

    @property
    def statistics(self) -> dict[str, PairStatistics]:
        """The totals by row name."""
        return {name: row.statistics for name, row in self.rows.items()}

    def silent(self) -> list[str]:
        """Tapped layers that no forward has reached yet."""
        return [name for name in self.modules if name not in self.rows]

    def __enter__(self) -> Taps:
        if self._handles:
            raise RuntimeError("these taps are already attached; make a second Taps object")
        try:
            self._handles.append(self.model.register_forward_pre_hook(self._begin))
            tapped = {id(module): name for name, module in self.modules.items()}
            for module in self.model.modules():
                name = tapped.get(id(module))
                if name is not None or isinstance(module, CHANNEL_FIRST + CHANNEL_LAST):
                    self._handles.append(module.register_forward_hook(self._hook(name)))
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()

    def _detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self._calls.clear()
        self._axis = 1

    def _hook(self, name: str | None) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(module, CHANNEL_LAST):
                self._axis = -1
            elif isinstance(module, CHANNEL_FIRST):
                self._axis = 1
            if name is not None:
                self._reduce(name, module, output)

        return hook

    def _reduce(self, name: str, module: nn.Module, output: Any) -> None:
        check_output(name, output, self.pairs)
        call = self._calls[name] = self._calls.get(name, 0) + 1
        row_name = name if call == 1 else f"{name}#{call}"
        axis = self.channel_dims.get(name, self._axis)
        if not -output.dim() <= axis < output.dim() or axis % output.dim() == 0:
            raise ValueError(
                f"layer {name!r}: channel axis {axis} does not fit its output {list(output.shape)}; "
                f"give another in channel_dims={{{name!r}: ...}}"
            )
        neurons = output.shape[axis]
        row = self.rows.get(row_name)
        if row is None:
            with torch.inference_mode(False):  # totals made in a caller's inference mode could not be added to later
                totals = PairStatistics(neurons, output.device)
            row = self.rows[row_name] = TapRow(type(module).__name__, axis, tuple(output.shape[1:]), totals)
        elif row.statistics.neurons != neurons:
            raise ValueError(
                f"layer {row_name!r} has {neurons} channels on axis {axis}, earlier batches had "
                f"{row.statistics.neurons}; name the channel axis in channel_dims={{{name!r}: ...}} or leave the "
                "layer out"
            )
        half = output.shape[0] // 2
        values = output.detach()
        with torch.no_grad():
            row.statistics.update(values.narrow(0, 0, half), values.narrow(0, half, half), axis)


def check_output(name: str, output: Any, pairs: int | None) -> None:
    """Raise one sentence that names the layer if ``output`` is not a paired floating-point activation."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"layer {name!r} puts out a {type(output).__name__}, not a tensor; tap a module inside it or leave it out"
        )
    if not output.is_floating_point():
        raise TypeError(f"layer {name!r} puts out {output.dtype}, which has no sensitivity; leave it out of layers")
    if output.dim() < 2:
        raise ValueError(
            f"layer {name!r} puts out shape {list(output.shape)}, which has no channel axis; leave it out of layers"
        )
    length = output.shape[0]
    if pairs is not None and length != 2 * pairs:
        raise ValueError(
            f"layer {name!r} puts out {length} rows for {pairs} pairs ({2 * pairs} expected), so its first axis is "
            "not the batch; leave it out of layers"
        )
    if length % 2:
        raise ValueError(
            f"layer {name!r} saw an odd batch of {length}; a paired batch holds N benign, then N adversarial samples"
        )


def parameters_device(model: nn.Module) -> torch.device | None:
    """The device of the model's parameters and buffers; None without any, or with several."""
    tensors: Iterable[Tensor] = (*model.parameters(), *model.buffers())
    devices = {tensor.device for tensor in tensors}
    return devices.pop() if len(devices) == 1 else None
