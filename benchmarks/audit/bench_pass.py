"""The pass of an audit, its attack left out, in time and memory.

All sides join N benign and N adversarial images to one batch of 2N. Ours is what :func:`neurosens_fast.audit.audit`
does for each batch: a private copy of the model with batch norms folded, ReLUs measured in the pass that computes
them, taps elsewhere, all statistics. ``plain PyTorch`` stores what the layers put out, cloned only where a later layer
overwrites it, and computes the same statistics, layer by layer, in inference mode and in either layout of images and
weights; ``plain taps`` are our hooks on the model itself. What does less: the bare model in either layout, our copy
without a tap (``folded``), and storing for the sensitivity alone.

Operations are those of the model's convolutions and products. Memory is what torch's allocator had given out; beyond
it, for ours, live the totals and for the time of a layer the scratch of a CPU kernel, an upper bound of which ``beyond
bare`` includes.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast import reference_audit
from neurosens_fast.benchmarking.contest import Contest, Facts, Side, agreement
from neurosens_fast.benchmarking.results import Row
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.capture import Taps, evaluation_mode, paired_forward, plain_forward
from neurosens_fast.folding import FusedTaps, NotTraced, PrivateCopy
from neurosens_fast.models import load_model
from neurosens_fast.statistics import PairStatistics

from ..networks import channels_last, flops, full_float32, with_statistics
from .plain import Totals, same_statistics, sensitivity_of

FLOAT32, BFLOAT16 = {"cpu": 1e-3, "cuda": 5e-3}, 0.1
"""Tolerances, relative to the largest neuron of a layer, and to the mean of one."""
EVERY_LAYER = ("convolutions", "norms", "activations")


@dataclass(frozen=True)
class Case:
    """``cpu`` or ``cuda`` pairs of images ``shape``."""

    model: str
    layers: str | tuple[str, ...]
    cpu: int
    cuda: int
    shape: tuple[int, int, int]


CASES = {
    "digits-cnn": Case("digits-cnn", "activations", 256, 8192, (1, 8, 8)),
    "digits-cnn, every layer": Case("digits-cnn", EVERY_LAYER, 256, 8192, (1, 8, 8)),
}
FULL_CASES = {
    "cifar-resnet18": Case("cifar-resnet18", "activations", 16, 512, (3, 32, 32)),
    "cifar-resnet18, every layer": Case("cifar-resnet18", EVERY_LAYER, 16, 256, (3, 32, 32)),
    "resnet18": Case("torchvision:resnet18", "activations", 4, 128, (3, 224, 224)),
    "resnet50": Case("torchvision:resnet50", "activations", 4, 128, (3, 224, 224)),
    "vit_b_16": Case("torchvision:vit_b_16", "activations", 1, 128, (3, 224, 224)),
    "convnext_tiny": Case("torchvision:convnext_tiny", "activations", 2, 128, (3, 224, 224)),
}


def untapped(model: nn.Module) -> PrivateCopy | None:
    """The copy that an audit runs on, without its taps; None where the model allows none."""
    try:
        with evaluation_mode(model):
            private = PrivateCopy(model, True, True, None)
            private.refresh()
    except NotTraced:
        return None
    return private


def statistics_of(taps: FusedTaps) -> dict[str, PairStatistics]:
    """What was added up, by row."""
    return {row: seen.statistics for row, seen in taps.rows.items()}


def unseen_bytes(taps: Taps, pairs: int, device: str) -> float:
    """The totals, and at most what a CPU kernel takes for one layer and frees at once.

    The latter is 17 doubles per channel and 1,024 positions of a half, and means and thresholds of both halves.
    """
    rows = taps.rows.values()
    totals = sum(total.nbytes for row in rows for total in (row.statistics.sums, row.statistics.maxima))
    scratch = max(pairs * (math.prod(row.shape) * 17 * 8 / 1024 + 2 * 4 * (row.statistics.neurons + 1)) for row in rows)
    return totals + (scratch if device == "cpu" else 0)


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.full) for name in FULL_CASES)])
def bench_pass(name: str, device: str, contest: Contest) -> None:
    case = (CASES | FULL_CASES)[name]
    if case.model.startswith("torchvision"):
        pytest.importorskip("torchvision")
    pairs = 4 if contest.quick else case.cpu if device == "cpu" else case.cuda
    dtype = torch.bfloat16 if device == "cuda" else None
    benign = torch.rand(pairs, *case.shape).to(device)
    adversarial = (benign + 8 / 255 * torch.randn(benign.shape).sign().to(device)).clamp(0, 1)
    model = with_statistics(load_model(case.model).to(device), benign)
    other, benign_last = channels_last(model, benign)
    adversarial_last = adversarial.contiguous(memory_format=torch.channels_last)
    taps, plain = Taps(model, case.layers), Taps(model, case.layers)
    fused = FusedTaps(taps, benign, dtype)
    layers = list(taps.selection.modules)
    overwritten = reference_audit.overwritten_rows(model, benign[:1], layers)

    def lowered() -> AbstractContextManager[object]:
        return torch.autocast(device, dtype) if dtype else nullcontext()

    def tapped() -> None:
        with plain:
            paired_forward(model, benign, adversarial, dtype)

    def stored(model: nn.Module = model, benign: Tensor = benign, adversarial: Tensor = adversarial) -> Totals:
        with lowered():
            return reference_audit.audit_pass(model, benign, adversarial, layers, axes, overwritten)

    def sensitivity() -> None:
        with lowered():
            reference_audit.sensitivity_pass(model, benign, adversarial, layers, axes, overwritten)

    def bare(model: nn.Module = model, benign: Tensor = benign, adversarial: Tensor = adversarial) -> None:
        with torch.inference_mode(), lowered():
            model(torch.cat((benign, adversarial)))

    few = slice(8)
    with full_float32(), FusedTaps(Taps(model, case.layers), benign) as exact:
        exact.forward(benign[few], adversarial[few])
        axes = {row: seen.channel_dim for row, seen in exact.rows.items()}
        wanted = reference_audit.audit_pass(model, benign[few], adversarial[few], layers, axes, overwritten)
    agreed = same_statistics(statistics_of(exact), wanted, len(benign[few]), FLOAT32[device])
    fused.forward(benign, adversarial)
    if dtype is not None:
        ours = {row: seen.metric("sensitivity") for row, seen in statistics_of(fused).items()}
        theirs = sensitivity_of(stored(), pairs)
        assert list(ours) == list(theirs)
        means = agreement(map(torch.mean, ours.values()), map(torch.mean, theirs.values()), BFLOAT16)
        agreed += f"; bfloat16: layer means {means}"
    private = untapped(model)
    floors: dict[str, Side] = {
        "bare": bare,
        "bare, channels_last": lambda: bare(other, benign_last, adversarial_last),
        "plain PyTorch, sensitivity alone": sensitivity,
    }
    if private is not None:
        floors["folded"] = lambda: plain_forward(model, torch.cat((benign_last, adversarial_last)), dtype, private.run)

    def facts(row: Row) -> Facts:
        ours = row.peak["ours"] - row.peak["bare"] + unseen_bytes(taps, pairs, device)
        return {
            "measured": f"{len(fused.rows)} layers, {len(fused.fused)} in one pass; {fused.folded} norms folded",
            "MB beyond bare, ours": f"{ours / 1e6:.1f}",
            "MB beyond bare, plain PyTorch": f"{(row.peak['plain PyTorch'] - row.peak['bare']) / 1e6:.1f}",
        }

    contest(
        "The pass of an audit, its attack left out",
        {
            "model": case.model.rpartition(":")[2],
            "layers": "activations" if case.layers == "activations" else "convolutions, norms, activations",
            "dtype": str(dtype or torch.float32).removeprefix("torch."),
            "batch": f"{pairs} pairs of {'x'.join(map(str, case.shape))}",
        },
        lambda: fused.forward(benign, adversarial),
        rivals={
            "plain PyTorch": stored,
            "plain PyTorch, channels_last": lambda: stored(other, benign_last, adversarial_last),
            "plain taps": tapped,
        },
        floors=floors,
        agreed=agreed,
        work=Work(flops=flops(bare)),
        memory=("ours", "plain PyTorch", "bare"),
        facts=facts,
        seconds=6.0,
    )
    fused.close()
