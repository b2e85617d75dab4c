"""Which tokens of an activation count: all but padding, the first, or the last one.

An attention mask ``[N, L]`` (nonzero: a real token) says which positions of a batch are real. Samples with equally
many real tokens form a group; a layer's real tokens of each group are gathered into ``[g, l, C]`` and measured like
any other activation, so that every per-sample term has the sample's true length. The groups of a batch are found
once, on the host, when the mask is set: layers wait for nothing. A choice of this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .pairs import Inputs

TOKENS: dict[str, str] = {
    "all": "every token that is not padding",
    "cls": "the first real token of each sample",
    "last": "the last real token of each sample",
}
"""What ``tokens=`` takes, with its meaning."""

MASK_KEY = "attention_mask"
"""The name by which dict inputs hold their mask, as in transformers."""


def attention_mask(inputs: Inputs) -> Tensor | None:
    """The mask ``[N, L]`` under :data:`MASK_KEY` in dict inputs; None without one.

    None too where it has other dimensions, as ``[N, 1, L, L]`` has: that tells which tokens see each other, not
    which are padding.
    """
    mask = inputs.get(MASK_KEY) if isinstance(inputs, Mapping) else None
    return mask if isinstance(mask, Tensor) and mask.dim() == 2 else None


def shared_mask(benign: Inputs, adversarial: Inputs) -> Tensor | None:
    """The :func:`attention_mask` of both halves of a pair; ``ValueError`` where they differ. Waits for the device."""
    mask, other = attention_mask(benign), attention_mask(adversarial)
    if mask is None and other is None:
        return None
    if mask is None or other is None or mask.shape != other.shape or not torch.equal(mask != 0, other != 0):
        raise ValueError(
            f"benign and adversarial inputs differ in {MASK_KEY!r}; tokens can only be compared where both have the "
            "same padding, so the attack must return the mask that it got"
        )
    return mask


def token_axes(shape: Sequence[int], channel: int, length: int) -> list[int]:
    """The axes, neither batch nor channel, of an activation that are as long as the mask: one where all is clear."""
    channel %= len(shape)
    return [axis for axis in range(1, len(shape)) if axis != channel and shape[axis] == length]


class _Group(NamedTuple):
    """Samples with equally many real tokens."""

    places: Tensor  # [samples * tokens] int64, where the tokens are in [N * L]
    samples: int
    tokens: int


class TokenChoice:
    """The positions of token activations that count, under the ``mask`` of the batch at hand.

    The mask ``[N, L]``, of one half of a pair, bool or number, applies to an activation with one axis, neither batch
    nor channel, of length L: ``[N, L, C]``, also ``[N, C, L]``, ``[N, heads, L, D]`` and ``[N, L, heads, D]`` (there a
    neuron is one of D, and its positions are heads times tokens). The first batch decides for each row whether and at
    which axis. Any other, as pooled ``[N, C]`` or images, is measured whole. Without a mask all tokens are real, and
    ``"cls"`` and ``"last"`` mean the first and last position of ``[N, L, C]``; other layouts are measured whole.
    A sample without any real token adds nothing to rows under the mask, and is not counted there.
    """

    def __init__(self, choice: str = "all") -> None:
        if choice not in TOKENS:
            meanings = ", ".join(f"{name!r} ({meaning})" for name, meaning in TOKENS.items())
            raise ValueError(f"tokens must be one of {meanings}, got {choice!r}")
        self.choice = choice
        self._mask: Tensor | None = None
        self._groups: dict[torch.device, list[_Group]] = {}
        self._decided: dict[tuple[str, bool], int | None] = {}  # row, with a mask -> token axis

    @property
    def mask(self) -> Tensor | None:
        """The mask of the batch at hand; setting it waits for its device once."""
        return self._mask

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
            got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"mask must be a tensor [N, L], nonzero where a token is real, got {got}")
        self._mask = mask
        self._groups = {}
        if mask is not None:
            with torch.inference_mode(False):
                found = _groups((mask != 0).cpu().clone(), self.choice)
            self._groups[torch.device("cpu")] = found
            self._on(mask.device)

    def axis(self, row: str, name: str, benign: Tensor, channel: int) -> int | None:
        """The axis of tokens that row ``row`` of layer ``name`` has; None where it is measured whole.

        Raises ``ValueError`` where two axes could be it, or where it is no longer as long as the mask.
        """
        key, mask = (row, self._mask is not None), self._mask
        if key not in self._decided:
            self._decided[key] = self._first_axis(name, benign, channel)
        axis = self._decided[key]
        if axis is not None and mask is not None:
            length = benign.shape[axis] if axis < benign.dim() else None
            if length != mask.shape[1]:
                raise ValueError(
                    f"layer {name!r} puts out {list(benign.shape)} under a mask of {mask.shape[1]} tokens, but had the "
                    "mask's length before; give all batches one length, or leave the layer out"
                )
        return axis

    def pieces(
        self, benign: Tensor, adversarial: Tensor, channel: int, axis: int | None
    ) -> Iterator[tuple[Tensor, Tensor, int, Tensor | None]]:
        """What of a pair of activations counts: ``(benign, adversarial, channel axis, samples)``, samples first.

        ``samples`` are the numbers ``[n]`` of those in the piece, None for all of them in order. ``axis`` is what
        :meth:`axis` returned. Raises ``ValueError`` if the mask has not a row for each sample.
        """
        if self._mask is not None and self._mask.shape[0] != benign.shape[0]:
            raise ValueError(
                f"the mask has {self._mask.shape[0]} rows for {benign.shape[0]} pairs; set it for every batch, to one "
                "row for each benign sample"
            )
        if axis is None:
            yield benign, adversarial, channel, None
            return
        channel %= benign.dim()
        channel += channel < axis  # the tokens move to axis 1
        pair = benign.movedim(axis, 1), adversarial.movedim(axis, 1)
        if self._mask is None:
            place = slice(0, 1) if self.choice == "cls" else slice(-1, None)
            yield pair[0][:, place], pair[1][:, place], channel, None
            return
        groups = self._on(benign.device)
        if len(groups) == 1 and len(groups[0].places) == self._mask.numel():  # nothing is left out
            yield *pair, channel, None
            return
        flat = [half.flatten(0, 1) for half in pair]
        for places, samples, tokens in groups:
            z, z_adv = (half.index_select(0, places).unflatten(0, (samples, tokens)) for half in flat)
            yield z, z_adv, channel, places[::tokens] // self._mask.shape[1]

    def _first_axis(self, name: str, benign: Tensor, channel: int) -> int | None:
        dims = benign.dim()
        if self._mask is None:
            return 1 if self.choice != "all" and dims == 3 and channel % dims == 2 else None
        fitting = token_axes(benign.shape, channel, self._mask.shape[1])
        if len(fitting) > 1:
            raise ValueError(
                f"layer {name!r} puts out {list(benign.shape)}, where the axes {fitting} are both as long as the mask, "
                "so that its tokens cannot be told; pad to another length or leave the layer out"
            )
        return fitting[0] if fitting else None

    def _on(self, device: torch.device) -> list[_Group]:
        """The groups with their indices on ``device``, copied there once per batch."""
        if device not in self._groups:
            host = self._groups[torch.device("cpu")]
            with torch.inference_mode(False):
                self._groups[device] = [group._replace(places=group.places.to(device)) for group in host]
        return self._groups[device]


def _groups(real: Tensor, choice: str) -> list[_Group]:
    """The groups of a bool mask ``[N, L]`` on the CPU; samples without a real token are in none."""
    length, counts = real.shape[1], real.sum(1)
    if choice != "all":
        samples = counts.nonzero().flatten()
        marks = real[samples].to(torch.uint8)
        if not len(samples):
            return []
        places = marks.argmax(1) if choice == "cls" else length - 1 - marks.flip(1).argmax(1)
        return [_Group(samples * length + places, len(samples), 1)]
    found = []
    for count in counts.unique().tolist():
        if count:
            samples = (counts == count).nonzero().flatten()
            places = real[samples].nonzero()[:, 1].view(-1, count)
            found.append(_Group((samples[:, None] * length + places).flatten(), len(samples), count))
    return found
