"""The hooks that an SNSLoss puts on a model: one on each chosen module, one where its forward begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.utils._pytree import tree_leaves

from neurosens_fast import ops
from neurosens_fast.capture import check_output, main_tensor

from .records import Recorder, Row, in_backward


class _Hook:
    """A hook of one module; in copies and pickles of the module it does nothing."""

    def __init__(self, recorder: Recorder, module: nn.Module) -> None:
        self.recorder = recorder
        self.module = module

    def __reduce__(self) -> Any:
        return _inert, ()

    @property
    def idle(self) -> bool:
        """Whether it would do nothing in a forward now, so that an attack may leave it out."""
        return not self.recorder.collecting

    def foreign(self, module: nn.Module) -> bool:
        """Whether ``module`` only shares the hooks of the module that was hooked."""
        if module is self.module:
            return False
        if getattr(module, "_is_replica", False):
            raise TypeError(
                "nn.DataParallel runs replicas of the model, which an SNSLoss cannot see; use DistributedDataParallel"
            )
        return True


def _nothing(*_: Any) -> None:
    pass


_nothing.idle = True  # type: ignore[attr-defined]


def _inert() -> Any:
    return _nothing


class LayerHook(_Hook):
    """Forward hook that reduces the output of a chosen module to the numbers of its :class:`Row`."""

    def __init__(self, recorder: Recorder, module: nn.Module, name: str, named: bool) -> None:
        super().__init__(recorder, module)
        self.name = name
        self.named = named
        self.rows: list[Row | None] = []  # by number of the call; None where that call cannot be tapped
        self.repeated: Row | None = None  # stands for any row where a backward pass repeats a forward
        self.begin()

    def begin(self) -> None:
        """A new forward."""
        self.calls = 0
        self._done = False

    def install(self, rows: list[Row | None]) -> None:
        """Fill ``rows`` from now on."""
        self.rows = rows
        known = next((row for row in rows if row is not None), None)
        for row in rows:  # one rule for all calls, since a repeated one cannot be told from another
            if row is not None:
                row.overwritten = any(other is not None and other.overwritten for other in rows)
        self.repeated = known and replace(known, chosen=False)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._done:
            self._done = False
            return
        row = self._begin(module)
        if row is None:
            return
        output = main_tensor(output)
        if row is not self.repeated:
            self._check(row, output)
        if row.overwritten:
            output = output.clone()
        if row.chosen and self.recorder.mode != "pairs":
            self._check_halves(row, output)
            row.keep(output)
        else:
            self._measure(row, output)

    def _measure(self, row: Row, pair: Tensor) -> None:
        recorder = self.recorder
        row.store(pair, *ops.paired_sensitivity(pair, recorder.norm, row.axis, detach_benign=recorder.detach_benign))

    def relu(self, module: nn.Module, pair: Tensor, inplace: bool) -> Tensor | None:
        """``relu(pair)``, measured in the same pass; None where ``pair`` is no pair to be measured."""
        if self.recorder.mode in ("benign", "adversarial") and not in_backward():
            return None
        row = self._begin(module)
        self._done = True
        if row is None:
            return None
        if row is not self.repeated:
            self._check(row, pair)
        if row.overwritten:
            out = relu(pair, inplace=inplace)
            self._measure(row, out.clone())
            return out
        recorder = self.recorder
        function = ops.relu_tap_ if inplace else ops.relu_tap
        out, distances, sensitivity = function(pair, recorder.norm, row.axis, detach_benign=recorder.detach_benign)
        row.store(out, distances, sensitivity)
        return out

    def _begin(self, module: nn.Module) -> Row | None:
        """The row of this call; None where it is not measured."""
        recorder = self.recorder
        if in_backward():
            return self.repeated if recorder.replays_pairs() and not self.foreign(module) else None
        if not recorder.collecting or self.foreign(module):
            return None
        if not recorder.prepared:
            recorder.ran_unprepared = True
            return None
        self.calls += 1
        if self.calls > len(self.rows):
            self._refuse_unseen()
            return None
        row = self.rows[self.calls - 1]
        if row is None or not (row.chosen or (recorder.mode == "pairs" and _checkpointed())):
            return None
        if recorder.gradients and not torch.is_grad_enabled():
            raise RuntimeError(
                f"layer {self.name!r} ran without gradients inside a model that has them, so its loss would have none; "
                "checkpoint with use_reentrant=False, take torch.no_grad() out of the model, or leave the layer out"
            )
        return row

    def _refuse_unseen(self) -> None:
        if self.rows:
            raise ValueError(
                f"layer {self.name!r} ran more than the {len(self.rows)} times that were prepared; call sns.prepare(x) "
                "with inputs for which it runs as often"
            )
        if self.named:
            raise ValueError(
                f"layer {self.name!r} runs in training mode only, so its channel axis is not known; leave it out of "
                "layers"
            )

    def _check(self, row: Row, output: Any) -> None:
        check_output(self.name, output, row.axis)
        length, expected = output.shape[0], self.recorder.length
        if expected is not None and length != expected:
            raise ValueError(
                f"layer {self.name!r} puts out {length} rows for {expected} samples, so its first axis is not the "
                "batch; leave it out of layers"
            )
        if self.recorder.mode == "pairs" and length % 2:
            raise ValueError(
                f"layer {self.name!r} saw an odd batch of {length}; a paired batch holds N benign, then N adversarial "
                "samples"
            )
        if output.shape[row.axis] != row.channels:
            raise ValueError(
                f"layer {self.name!r} has {output.shape[row.axis]} channels on axis {row.axis}, but had {row.channels} "
                f"when it was prepared; name the channel axis in channel_dims={{{self.name!r}: ...}}"
            )

    def _check_halves(self, row: Row, output: Tensor) -> None:
        for what in ("shape", "dtype", "device"):
            if row.kept and getattr(row.kept[0][0], what) != getattr(output, what):
                raise ValueError(
                    f"layer {self.name!r} puts out another {what} in adversarial() than in benign(): "
                    f"{_plain(output, what)} after {_plain(row.kept[0][0], what)}; give both the same samples in the "
                    "same order"
                )


def _plain(output: Tensor, what: str) -> str:
    return str(list(output.shape) if what == "shape" else getattr(output, what))


def _checkpointed() -> bool:
    """Whether a forward may be one that activation checkpointing repeats in the backward pass."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


