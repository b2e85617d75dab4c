"""Fused taps measure what plain taps measure, on whole architectures and whatever layers are chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.capture import Taps, paired_forward
from neurosens_fast.folding import FusedTaps
from neurosens_fast.statistics import METRICS
from tests.attacks.networks import uneven

from .networks import build, pair, shape_of

RATIOS = ("relative_l1", "relative_l2", "cosine", "cosine_distance")
COUNTS = tuple(name for name in METRICS if name.startswith("active"))


def measured(model: nn.Module, layers: Any, benign: Tensor, adversarial: Tensor) -> tuple[FusedTaps, Taps]:
    """Both kinds of taps after one forward of the pair, whose outputs agree."""
    plain = Taps(model, layers)
    with plain:
        theirs = paired_forward(model, benign, adversarial)
    fused = FusedTaps(Taps(model, layers), benign)
    ours = fused.forward(benign, adversarial)
    allowed = 1e-10 if benign.dtype == torch.float64 else 1e-4
    assert bool(((ours - theirs).abs() <= allowed * theirs.abs().max()).all())
    return fused, plain


def same_rows(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    described = [[(name, row.module_type, row.channel_dim, row.shape) for name, row in rows.items()]
                 for rows in (ours, theirs)]  # fmt: skip
    assert described[0] == described[1]
    assert [row.statistics.samples for row in ours.values()] == [row.statistics.samples for row in theirs.values()]


def same_metrics(ours: dict[str, Any], theirs: dict[str, Any], allowed: float) -> None:
    """Every metric to ``allowed``: of the activations' size, or of 1 for ratios and counts."""
    same_rows(ours, theirs)
    for name, row in theirs.items():
        largest = float(row.statistics.maxima.abs().max().clamp(min=row.statistics.sums[:, 8:10].abs().max()))
        positions = row.shape[1:] if row.channel_dim % (len(row.shape) + 1) == 1 else row.shape[:-1]
        size = {"activation_shift": largest * max(1, torch.Size(positions).numel()) ** 0.5}
        assert float(row.statistics.metric("sensitivity").max()) > 1e-6 * largest, "a pair that differs"
        for metric in METRICS:
            own, expected = ours[name].statistics.metric(metric), row.statistics.metric(metric)
            unit = 1.0 if metric in RATIOS or "active" in metric else size.get(metric, largest)
            error = (own - expected).abs() / expected.abs().clamp(min=unit)  # a ratio to a tiny activation is large
            assert float(error.max()) <= allowed, (name, metric)


@pytest.mark.parametrize(
    ("kind", "layers", "fused", "folded"),
    [
        ("resnet18", "activations", 17, 20),
        ("resnet18", "all", 17, 0),
        ("bottleneck", ["norms", "activations"], 16, 20),
        ("bottleneck", "convolutions", 0, 0),
        ("bottleneck", ["relu", "layer2.*.relu", "layer3.0.conv2"], 7, 19),
        ("bottleneck", ["layer1.0.relu#3", "layer2.0.relu#1"], 2, 20),
        ("cifar", ["activations", "blocks"], 17, 20),
        ("digits", "activations", 4, 3),
        ("mobilenet", "activations", 0, 13),
        ("densenet", "activations", 12, 6),
        ("vgg", "activations", 4, 3),
        ("googlenet", ["norms", "blocks"], 0, 57),
        ("convnext", "activations", 0, 0),
        ("convnext", "all", 0, 0),
        ("vit", ["activations", "norms", "convolutions"], 0, 0),
        ("conv1d", "all", 2, 0),
        ("conv1d", "activations", 2, 1),
        ("perceptron", "activations", 2, 2),
        ("perceptron", ["0", "2", "4", "5"], 2, 1),
    ],
)
def test_every_metric_of_every_row_in_float64(kind: str, layers: Any, fused: int, folded: int) -> None:
    model = uneven(build(kind))
    ours, theirs = measured(model, layers, *pair(shape_of(kind)))
    assert ours.reason == ""
    assert (len(ours.fused), ours.folded) == (fused, folded)
    assert ours.channels_last == (kind not in ("conv1d", "perceptron"))
    same_metrics(ours.rows, theirs.rows, 1e-10)


