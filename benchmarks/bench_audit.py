"""The pass of an audit (its attack left out) against the bare model and against hooks that store, in time and memory.

Every convolution, batch norm and ReLU is tapped. All contestants join N benign and N adversarial images to one batch
of 2N and run the model on it. ``bare`` does nothing else; ``taps`` is what :func:`neurosens_fast.audit.audit` does for
each batch, hooks put on and taken off, all statistics; ``stored`` keeps what the layers put out (cloned where a later
layer overwrites it) and computes the same statistics in PyTorch; ``stored, sensitivity`` the mean absolute change only.

Memory is what torch's allocator had given out at most at one time, beyond what lived before: exact, where the resident
set moves by tens of megabytes from run to run. On the CPU it is the running sum of the profiler's allocation events.
The taps' totals, which live from batch to batch, are added in full. What does not come from that allocator is not seen:
memory of oneDNN, the same for all contestants, and the scratch of this package's CPU kernels, for which an upper bound
is added to the taps' figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast import reference_audit
from neurosens_fast.capture import Taps, paired_forward
from neurosens_fast.columns import SUMS
from neurosens_fast.models import load_model

from .interleaved import ratio, run_interleaved
from .memory import peak_bytes

LAYERS = ("convolutions", "norms", "activations")
CASES = [("cifar-resnet18", 64, 32)]
if find_spec("torchvision"):
    CASES.append(("torchvision:resnet50", 4, 224))


def unseen_bytes(taps: Taps, pairs: int, device: str) -> float:
    """The totals, and at most what a CPU kernel takes for one layer and frees at once.

    The latter is 17 doubles per channel and 1,024 positions of a half, and means and thresholds of both halves.
    """
    rows = taps.rows.values()
    totals = sum(total.nbytes for row in rows for total in (row.statistics.sums, row.statistics.maxima))
    scratch = max(pairs * (math.prod(row.shape) * 17 * 8 / 1024 + 2 * 4 * (row.statistics.neurons + 1)) for row in rows)
    return totals + (scratch if device == "cpu" else 0)


def check_equal(taps: Taps, stored: dict[str, tuple[Tensor, Tensor]], pairs: int) -> None:
    """Both ways give the same totals; a neuron at the threshold of firing may fall on either side of it."""
    firing = torch.tensor([name.endswith("frequency") for name in SUMS])
    assert list(taps.rows) == list(stored)
    for row, (sums, maxima) in stored.items():
        ours = taps.rows[row].statistics
        assert ours.samples == pairs
        difference = (ours.sums - sums).cpu().abs() / pairs
        scale = sums.cpu().abs() / pairs + 1e-3 * (sums.cpu().abs().mean(0) / pairs)
        assert bool((difference <= torch.where(firing, 1.5 / pairs, 1e-3 * scale + 1e-6)).all()), row
        torch.testing.assert_close(ours.maxima, maxima, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "pairs", "size"), CASES, ids=[case[0].rpartition(":")[2] for case in CASES])
def bench_audit_pass(name: str, pairs: int, size: int, device: str, benchmark: Any, table: Any, tmp_path: Path) -> None:
    model = load_model(name).to(device)
    benign = torch.rand(pairs, 3, size, size, device=device)
    adversarial = (benign + 8 / 255 * torch.randn_like(benign).sign()).clamp(0, 1)
    taps = Taps(model, LAYERS)
    layers = list(taps.selection.modules)
    overwritten = reference_audit.overwritten_rows(model, benign[:1], layers)

    @torch.inference_mode()
    def bare() -> None:
        model(torch.cat((benign, adversarial)))

    def tapped(taps: Taps) -> None:
        with taps:
            paired_forward(model, benign, adversarial)

    def stored() -> dict[str, tuple[Tensor, Tensor]]:
        return reference_audit.audit_pass(model, benign, adversarial, layers, overwritten=overwritten)

    def sensitivity() -> None:
        reference_audit.sensitivity_pass(model, benign, adversarial, layers, overwritten=overwritten)

    tapped(taps)
    check_equal(taps, stored(), pairs)
    others: dict[str, Callable[[], Any]] = {"bare": bare, "stored": stored, "sensitivity": sensitivity}
    times = run_interleaved(benchmark, lambda: tapped(taps), others, device, seconds=60.0)
    over_bare = {way: ratio(times[way], times["bare"]) for way in ("ours", "stored", "sensitivity")}
    peaks = {
        way: peak_bytes(function, device, tmp_path)
        for way, function in {"bare": bare, "ours": lambda: tapped(taps), "stored": stored}.items()
    }
    extra = {
        "ours": peaks["ours"] - peaks["bare"] + unseen_bytes(taps, pairs, device),
        "stored": peaks["stored"] - peaks["bare"],
    }
    benchmark.extra_info.update(
        {f"{way}_over_bare": value.median for way, value in over_bare.items()}
        | {f"{way}_bytes_beyond_bare": value for way, value in extra.items()}
    )
    what = {
        "model": name,
        "batch": f"{pairs} pairs at {size}x{size}",
        "layers": f"{len(taps.rows)}, {sum(row.statistics.neurons for row in taps.rows.values()):,} neurons",
    }
    table(
        f"Audit pass without its attack, {device}",
        {
            **what,
            "bare ms": f"{sorted(times['bare'])[len(times['bare']) // 2] * 1e3:.0f}",
            "taps / bare": str(over_bare["ours"]),
            "stored / bare": str(over_bare["stored"]),
            "stored, sensitivity / bare": str(over_bare["sensitivity"]),
        },
    )
    table(
        f"Peak memory of the audit pass, {device}",
        {
            **what,
            "bare MB": f"{peaks['bare'] / 1e6:.1f}",
            "taps beyond bare MB": f"{extra['ours'] / 1e6:.2f}",
            "stored beyond bare MB": f"{extra['stored'] / 1e6:.1f}",
            "taps / stored": f"{100 * extra['ours'] / extra['stored']:.2f} %",
        },
    )
