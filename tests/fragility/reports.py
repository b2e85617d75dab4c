"""Reports made of counts, for tests of what is done with one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from neurosens_fast.fragility import Counts, FragilityReport

SAMPLES = 1000
_CHANGES = {"f": (300, 0), "r": (0, 0), "a": (0, 300)}  # lost and gained under attack


def report_with(counts: Counts, neurons: Sequence[int], eps: tuple[float, ...], **others: Any) -> FragilityReport:
    """A report of ``neurons``, of 8 channels, with ``others`` among its fields."""
    fields: dict[str, Any] = {
        "layer": "conv1",
        "zeroed": "bn1",
        "module_type": "Conv2d",
        "channels": 8,
        "neurons": tuple(neurons),
        "eps": eps,
        "counts": counts,
        "where": "after_norm",
        "protocol": "fixed",
        "model": "Net, 3 parameters",
        "attack": "FGSM",
        "data": "tensors [20, 3]",
        "dtype": "float32",
        "device": "cpu",
        "seed": 3,
        "versions": {"torch": "2.14.1"},
        "notes": ("a note",),
    }
    return FragilityReport(**{**fields, **others})


def made_report(
    correct: list[int] | None = None, lost: list[list[int]] | None = None, gained: list[list[int]] | None = None
) -> FragilityReport:
    """A report of three neurons at eps 0.05 and 0.1, with counts over 100 samples that are easy to follow."""
    counts = Counts(
        torch.tensor(correct or [95, 70, 30]),
        torch.tensor(lost or [[10, 8, 1], [0, 0, 0], [3, 2, 2]]),
        torch.tensor(gained or [[1, 2, 0], [0, 0, 0], [0, 5, 9]]),
        torch.zeros(3, 3, dtype=torch.int64),
        100,
    )
    counts.joint[:, 0] = counts.lost[:, 0] + counts.gained[:, 0]
    return report_with(counts, (0, 1, 3), (0.05, 0.1), layer="conv", zeroed="norm", channels=4)


def random_report(
    neurons: int = 3, eps: tuple[float, ...] = (0.1, 0.05), samples: int = 20, **others: Any
) -> FragilityReport:
    """A report of ``neurons`` with counts of random predictions."""
    generator = torch.Generator().manual_seed(neurons)
    counts = Counts.zeros(neurons, 1 + len(eps))
    before = torch.rand(1 + len(eps), samples, generator=generator) < 0.7
    flipped = torch.rand(neurons, 1 + len(eps), samples, generator=generator) < 0.3
    counts.add(before, before ^ flipped)
    return report_with(counts, (5, 0, 7, 1, 2)[:neurons], eps, **others)


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
    return report_with(
        counts,
        range(len(classes)) if neurons is None else neurons,
        (0.1,),
        layer=layer,
        zeroed=zeroed,
        where=where,
        channels=len(classes) if channels is None else channels,
    )


def same_counts(ours: FragilityReport, theirs: FragilityReport) -> None:
    for name in ("correct", "lost", "gained", "joint"):
        assert torch.equal(getattr(ours.counts, name), getattr(theirs.counts, name)), name