@pytest.mark.parametrize("kind", ["resnet18", "cifar", "digits", "densenet", "vgg", "perceptron"])
def test_float32_is_as_exact_as_plain_taps(kind: str) -> None:
    """Counts change where an activation lies within rounding of 0; ratios are held where the neuron is alive."""
    shape = shape_of(kind)
    exact = Taps(uneven(build(kind)), "activations")
    benign, adversarial = pair(shape, torch.float32)
    with exact:
        paired_forward(exact.model, benign.double(), adversarial.double())
    ours, theirs = measured(uneven(build(kind), torch.float32), "activations", benign, adversarial)
    assert len(ours.fused) == len(theirs.rows)
    same_rows(ours.rows, theirs.rows)
    for name, row in exact.rows.items():
        largest = float(row.statistics.maxima.max())
        quiet = row.statistics.metric("mean_activation_benign") < 1e-2 * largest
        for metric in METRICS:
            truth = row.statistics.metric(metric)
            errors = [(rows[name].statistics.metric(metric) - truth).abs() for rows in (ours.rows, theirs.rows)]
            if metric in RATIOS or metric.startswith("activation_frequency"):
                errors = [error[~quiet] for error in errors]
                assert errors[0].numel()
            if metric in COUNTS:
                continue  # below
            # A ratio divides by as little as 1 % of the largest activation.
            unit = 1e2 if metric in RATIOS else largest * (row.shape[-1] if metric == "activation_shift" else 1)
            assert float(errors[0].max()) <= max(1e-5 * unit, 2 * float(errors[1].max())), (name, metric)


def test_float32_counts_change_only_where_an_activation_is_nearly_zero() -> None:
    model = uneven(build("digits"), torch.float32)
    benign, adversarial = pair(shape_of("digits"), torch.float32, 40)
    ours, theirs = measured(model, "activations", benign, adversarial)
    near: dict[str, Tensor] = {}
    before = {"bn1": "relu1", "bn2": "relu2", "bn3": "relu3", "fc4": "relu4"}

    def note(row: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            near[row] = (output.abs() < 1e-5).transpose(0, 1).flatten(1).sum(1)

        return hook

    for layer, relu in before.items():
        model.get_submodule(layer).register_forward_hook(note(relu))
    paired_forward(model, benign, adversarial)
    for name, row in theirs.rows.items():
        elements = 40 * torch.Size(row.shape[1:]).numel()
        for metric in COUNTS:
            changed = (ours.rows[name].statistics.metric(metric) - row.statistics.metric(metric)).abs() * elements
            assert bool((changed.round() <= near[name]).all()), (name, metric)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    model = uneven(build("digits"), torch.float32)
    benign, adversarial = pair(shape_of("digits"), torch.float32, 20)
    rows = []
    for autocast in (None, dtype):
        fused = FusedTaps(Taps(model, "activations"), benign, autocast)
        assert fused.forward(benign, adversarial).dtype == (autocast or torch.float32)
        rows.append(fused.rows)
        assert (fused.reason, len(fused.fused), fused.folded) == ("", 4, 3)
    plain = Taps(model, "activations")
    with plain:
        paired_forward(model, benign, adversarial, dtype)
    for name, exact in rows[0].items():
        truth = exact.statistics.metric("sensitivity")
        ours, theirs = ((taken[name].statistics.metric("sensitivity") - truth).abs() for taken in (rows[1], plain.rows))
        assert float(ours.max()) > 0, "it computed in the lower dtype"
        assert float(ours.max()) <= 2 * float(theirs.max()), "folding first is no worse than rounding in between"


def test_batches_of_any_size_add_up() -> None:
    model = uneven(build("digits"))
    benign, adversarial = pair(shape_of("digits"), count=13)
    fused, plain = FusedTaps(Taps(model), benign[:5]), Taps(model)
    for part in (slice(0, 5), slice(5, 12), slice(12, 13)):
        fused.forward(benign[part], adversarial[part])
        with plain:
            paired_forward(model, benign[part], adversarial[part])
    same_metrics(fused.rows, plain.rows, 1e-10)
    assert fused.rows is fused.taps.rows
    assert fused.rows["relu1"].statistics.samples == 13
    assert fused.pairs == 1


def test_a_single_sample_and_given_axes() -> None:
    model = uneven(build("conv1d"))
    benign, adversarial = pair(shape_of("conv1d"), count=1)
    axes = {"relu": 2}
    plain, fused = Taps(model, ["relu"], axes), FusedTaps(Taps(model, ["relu"], axes), benign)
    with plain:
        paired_forward(model, benign, adversarial)
    fused.forward(benign, adversarial)
    assert fused.fused == ("relu", "relu#2")
    assert fused.rows["relu"].channel_dim == 2
    same_metrics(fused.rows, plain.rows, 1e-10)