class RootHook(_Hook):
    """Forward pre-hook of the whole model: a paired forward begins."""

    def __init__(
        self,
        recorder: Recorder,
        module: nn.Module,
        layers: list[LayerHook],
        prepare: Callable[[tuple[Any, ...], dict[str, Any], int, int], None],
    ) -> None:
        super().__init__(recorder, module)
        self.layers = layers
        self._prepare = prepare

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder = self.recorder
        if not recorder.collecting or in_backward() or self.foreign(module):
            return
        if recorder.forwards:
            raise RuntimeError(
                f"the model was called twice inside one {recorder.mode}(); call it once, and make adversarial inputs "
                "before"
            )
        recorder.forwards = 1
        recorder.gradients = torch.is_grad_enabled()
        for hook in self.layers:
            hook.begin()
        if not torch.compiler.is_compiling():
            self._inspect(args, kwargs)

    def _inspect(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder = self.recorder
        recorder.length = length = batch_size(args, kwargs)
        paired = recorder.mode == "pairs"
        if paired and length is not None and length % 2:
            raise ValueError(
                f"the model was given an odd batch of {length} inside pairs(); give it torch.cat([x, x_adv]), N benign "
                "samples, then N adversarial ones"
            )
        if not recorder.prepared:
            if not length:
                raise ValueError(
                    "no tensor with samples is among what the model was given; call sns.prepare(x) with some benign "
                    "inputs first"
                )
            self._prepare(args, kwargs, length, length // 2 if paired else length)


def batch_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """The length of the first tensor that a model is called with; None without one."""
    return next((x.shape[0] for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim()), None)
