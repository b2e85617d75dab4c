"""Reports made by hand, for tests of what is done with one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neurosens_fast.fragility import Counts, FragilityReport

SAMPLES = 1000
_CHANGES = {"f": (300, 0), "r": (0, 0), "a": (0, 300)}  # lost and gained under attack


def report_of(
    classes: str,
    layer: str = "conv1",
    zeroed: str = "bn1",
    where: str = "after_norm",
    channels: int | None = None,
    neurons: Sequence[int] | None = None,
) -> FragilityReport:
    """A report in which dropped neurons are fragile, robust or antifragile as the letters of ``classes`` say."""
    counts = Counts.zeros(len(classes), 2)
    counts.correct += torch.tensor([900, 500])
    counts.samples = SAMPLES
    for neuron, letter in enumerate(classes):
        counts.lost[neuron, 1], counts.gained[neuron, 1] = _CHANGES[letter]
    return FragilityReport(
        layer=layer,
        zeroed=zeroed,
        module_type="Conv2d",
        channels=len(classes) if channels is None else channels,
        neurons=tuple(range(len(classes)) if neurons is None else neurons),
        eps=(0.1,),
        counts=counts,
        where=where,
        protocol="fixed",
        model="a model",
        attack="FGSM",
        data="data",
        dtype="float32",
        device="cpu",
        seed=0,
        versions={},
    )
