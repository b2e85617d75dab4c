"""What makes an attack faster, and the record of what was used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import torch


class Switches(TypedDict, total=False):
    """How an attack computes. Every switch is used only where its rule allows; ``Attack.explain()`` tells.

    ``exact``: everything below off, for the very numbers of a plain loop in PyTorch.
    ``fold``: batch norm is folded into the convolution or linear layer before it, on a private copy that
    ``torch.fx`` traces; needs a model that can be traced, and evaluation-mode batch norm behind such a layer. The
    copy is compared with the model on two samples first. Modules that carry hooks are neither folded nor copied, and
    a model whose forward changes attributes or draws random numbers runs as it is.
    ``channels_last``: images ``[N, C, H, W]`` and the copy's convolutions lie in channels_last memory.
    ``winograd``: on a CPU, the copy's convolutions 3x3 of stride 1 run by Winograd's algorithm F(4x4, 3x3), where
    their sizes suit it; needs channels_last. Rounding errors are about twice as large, the largest five times.
    ``dtype``: ``torch.bfloat16`` runs the model in that dtype; the perturbation, the loss and the steps stay as wide
    as the images.
    ``compaction``: samples that already fell, as the untouched model judges, are dropped: for callers who want
    success, not the strongest perturbation.
    ``graph``: on CUDA, forward and backward pass are captured as a CUDA graph and replayed; needs a loss that has a
    name and a model without hooks.
    """

    exact: bool
    fold: bool
    channels_last: bool
    winograd: bool
    dtype: torch.dtype | None
    compaction: bool
    graph: bool


SWITCHES: Switches = {
    "exact": False,
    "fold": True,
    "channels_last": True,
    "winograd": True,
    "dtype": None,
    "compaction": False,
    "graph": True,
}
"""What holds where nothing is said."""

_EXACT: Switches = {
    "exact": True,
    "fold": False,
    "channels_last": False,
    "winograd": False,
    "dtype": None,
    "compaction": False,
    "graph": False,
}


def checked_switches(given: Mapping[str, Any]) -> Switches:
    """All switches; ``TypeError`` or ``ValueError`` for one that does not exist, a wrong type, or a contradiction."""
    for name, value in given.items():
        if name not in SWITCHES:
            raise TypeError(f"unknown argument {name!r}; attacks also take {', '.join(SWITCHES)}")
        if name == "dtype":
            if value not in (None, torch.float32, torch.bfloat16):
                raise ValueError(f"dtype must be None, torch.float32 or torch.bfloat16, got {value}")
        elif not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    if not given.get("exact", False):
        return cast(Switches, {**SWITCHES, **given})
    contradicting = [name for name, value in given.items() if name != "exact" and value and value is not torch.float32]
    if contradicting:
        raise ValueError(f"exact=True turns every switch off; leave out {contradicting[0]}")
    return _EXACT


@dataclass(frozen=True)
class Choice:
    """Whether a switch was used in a call, and why (not)."""

    switch: str
    used: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.switch}: {'yes' if self.used else 'no'}, {self.reason}"
