"""The same bits for every run, number of threads and instruction set."""

from __future__ import annotations

import hashlib

import pytest
import torch

from neurosens_fast import _C, ops
from neurosens_fast.statistics import new_totals
from tests.processes import Process

from .cases import DTYPES, Case, make_pair, unusual_rows

CASES = [
    Case("rows", (5, 20, 1100)),
    Case("short", (9, 70, 7, 7)),
    Case("columns", (5, 37, 20, 20), memory="channels_last"),
    Case("tokens", (4, 197, 96), channel_dim=-1),
    Case("units", (300, 200)),
    Case("odd", (3, 33, 48)),
    Case("many-columns", (2, 577, 9), memory="channels_last"),
    Case("chunks", (2, 70, 2500), memory="channels_last"),
    Case("steps", (9, 3, 11, 11)),
]


def digest() -> str:
    """A hash of everything the operators compute on fixed inputs."""
    torch.manual_seed(7)
    total = hashlib.sha256()
    for positions in (15, 49, 600):
        for dtype in DTYPES:
            rows = ops.pair_statistics(*unusual_rows(positions, dtype, "cpu"))
            total.update(rows.contiguous().view(torch.uint8).numpy().tobytes())
    for case in CASES:
        for dtype in DTYPES:
            z, z_adv = make_pair(case, dtype, "cpu", relu=True)
            sums, maxima = new_totals(z.shape[case.channel_dim])
            ops.accumulate_pair_statistics_(sums, maxima, z, z_adv, case.channel_dim)
            results = [ops.pair_statistics(z, z_adv, case.channel_dim), sums, maxima]
            overwritten, totals = torch.cat((z, -z_adv)), new_totals(z.shape[case.channel_dim])
            ops.relu_accumulate_pair_statistics_(*totals, overwritten, case.channel_dim)
            results += [overwritten, *totals]
            for norm in ("1", "mse", "l2", "cosine"):
                results.append(torch.ops.neurosens_fast.neuron_sensitivity(z, z_adv, norm, case.channel_dim % z.dim()))
                grad = torch.ones(z.shape[case.channel_dim], dtype=results[0].dtype)
                results += torch.ops.neurosens_fast.neuron_sensitivity_backward(
                    grad, z, z_adv, norm, case.channel_dim % z.dim()
                )
                weights = grad * (torch.arange(len(grad)) % 3 == 0)
                out, distances, _ = ops.relu_tap(torch.cat((z, -z_adv)), norm if norm != "1" else 1, case.channel_dim)
                results += [out, distances, *ops.sns_loss(z, z_adv, 0.2, 1, case.channel_dim)]
                results.append(
                    torch.ops.neurosens_fast.relu_tap_backward(
                        out + 1, weights, out, norm, case.channel_dim % z.dim(), False
                    )
                )
            stepped = z_adv.contiguous().clone()
            ops.project_step_(stepped, z_adv.contiguous(), z.contiguous(), 0.01, 0.03)
            for norm in ("l2", "l1"):
                ops.project_step_(stepped, z_adv.contiguous(), z.contiguous(), 0.5, 0.7, norm)
                results.append(stepped.clone())
            momentum = z.contiguous().clone()
            ops.momentum_step_(stepped, momentum, z_adv.contiguous(), z.contiguous(), 0.01, 0.03, 0.9)
            for tensor in (*results, momentum, stepped):
                total.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    for samples, channels, out_channels, size in ((2, 3, 70, 9), (20, 130, 33, 10)):
        images, weight = torch.randn(samples, channels, size, size), torch.randn(out_channels, channels, 3, 3)
        for given, tile in ((images, 4), (images, 2), (images.bfloat16(), 4)):
            packed, bias = ops.winograd_weight(weight), weight[:, 0, 0, 0]
            result = ops.winograd_convolution(given, packed, bias, out_channels, tile)
            total.update(result.contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def test_runs_and_threads_agree() -> None:
    threads = torch.get_num_threads()
    try:
        digests = set()
        for count in (2, 1, 2):
            torch.set_num_threads(count)
            digests.add(digest())
    finally:
        torch.set_num_threads(threads)
    assert len(digests) == 1


def run_with(instruction_set: str) -> Process:
    """A process that tells the digest, with an instruction set that the environment chooses."""
    code = (
        "import tests.ops.test_determinism as t; from neurosens_fast import _C;"
        "print(_C.build_info()['instruction_set'], t.digest())"
    )
    return Process(code=code, environment={"NEUROSENS_FAST_ISA": instruction_set})


def test_instruction_sets_agree() -> None:
    """Every set this CPU has; build_info lists which were compiled, so a report shows what ran."""
    supported = _C.build_info()["instruction_sets_supported"]
    assert "baseline" in supported
    processes = [run_with(name) for name in supported]
    digests = set()
    for name, process in zip(supported, processes, strict=True):
        output, errors = process.communicate()
        assert process.wait() == 0, errors
        assert output.split()[0] == name
        digests.add(output.split()[1])
    assert len(digests) == 1


def test_unknown_instruction_set_is_refused() -> None:
    process = run_with("mmx")
    _, errors = process.communicate()
    assert process.wait() != 0
    assert "NEUROSENS_FAST_ISA=mmx names no instruction set" in errors


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_sample_does_not_depend_on_its_batch(case: Case, device: str) -> None:
    z, z_adv = make_pair(case, torch.float32, device)
    rows = ops.pair_statistics(z, z_adv, case.channel_dim)
    alone = ops.pair_statistics(z[1:2], z_adv[1:2], case.channel_dim)
    assert torch.equal(alone[0], rows[1])
