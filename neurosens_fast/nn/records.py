"""What a paired forward leaves behind: a distance and a sensitivity per neuron, and no activation."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from neurosens_fast import ops

Mode = Literal["pairs", "benign", "adversarial"]

_SPANS = 8192  # bounds of paired forwards whose backward may still come; a step adds two


class Recorder:
    """What all hooks of one SNSLoss share."""

    looking: ClassVar[bool] = False
    """While any SNSLoss runs its model to look at it; no hook collects then."""

    def __init__(self, norm: int | str, detach_benign: bool) -> None:
        self.norm = norm
        self.detach_benign = detach_benign
        self.mode: Mode | None = None
        self.prepared = False
        self.begin()
        self._bounds: list[int] = []

    @property
    def collecting(self) -> bool:
        """Whether forwards count."""
        return self.mode is not None and not Recorder.looking

    def begin(self) -> None:
        """A new forward."""
        self.forwards = 0
        self.ran_unprepared = False
        self.length: int | None = None  # samples that the model was given
        self.gradients = torch.is_grad_enabled()  # whether the model itself ran with gradients

    # Activation checkpointing runs layers again inside the backward pass. That run must repeat the operators of the
    # first one, so it must know whether that one was paired: by the number that autograd gave to the node whose saved
    # tensor is being recomputed, which it drew during the first run.

    def open_span(self) -> None:
        """Nodes created from now on belong to a paired forward."""
        del self._bounds[:-_SPANS]
        self._bounds.append(torch.autograd._get_sequence_nr())

    def close_span(self) -> None:
        """Nodes created from now on do not."""
        self._bounds.append(torch.autograd._get_sequence_nr())

    def replays_pairs(self) -> bool:
        """Whether the forward that a backward pass is repeating was a paired one."""
        node = torch._C._current_autograd_node()
        return node is not None and bisect_right(self._bounds, node._sequence_nr()) % 2 == 1


def in_backward() -> bool:
    """Whether a backward pass is under way, in which only activation checkpointing runs modules."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def version(output: Tensor) -> int:
    """How often ``output`` was changed in place; -1 where nobody counts."""
    return -1 if torch.compiler.is_compiling() or output.is_inference() else output._version


@dataclass(eq=False)
class Row:
    """One call of one layer. ``chosen`` is False where only a repeated forward needs its operators."""

    name: str
    layer: str
    axis: int
    channels: int
    chosen: bool = True
    overwritten: bool = False
    """Whether a module after it changes its output in place, so that a copy of the output is measured."""
    samples: int = 0
    distances: Tensor | None = None
    sensitivity: Tensor | None = None
    kept: list[tuple[Tensor, int]] = field(default_factory=list)
    """Of two separate forwards the outputs so far, with their versions."""
    _output: weakref.ref[Tensor] | None = None
    _version: int = 0

    def clear(self) -> None:
        """Forget the last forward."""
        self.samples, self.distances, self.sensitivity, self._output = 0, None, None, None
        self.kept = []

    def store(self, output: Tensor, distances: Tensor, sensitivity: Tensor) -> None:
        """Note the numbers of a joined ``output``."""
        if not self.chosen:
            return
        self.distances, self.sensitivity = distances, sensitivity
        self.samples = output.shape[0] // 2
        if not torch.compiler.is_compiling():
            self._output, self._version = weakref.ref(output), version(output)

    def keep(self, output: Tensor) -> None:
        """Keep the output of one of two separate forwards."""
        self.kept = [*self.kept, (output, version(output))]

    def reduce_kept(self, norm: int | str, detach_benign: bool) -> None:
        """Turn the two kept outputs into numbers and let them go; nothing where the layer did not run in both."""
        kept, self.kept = self.kept, []
        if len(kept) < 2:
            return
        if any(version(output) != before >= 0 for output, before in kept):
            raise overwritten(self.name)
        (benign, _), (adversarial, _) = kept
        if detach_benign:
            benign = benign.detach()
        self.distances = ops.neuron_sensitivity(benign, adversarial, norm, self.axis)
        with torch.no_grad():
            self.sensitivity = ops.neuron_sensitivity(benign, adversarial, 1, self.axis)
        self.samples = benign.shape[0]

    def check_intact(self) -> None:
        """Raise if the output that the gradient needs is no longer what it was."""
        if self._output is None or self.distances is None or not self.distances.requires_grad:
            return  # a compiled model, two separate forwards, or no gradient
        output = self._output()
        if output is not None and version(output) != self._version:
            raise overwritten(self.name)


def overwritten(name: str) -> RuntimeError:
    """The sentence for a layer whose output is changed in training only, which preparing could not see."""
    return RuntimeError(
        f"the output of layer {name!r} was overwritten by an in-place operation after it; choose the module that does "
        "so instead, set its inplace=False, or leave the layer out"
    )


class Collected(NamedTuple):
    """All rows of one paired forward, one behind the other."""

    distances: Tensor
    """``[M]``, 0 for a layer that did not run; with the gradient."""
    sensitivity: Tensor
    """``[M]``, -1 for a layer that did not run."""
    samples: tuple[int, ...]
    """Pairs per row, 0 for a layer that did not run."""


def collect(rows: Sequence[Row]) -> Collected | None:
    """Join what ``rows`` hold and clear them; None if none holds anything."""
    first = next((row.distances for row in rows if row.distances is not None), None)
    if first is None:
        return None
    distances, sensitivity = [], []
    for row in rows:
        if row.distances is None or row.sensitivity is None:
            distances.append(first.new_zeros(row.channels))
            sensitivity.append(first.new_full((row.channels,), -1))
        else:
            row.check_intact()
            distances.append(row.distances.to(first.device))
            sensitivity.append(row.sensitivity.to(first.device))
    collected = Collected(torch.cat(distances), torch.cat(sensitivity), tuple(row.samples for row in rows))
    for row in rows:
        row.clear()
    return collected
