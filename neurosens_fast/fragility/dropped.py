"""Logits of a model with neurons set to zero, another one for each sample."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neurosens_fast.audit.masking.hooks import Masks, needed_logits, right_answers
from neurosens_fast.capture import Inputs, batch_length, mapped, plain_forward, read_flags
from neurosens_fast.folding import TRIAL_SAMPLES, NotTraced, agreement, suits_channels_last, tolerance
from neurosens_fast.support.messages import one_line

from .place import Place
from .split import SplitModel, chunks, largest_bytes

_CACHE = 32 * 2**20
"""Bytes of two layers' outputs in a row that one pass may hold on a CPU: about a cache, which holds the weights too."""
_DEVICE_MEMORY = 2**30
"""The same on a device, where large passes keep it busy."""


class Dropped(Protocol):
    """Runs one batch of inputs many times, with neurons dropped."""

    chunk: int | None
    """How many samples one pass should have; None: as many as the batch."""

    def load(self, inputs: Inputs) -> Tensor:
        """Take a batch ``[N, ...]``; its logits ``[N, classes]`` with nothing dropped."""

    def unaffected(self) -> Tensor | None:
        """Which samples cannot be changed by dropping which neuron, ``[N, C]`` bool; None: not known."""

    def logits(self, samples: Tensor, neurons: Tensor) -> Tensor:
        """Logits ``[M, classes]`` of ``samples`` ``[M]`` of the batch, each with one of ``neurons`` ``[M]`` dropped."""


class PlainDropped:
    """The model as it is, with a hook: one whole forward for each sample and neuron."""

    chunk: int | None = None

    def __init__(self, model: nn.Module, place: Place, autocast: torch.dtype | None) -> None:
        self._model, self._row, self._autocast = model, place.zeroed, autocast
        self._channels = place.channels
        self._hooks = Masks(model, {place.zeroed: place.axis})

    def load(self, inputs: Inputs) -> Tensor:
        """See :class:`Dropped`."""
        self._inputs = inputs
        return needed_logits(plain_forward(self._model, inputs, self._autocast), batch_length(inputs))

    def unaffected(self) -> Tensor | None:
        """See :class:`Dropped`."""
        return None

    def logits(self, samples: Tensor, neurons: Tensor) -> Tensor:
        """See :class:`Dropped`."""
        mask = torch.zeros(len(samples), self._channels, dtype=torch.bool, device=neurons.device)
        mask.scatter_(1, neurons[:, None], True)
        self._hooks.active = {self._row: mask}
        with self._hooks:
            output = plain_forward(
                self._model, mapped(self._inputs, lambda leaf: leaf.index_select(0, samples)), self._autocast
            )
        return needed_logits(output, len(samples))


