"""Bad arguments raise in Python, naming the argument and what was got; C++ checks again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from neurosens_fast import ops

Z = torch.zeros(2, 3, 4)
SUMS, MAXIMA = torch.zeros(3, 14, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
IMAGES, WEIGHT = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 3, 3)
PACKED = ops.winograd_weight(WEIGHT)

BAD: list[tuple[Callable[..., Any], tuple[Any, ...], type[Exception], str]] = [
    (ops.pair_statistics, ([1.0], Z), TypeError, "benign must be a tensor, got list"),
    (ops.pair_statistics, (Z, None), TypeError, "adversarial must be a tensor, got NoneType"),
    (ops.pair_statistics, (Z.int(), Z.int()), TypeError, "benign must be float32 or .* got int32"),
    (ops.pair_statistics, (Z, Z.double()), TypeError, "adversarial is float64 but benign is float32"),
    (ops.pair_statistics, (Z, Z[:1]), ValueError, r"adversarial has shape \[1, 3, 4\] but benign has \[2, 3, 4\]"),
    (ops.pair_statistics, (Z, Z.to("meta")), ValueError, "adversarial is on meta but benign is on cpu"),
    (ops.pair_statistics, (Z[0, 0], Z[0, 0]), ValueError, r"benign must be \[N, C, \*S\].*got shape \[4\]"),
    (ops.pair_statistics, (Z, Z, 3), ValueError, r"channel_dim 3 is out of range for shape \[2, 3, 4\]"),
    (ops.pair_statistics, (Z, Z, 0), ValueError, "channel_dim must not be 0"),
    (ops.pair_statistics, (Z, Z, -3), ValueError, "channel_dim must not be 0"),
    (ops.accumulate_pair_statistics_, (SUMS.float(), MAXIMA, Z, Z), TypeError, "sums must be float64, got float32"),
    (
        ops.accumulate_pair_statistics_,
        (SUMS, MAXIMA, Z, Z, 2),
        ValueError,
        r"sums must .* \[4, 14\], got \[3, 14\]",
    ),
    (ops.accumulate_pair_statistics_, (SUMS, MAXIMA[:, :2], Z, Z), ValueError, "maxima must be contiguous"),
    (
        ops.accumulate_pair_statistics_,
        (SUMS.to("meta"), MAXIMA, Z, Z),
        ValueError,
        "sums is on meta but benign is on",
    ),
    (ops.relu_accumulate_pair_statistics_, (SUMS, MAXIMA, Z[:1]), ValueError, "got an odd batch of 1"),
    (ops.relu_accumulate_pair_statistics_, (SUMS, MAXIMA, Z[0, 0]), ValueError, r"pair must be \[2N, C, \*S\]"),
    (ops.relu_accumulate_pair_statistics_, (SUMS, MAXIMA, Z.int()), TypeError, "pair must be float32 .* got int32"),
    (ops.relu_accumulate_pair_statistics_, (SUMS, MAXIMA, Z, 0), ValueError, "channel_dim must not be 0"),
    (ops.relu_accumulate_pair_statistics_, (SUMS, MAXIMA.float(), Z), TypeError, "maxima must be float64, got float32"),
    (ops.relu_accumulate_pair_statistics_, (SUMS, MAXIMA, Z, 2), ValueError, r"sums must .* \[4, 14\], got \[3, 14\]"),
    (
        ops.relu_accumulate_pair_statistics_,
        (SUMS, MAXIMA.to("meta"), Z),
        ValueError,
        "maxima is on meta but pair is on cpu",
    ),
    (ops.winograd_weight, (Z,), ValueError, r"weight must be \[K, C, 3, 3\], got shape \[2, 3, 4\]"),
    (ops.winograd_weight, (WEIGHT.double(),), TypeError, "weight must be float32, got float64"),
    (ops.winograd_convolution, (Z, PACKED, None, 2), ValueError, r"images must be \[N, C, H, W\], got shape"),
    (
        ops.winograd_convolution,
        (IMAGES.half(), PACKED, None, 2),
        TypeError,
        "images must be float32 or bfloat16, got float16",
    ),
    (ops.winograd_convolution, (IMAGES, PACKED, None, 0), ValueError, "channels must be at least 1, got 0"),
    (
        ops.winograd_convolution,
        (IMAGES, WEIGHT, None, 2),
        ValueError,
        r"weight must be \[1, 3, 9, 32\] for 3 to 2 chan",
    ),
    (ops.winograd_convolution, (IMAGES, PACKED, None, 33), ValueError, r"weight must be \[2, 3, 9, 32\] for 3 to 33"),
    (ops.winograd_convolution, (IMAGES, PACKED, Z[0, 0], 2), ValueError, r"bias must be \[2\], got shape \[4\]"),
    (ops.winograd_convolution, (IMAGES, PACKED, None, 2, 3), ValueError, "tile must be 2 or 4, got 3"),
    (ops.winograd_convolution, (IMAGES, PACKED.to("meta"), None, 2), ValueError, "weight is on meta but images is on"),
    (ops.neuron_sensitivity, (Z, Z, "l3"), ValueError, "norm must be 1, .*got 'l3'"),
    (ops.neuron_sensitivity, (Z, Z, 2), ValueError, "norm must be 1, .*got 2"),
    (ops.neuron_sensitivity, (Z, Z, True), ValueError, "norm must be 1, .*got True"),
    (ops.sns_loss, (Z, Z, 0), ValueError, "k must be between 1 and the number of neurons 3, got 0"),
    (ops.sns_loss, (Z, Z, 4), ValueError, "k must be between 1 and the number of neurons 3, got 4"),
    (ops.sns_loss, (Z, Z, 0.0), ValueError, "a share k must be above 0.0 and at most 1.0, got 0.0"),
    (ops.sns_loss, (Z, Z, 1.5), ValueError, "a share k must be .* got 1.5; give a count as an int"),
    (ops.sns_loss, (Z, Z, float("nan")), ValueError, "a share k must be .* got nan"),
    (ops.sns_loss, (Z, Z, "3"), TypeError, "k must be a count .* got str"),
    (ops.sns_loss, (Z, Z, True), TypeError, "k must be a count .* got bool"),
    (ops.sns_loss, (Z, Z, None), ValueError, "give k or neurons"),
    (ops.sns_loss, (Z, Z, 1, "max"), ValueError, "norm must be 1, .*got 'max'"),
    (
        partial(ops.sns_loss, neurons=torch.tensor([3])),
        (Z, Z),
        ValueError,
        r"neurons must lie between 0 and 2, got \[3\]",
    ),
    (partial(ops.sns_loss, neurons=torch.tensor([-1])), (Z, Z), ValueError, "neurons must lie between 0 and 2"),
    (partial(ops.sns_loss, neurons=torch.tensor([1.0])), (Z, Z), TypeError, "neurons must be int64, got float32"),
    (partial(ops.sns_loss, neurons=torch.tensor(1)), (Z, Z), ValueError, r"neurons must be \[k\].*got shape \[\]"),
    (ops.paired_sensitivity, (Z[:1],), ValueError, "got an odd batch of 1"),
    (ops.paired_sensitivity, (Z[0, 0],), ValueError, r"pair must be \[2N, C, \*S\].*got shape \[4\]"),
    (ops.relu_tap, (Z, 1, 5), ValueError, r"channel_dim 5 is out of range for shape \[2, 3, 4\]"),
    (ops.sns_loss, (Z[:, :0], Z[:, :0]), ValueError, "there are no neurons to choose from"),
    (ops.relu_tap_, (Z.int(),), TypeError, "pair must be float32 or .* got int32"),
    (ops.topk_neurons, (Z, 1), ValueError, r"sensitivity must be \[C\], got shape \[2, 3, 4\]"),
    (ops.topk_neurons, (Z[0, 0], 5), ValueError, "k must be between 0 and the number of neurons 4, got 5"),
    (ops.topk_neurons, (Z[0, 0], -1), ValueError, "k must be between 0 .* got -1"),
    (ops.topk_neurons, (Z[0, 0], 0.5), TypeError, "k must be an int, got float"),
    (ops.topk_neurons, (Z[0, 0].int(), 1), TypeError, "sensitivity must be float32"),
    (ops.project_step_, (Z, Z.half(), Z, 0.1, 0.1), TypeError, "gradient is float16 but adversarial is float32"),
    (ops.project_step_, (Z, Z, Z[:1], 0.1, 0.1), ValueError, "origin has shape"),
    (ops.project_step_, (Z, Z, Z, 0.1, 0.1, "l3"), ValueError, 'norm must be "linf", "l2" or "l1", got \'l3\''),
    (ops.project_step_, (Z[0, 0, 0],) * 3 + (0.1, 0.1, "l2"), ValueError, r"adversarial must be \[N, \*S\]"),
    (ops.momentum_step_, (Z, Z.half(), Z, Z, 0.1, 0.1, 1.0), TypeError, "momentum is float16 but adversarial is"),
    (ops.momentum_step_, (Z, Z, Z, Z[:1], 0.1, 0.1, 1.0), ValueError, "origin has shape"),
    (ops.momentum_step_, (Z, Z, Z, Z, 0.1, 0.1, 1.0, "l2"), ValueError, "norm must be \"linf\", the only .*got 'l2'"),
    (ops.momentum_step_, (Z[0, 0, 0],) * 4 + (0.1, 0.1, 1.0), ValueError, r"adversarial must be \[N, \*S\]"),
    (ops.momentum_step_, (Z, Z, Z, Z, 0.1, -1.0, 1.0), ValueError, "epsilon must be at least 0, got -1.0"),
    (ops.project_step_, (Z, Z, Z, 0.1, -0.1), ValueError, "epsilon must be at least 0, got -0.1"),
    (ops.project_step_, (Z, Z, Z, 0.1, float("nan")), ValueError, "epsilon must be at least 0, got nan"),
    (ops.project_step_, (Z, Z, Z, 0.1, 0.1, "linf", 1.0, 0.0), ValueError, "low must not exceed high"),
]


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    BAD,
    ids=[f"{getattr(b[0], 'func', b[0]).__name__}-{i}" for i, b in enumerate(BAD)],
)
def test_clear_errors(
    function: Callable[..., Any], arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(*arguments)


CHOSEN = torch.tensor([0, 0])
CPP: list[tuple[str, tuple[Any, ...], str]] = [
    ("pair_statistics", (Z, Z[:1], 1), "differ in size at dimension 0"),
    ("pair_statistics", (Z, Z.double(), 1), "one shape and dtype"),
    ("pair_statistics", (Z.int(), Z.int(), 1), "benign must be float32"),
    ("pair_statistics", (Z, Z, 7), "channel_dim 7 is out of range"),
    ("pair_statistics", (Z, Z, 0), "sample dimension"),
    ("accumulate_pair_statistics_", (SUMS.float(), MAXIMA, Z, Z, 1), "sums must be a contiguous float64 tensor"),
    ("accumulate_pair_statistics_", (SUMS, MAXIMA[:2], Z, Z, 1), "maxima must be a contiguous float64 tensor"),
    ("relu_accumulate_pair_statistics_", (SUMS, MAXIMA, Z[:1], 1), "got an odd batch of 1"),
    ("relu_accumulate_pair_statistics_", (SUMS, MAXIMA, Z, 0), "sample dimension"),
    ("relu_accumulate_pair_statistics_", (SUMS[:2], MAXIMA, Z, 1), "sums must be a contiguous float64 tensor"),
    ("relu_accumulate_pair_statistics_", (SUMS, MAXIMA[:2], Z, 1), "maxima must be a contiguous float64 tensor"),
    ("relu_accumulate_pair_statistics_", (SUMS, MAXIMA, Z.int(), 1), "pair must be float32"),
    ("neuron_sensitivity", (Z, Z, "max", 1), "norm must be 1"),
    ("neuron_sensitivity_backward", (Z[0, 0], Z, Z, "1", 1), r"grad must be float32 \[3\]"),
    ("sns_loss", (Z, Z, 0, "1", 1, None), "k must be between 1 and 3, got 0"),
    ("sns_loss", (Z, Z, 1, "1", 1, torch.tensor([7])), "neurons must lie between 0 and 2, got 7"),
    ("sns_loss_backward", (Z[0, 0], CHOSEN, Z, Z, "1", 1), "grad must be one float32 number"),
    ("sns_loss_backward", (Z[0, 0, 0].double(), CHOSEN, Z, Z, "1", 1), "grad must be one float32 number"),
    ("sns_loss_backward", (Z[0, 0, 0], CHOSEN + 3, Z, Z, "1", 1), "neurons must lie between 0 and 2, got 3"),
    ("sns_loss_backward", (Z[0, 0, 0], CHOSEN.int(), Z, Z, "1", 1), "neurons must be int64"),
    ("sns_loss_backward", (Z[0, 0, 0], CHOSEN, Z, Z[:1], "1", 1), "differ in size at dimension 0"),
    ("paired_sensitivity", (Z[:1], "1", 1, False), "got an odd batch of 1"),
    ("paired_sensitivity_backward", (Z[0, 0], Z, "1", 1, False), r"grad must be float32 \[3\]"),
    ("relu_tap", (Z, "1", 0, False), "sample dimension"),
    ("relu_tap_", (Z[:1], "1", 1), "got an odd batch of 1"),
    ("relu_tap_backward", (Z[:, :2], Z[0, :, 0], Z, "1", 1, False), "grad_out differs from out in size at dimension 1"),
    ("topk_neurons", (Z[0, 0], 9), "k must be between 0 and 4"),
    ("project_step_", (Z, Z, Z, 0.1, 0.1, "l3"), "norm must be"),
    ("project_step_", (Z[0, 0, 0],) * 3 + (0.1, 0.1, "l1"), "a norm per sample"),
    ("momentum_step_", (Z, Z, Z, Z, 0.1, 0.1, 1.0, "l1"), "the only one"),
    ("momentum_step_", (Z, Z[:1], Z, Z, 0.1, 0.1, 1.0), "one shape and dtype"),
    ("project_step_", (Z, Z.double(), Z, 0.1, 0.1), "one shape and dtype"),
    ("winograd_weight", (Z,), r"weight must be \[K, C, 3, 3\]"),
    ("winograd_weight", (WEIGHT.double(),), "weight must be float32"),
    ("winograd_convolution", (Z, PACKED, None, 2), r"images must be float32 or bfloat16 \[N, C, H, W\]"),
    (
        "winograd_convolution",
        (IMAGES[:, :2], PACKED, None, 2),
        "weight must come from winograd_weight, for 2 input and 2",
    ),
    ("winograd_convolution", (IMAGES, PACKED, None, 2, 6), "tile must be 2 or 4, got 6"),
    ("winograd_convolution", (IMAGES, PACKED, Z[0, 0], 2), r"bias must be float32 \[2\]"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), CPP, ids=[f"{c[0]}-{i}" for i, c in enumerate(CPP)])
def test_the_kernels_check_again(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.neurosens_fast, name)(*arguments)
