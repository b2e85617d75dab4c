"""What it costs to measure the activations of a network while it runs: the pass of an audit, its attack left out.

All contestants join N benign and N adversarial images to one batch of 2N. ``bare`` runs the untouched model on it, as
``bare, channels_last`` does on images and weights in that layout; ``folded`` the private copy of an audit without a
tap; ``audit`` what :func:`neurosens_fast.audit.audit` does for each batch: that copy, with ReLUs measured in the pass
that computes them and plain taps elsewhere; ``plain taps`` the model itself with hooks; ``stored`` keeps the outputs of
the same layers and computes the same statistics in PyTorch. Memory is counted as in ``bench_audit``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast import reference_audit
from neurosens_fast.capture import Taps, evaluation_mode, paired_forward, plain_forward
from neurosens_fast.folding import FusedTaps, NotTraced, PrivateCopy
from neurosens_fast.models import load_model

from .interleaved import ratio, run_interleaved
from .memory import peak_bytes

CASES = {"cpu": [("resnet18", 8), ("resnet50", 4), ("vit_b_16", 2), ("convnext_tiny", 4)]}
CASES["cuda"] = [(name, 256) for name, _ in CASES["cpu"]]
LAYERS = "activations"


def untapped(model: nn.Module) -> PrivateCopy:
    """The copy that an audit runs on, without its taps."""
    with evaluation_mode(model):
        private = PrivateCopy(model, True, True, None)
        private.refresh()
    return private


def check_equal(taps: Taps, plain: Taps) -> None:
    """The same sensitivity and means as plain taps, to what deep networks in float32 allow."""
    assert list(taps.rows) == list(plain.rows)
    for name, row in plain.rows.items():
        for metric in ("sensitivity", "mean_activation_benign", "mean_activation_adversarial"):
            wanted, found = row.statistics.metric(metric), taps.rows[name].statistics.metric(metric)
            assert bool(((found - wanted).abs() <= 1e-3 * wanted.abs().max()).all()), (name, metric)


@pytest.mark.parametrize("number", range(4), ids=[name for name, _ in CASES["cpu"]])
def bench_free_capture(number: int, device: str, benchmark: Any, table: Any, tmp_path: Path) -> None:
    name, pairs = CASES[device][number]
    dtype = torch.bfloat16 if device == "cuda" else None
    model = load_model(f"torchvision:{name}").to(device)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    benign = torch.rand(pairs, 3, 224, 224, device=device)
    adversarial = (benign + 8 / 255 * torch.randn_like(benign).sign()).clamp(0, 1)
    taps, plain = Taps(model, LAYERS), Taps(model, LAYERS)
    fused = FusedTaps(taps, benign, dtype)
    layers = list(taps.selection.modules)
    overwritten = reference_audit.overwritten_rows(model, benign[:1], layers)

    def joined() -> Tensor:
        return torch.cat((benign, adversarial))

    def bare() -> None:
        plain_forward(model, joined(), dtype)

    def bare_channels_last() -> None:
        plain_forward(other, joined().contiguous(memory_format=torch.channels_last), dtype)

    def audited() -> None:
        fused.forward(benign, adversarial)

    def tapped() -> None:
        with plain:
            paired_forward(model, benign, adversarial, dtype)

    def stored() -> None:
        reference_audit.audit_pass(model, benign, adversarial, layers, overwritten=overwritten)

    audited()
    tapped()
    check_equal(taps, plain)
    others: dict[str, Callable[[], Any]] = {"bare": bare, "bare, channels_last": bare_channels_last}
    try:
        private = untapped(model)
        others["folded"] = lambda: plain_forward(
            model, joined().contiguous(memory_format=torch.channels_last), dtype, private.run
        )
    except NotTraced:
        pass
    others["plain taps"] = tapped
    if dtype is None:
        others["stored"] = stored
    times = run_interleaved(benchmark, audited, others, device, seconds=90.0)
    peaks = {way: peak_bytes(run, device, tmp_path) for way, run in {"audit": audited, **others}.items()}
    what = {
        "model": name,
        "batch": f"{pairs} pairs at 224x224",
        "measured": f"{len(taps.rows)} layers, {len(fused.fused)} in one pass; {fused.folded} norms folded",
    }
    over = {way: ratio(times["ours"], times[way]) for way in others}
    benchmark.extra_info.update({f"audit_over_{way}": value.median for way, value in over.items()})
    table(
        f"Audit pass without its attack, {device}",
        {
            **what,
            "bare ms": f"{sorted(times['bare'])[len(times['bare']) // 2] * 1e3:.0f}",
            **{f"audit / {way}": str(value) for way, value in over.items()},
            "plain taps / bare": str(ratio(times["plain taps"], times["bare"])),
            **({"stored / bare": str(ratio(times["stored"], times["bare"]))} if dtype is None else {}),
        },
    )
    table(
        f"Peak memory of the audit pass, {device}",
        {
            "model": name,
            "bare MB": f"{peaks['bare'] / 1e6:.1f}",
            **{f"{way} / bare": f"{peaks[way] / peaks['bare']:.2f}" for way in peaks if way != "bare"},
        },
    )
    fused.close()