class SplitDropped:
    """What comes before the neurons is computed once for a batch, what comes after for each sample and neuron.

    Runs on a :class:`SplitModel`, which is tried first on ``few`` samples. Raises :class:`NotTraced` with the reason
    where the model cannot be cut, or the cut one computes something else.
    """

    chunk: int | None

    def __init__(self, model: nn.Module, place: Place, few: Inputs, autocast: torch.dtype | None) -> None:
        if not isinstance(few, Tensor) or not few.is_floating_point():
            raise NotTraced("the model takes something else than one tensor of numbers")
        few = few[: TRIAL_SAMPLES + 1]
        if len(few) == 1:  # a tensor [1, C, 1, 1] of the model's own would seem to have a batch axis
            few = torch.cat((few, few))
        self._model, self._axis, self._autocast = model, place.axis, autocast
        plain = PlainDropped(model, place, autocast)
        for channels_last in (True, False) if suits_channels_last(few) else (False,):
            try:
                self._begin(plain, place, few, channels_last)
                break
            except NotTraced:
                if not channels_last:
                    raise  # a forward with a view() may want contiguous memory
        limit = _CACHE if few.device.type == "cpu" else _DEVICE_MEMORY
        self.chunk = max(1, limit // max(1, self._widest))

    def _begin(self, plain: PlainDropped, place: Place, few: Tensor, channels_last: bool) -> None:
        try:
            # In the model's own evaluation mode, which tracing must see.
            self.split: SplitModel = plain_forward(
                self._model, few, self._autocast, lambda images: SplitModel(self._model, place, images, channels_last)
            )
            mine = [self.load(few)]
            self._widest = plain_forward(
                self._model, few, self._autocast, lambda _: largest_bytes(self.split.rest(), self._values)
            )
            # Another number of samples than the batch has, each with another neuron.
            samples = torch.arange(2 * len(few) + 1, device=few.device) % len(few)
            neurons = torch.linspace(0, place.channels - 1, len(samples), device=few.device).long()
            mine.append(self.logits(samples, neurons))
        except NotTraced:
            raise
        except Exception as error:  # whatever a model raises on values of another batch
            raise NotTraced(f"the cut model fails ({one_line(error, 90)})") from error
        alone = plain.load(few[:1])
        theirs = [plain.load(few), plain.logits(samples, neurons)]
        allowed = tolerance(self._autocast or few.dtype)
        if not read_flags([agreement(theirs[0][:1], alone, allowed)])[0]:
            raise NotTraced("the output for a sample depends on the others in its batch")
        if not all(read_flags([agreement(*pair, allowed) for pair in zip(mine, theirs, strict=True)])):
            raise NotTraced("the cut model gives other values: the forward depends on its input, or is random")

    def _run(self, inputs: Any, run: Any) -> Any:
        return plain_forward(self._model, inputs, self._autocast, run)

    def load(self, inputs: Inputs) -> Tensor:
        """See :class:`Dropped`."""
        assert isinstance(inputs, Tensor)
        self._values: tuple[Tensor, ...] = self._run(inputs, self.split.before)
        copies = tuple(value.clone() for value in self._values)  # the second part may write in place
        return needed_logits(self._run(inputs, lambda _: self.split.behind(copies)), len(inputs))

    def unaffected(self) -> Tensor | None:
        """See :class:`Dropped`: the channel is zero at every position already."""
        values = self._values[0].movedim(self._axis, 1)
        return (values == 0).flatten(2).all(2) if values.dim() > 2 else values == 0

    def logits(self, samples: Tensor, neurons: Tensor) -> Tensor:
        """See :class:`Dropped`."""
        copies = tuple(selected(value, samples) for value in self._values)
        rows = torch.arange(len(samples), device=neurons.device)
        copies[0].movedim(self._axis, 1)[rows, neurons] = 0
        return needed_logits(self._run(copies[0], lambda _: self.split.behind(copies)), len(samples))


def selected(values: Tensor, samples: Tensor) -> Tensor:
    """``values.index_select(0, samples)``, in channels_last memory where ``values`` are, which torch is slow at."""
    order = sorted(range(values.dim()), key=values.stride, reverse=True)
    if order[0] != 0:
        return values.index_select(0, samples)
    back = sorted(range(values.dim()), key=order.__getitem__)
    return values.permute(order).index_select(0, samples).permute(back)


def right_without(dropped: Dropped, labels: Tensor, right: Tensor, neurons: Tensor) -> tuple[Tensor, int]:
    """Whether each sample of the loaded batch is classified rightly with each neuron dropped, ``[K, N]`` bool.

    ``labels`` ``[N]``, ``right`` ``[N]`` with nothing dropped, ``neurons`` ``[K]``; also how many passes of a sample
    that takes. Samples of which a neuron is zero already are not run again.
    """
    after = right.expand(len(neurons), -1).clone()
    unaffected = dropped.unaffected()
    open_pairs = torch.ones_like(after) if unaffected is None else ~unaffected[:, neurons].T
    places, samples = open_pairs.nonzero(as_tuple=True)
    for part in chunks(len(samples), dropped.chunk or len(labels)):
        chosen = samples[part]
        logits = dropped.logits(chosen, neurons[places[part]])
        after[places[part], chosen] = right_answers(logits, labels[chosen])
    return after, len(samples)
