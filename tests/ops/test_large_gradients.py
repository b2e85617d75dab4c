"""Gradients so large that their memory is fetched at once: around the border, the consumer's to change, given back."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference
from tests.processes import Process

LARGE = 32 << 20
"""Bytes from which the pages of a gradient are fetched at once on the CPU, and not written where they stay zero."""
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def make_pair(width: int, dtype: torch.dtype, layout: str, device: str) -> tuple[Tensor, Tensor]:
    """``[512, 4, 2, width]``: four channels, of which one is chosen."""
    torch.manual_seed(0)
    z = torch.randn(512, 4, 2, width, device=device).to(dtype)
    z_adv = z + torch.randn(512, 4, 2, width, device=device).to(dtype) / 8
    return tuple(x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_() for x in (z, z_adv))  # type: ignore[return-value]


def gradients(z: Tensor, z_adv: Tensor, norm: int | str = 1) -> tuple[Tensor, ...]:
    return torch.autograd.grad(ops.sns_loss(z, z_adv, 1, norm).loss, (z, z_adv))


@pytest.mark.parametrize("norm", [1, "l2"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "width"),
    [(torch.float32, 2047), (torch.float32, 2048), (torch.float32, 2049), (torch.bfloat16, 4097)],
    ids=str,
)
def test_gradient_around_the_border(dtype: torch.dtype, width: int, layout: str, norm: int | str, device: str) -> None:
    z, z_adv = make_pair(width, dtype, layout, device)
    assert (z.numel() * z.element_size() >= LARGE) == (width != 2047)
    chosen = int(ops.sns_loss(z, z_adv, 1, norm).neurons)
    alone, alone_adv = (x.detach()[:, chosen : chosen + 1] for x in (z, z_adv))
    wanted = reference.neuron_sensitivity_backward(torch.ones(1, device=device), alone, alone_adv, norm, 1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for ours, want in zip(gradients(z, z_adv, norm), wanted, strict=True):
        assert ours.stride() == z.stride()
        assert not any(ours[:, c].any() for c in range(4) if c != chosen)
        found = ours[:, chosen : chosen + 1]
        torch.testing.assert_close(found, want, rtol=tolerance, atol=tolerance * float(want.abs().max()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_joined_batch(layout: str, device: str) -> None:
    pair = torch.cat([x.detach() for x in make_pair(1033, torch.float32, layout, device)]).requires_grad_()
    assert pair.numel() * 4 >= LARGE
    weights = torch.tensor([0.0, 1.0, 0.0, -2.0], device=device)
    (ours,) = torch.autograd.grad(ops.paired_sensitivity(pair)[0] @ weights, pair)
    want = reference.paired_sensitivity_backward(weights, pair.detach(), 1, 1, False)
    torch.testing.assert_close(ours, want, rtol=1e-6, atol=0)
    out = pair.detach().relu()
    ones = torch.ones_like(out)
    ours = torch.ops.neurosens_fast.relu_tap_backward(ones, weights, out, "1", 1, False)
    want = reference.relu_tap_backward(ones, weights, out, 1, 1, False)
    torch.testing.assert_close(ours, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_for_any_number_of_threads(layout: str) -> None:
    z, z_adv = make_pair(2049, torch.float32, layout, "cpu")
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gradients(z, z_adv, "l2"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_is_the_consumers(layout: str, device: str) -> None:
    z, z_adv = make_pair(2049, torch.float32, layout, device)
    kept = gradients(z, z_adv)
    again = gradients(z, z_adv)
    copies = [x.clone() for x in kept]
    for x in again:
        x.add_(1)  # in place, every element
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert all(torch.equal(a, b + 1) for a, b in zip(again, copies, strict=True))
    del z, z_adv, again
    gc.collect()  # the graph and its inputs are gone
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    size = kept[0].untyped_storage().nbytes()
    kept[0].untyped_storage().resize_(2 * size)  # an ordinary storage of torch's allocator
    assert torch.equal(kept[0], copies[0])


def test_gradients_accumulate(device: str) -> None:
    z, z_adv = make_pair(2049, torch.float32, "contiguous", device)
    once = gradients(z, z_adv)
    for _ in range(3):
        (ops.sns_loss(z, z_adv, 1).loss + z.sum()).backward()
    assert z.grad is not None
    assert z_adv.grad is not None
    torch.testing.assert_close(z.grad, 3 * (once[0] + 1))
    torch.testing.assert_close(z_adv.grad, 3 * once[1])


RESIDENT = """
import os
from pathlib import Path
from tests.ops.test_large_gradients import gradients, make_pair
import torch

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

z, z_adv = make_pair(2049, torch.float32, "contiguous", "cpu")
gradients(z, z_adv)
before = resident()
for _ in range(5):
    gradients(z, z_adv)
print(resident() - before)
kept = gradients(z, z_adv)
print(resident() - before)
del kept
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's count of resident pages")
def test_memory_is_given_back() -> None:
    # In a process of its own: here glibc may have free blocks to hand out.
    process = Process(code=RESIDENT)
    output, errors = process.communicate()
    assert process.wait() == 0, errors
    loop, kept, after = (int(line) for line in output.split())
    assert loop < LARGE // 2
    assert 2 * LARGE - LARGE // 2 < kept < 2 * LARGE + LARGE // 2
    assert after < LARGE // 2
