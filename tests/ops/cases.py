"""Inputs of the operator tests and the tolerances they are held to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-24}
"""Rounding unit of the accumulation dtype."""
GRADIENT_ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""Largest relative error of a gradient: a few roundings, or one where it is rounded to 16 bits."""


class Case(NamedTuple):
    """A pair's shape and how it lies in memory."""

    name: str
    shape: tuple[int, ...]
    channel_dim: int = 1
    memory: str = "contiguous"


def _cases() -> Iterator[Case]:
    # Row lengths around the 16 lanes, the 32-wide bf16 group, the transposition limit and a block's end.
    for positions in (1, 2, 7, 8, 15, 16, 17, 31, 33, 49, 127, 128, 129, 192, 193, 384, 401, 1537):
        yield Case(f"rows-{positions}", (2, 5, positions))
    # Channel counts around the vector widths and the tile of 64.
    for channels in (1, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130):
        yield Case(f"columns-{channels}", (2, channels, 3, 7), memory="channels_last")
        yield Case(f"short-rows-{channels}", (2, channels, 3, 3))
        yield Case(f"units-{channels}", (5, channels))
    yield Case("tokens", (3, 21, 40), channel_dim=-1)
    yield Case("volume", (2, 6, 3, 4, 5))
    yield Case("volume-last", (2, 6, 3, 4, 5), memory="channels_last")
    yield Case("long-columns", (1, 20, 1100), memory="channels_last")
    yield Case("long-columns-130", (1, 130, 2500), memory="channels_last")  # several tiles and chunks
    yield Case("columns-577", (2, 577, 3, 7), memory="channels_last")  # several ranges
    yield Case("one-channel-strided", (3, 1, 12), memory="strided")
    yield Case("one-channel-mixed", (3, 1, 4, 5), memory="mixed-strides")
    yield Case("middle-channel", (2, 4, 6, 5), channel_dim=2)
    yield Case("many-samples", (70, 130))
    yield Case("many-units", (40, 1100))
    yield Case("many-samples-rows", (70, 3, 20))
    yield Case("no-samples", (0, 4, 5))
    yield Case("no-channels", (3, 0, 5))
    yield Case("no-units", (3, 0))
    yield Case("sliced", (3, 7, 12), memory="sliced")
    yield Case("sliced-channels", (3, 18, 4, 5), memory="sliced-channels")
    yield Case("strided", (3, 7, 12), memory="strided")
    yield Case("transposed", (3, 7, 6, 5), memory="transposed")
    yield Case("expanded", (3, 7, 12), memory="expanded")
    yield Case("mixed", (3, 9, 4, 5), memory="mixed")


CASES = tuple(_cases())
JOINED = tuple(case for case in CASES if 0 not in case.shape and not case.memory.startswith(("mixed", "expanded")))
"""Those whose halves can be one batch: it has one memory layout."""
SHORT = (
    Case("rows", (3, 4, 200)),
    Case("short", (3, 70, 5)),
    Case("columns", (3, 20, 4, 3), memory="channels_last"),
    Case("tokens", (3, 5, 20), channel_dim=-1),
    Case("units", (4, 20)),
    Case("strided", (3, 4, 6), memory="strided"),
    Case("mixed", (3, 4, 3, 5), memory="mixed"),
    Case("middle", (2, 4, 6, 5), channel_dim=2),
    Case("sliced", (3, 4, 6, 8), memory="sliced"),
    Case("sliced-channels", (3, 5, 4, 3), memory="sliced-channels"),
    Case("one-channel-strided", (3, 1, 12), memory="strided"),
    Case("one-channel-mixed", (3, 1, 4, 5), memory="mixed-strides"),
)
"""One case of each kind, for what is slow or needs no sweep."""


def place(x: Tensor, memory: str) -> Tensor:
    """``x`` with the same values, lying in memory as asked."""
    if memory == "contiguous":
        return x.contiguous()
    if memory == "channels_last":  # any number of dimensions
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if memory == "sliced":  # an offset into a larger storage, rows still adjacent
        big = torch.zeros((x.shape[0] + 1, *x.shape[1:-1], x.shape[-1] + 3), dtype=x.dtype, device=x.device)
        big[1:, ..., 2:-1] = x
        return big[1:, ..., 2:-1]
    if memory == "sliced-channels":
        big = torch.zeros((x.shape[0], x.shape[1] + 3, *x.shape[2:]), dtype=x.dtype, device=x.device)
        big = big.contiguous(memory_format=torch.channels_last)
        big[:, 1:-2] = x
        return big[:, 1:-2]
    if memory == "strided":
        big = torch.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype, device=x.device)
        big[..., ::2] = x
        return big[..., ::2]
    if memory == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    raise ValueError(memory)


def make_pair(case: Case, dtype: torch.dtype, device: str, relu: bool = False) -> tuple[Tensor, Tensor]:
    """A random pair, the adversarial half close to the benign one; some elements exactly equal."""
    z = torch.randn(case.shape, dtype=torch.float64)
    z_adv = z + 0.1 * torch.randn(case.shape, dtype=torch.float64) * (torch.rand(case.shape) > 0.2)
    if relu:
        z, z_adv = z.relu(), z_adv.relu()
    z, z_adv = z.to(dtype).to(device), z_adv.to(dtype).to(device)
    if case.memory == "expanded":
        return z[:, :1].expand(case.shape), z_adv
    if case.memory == "mixed-strides":
        return place(z, "contiguous"), place(z_adv, "strided")
    if case.memory == "mixed":
        return place(z, "contiguous"), place(z_adv, "channels_last")
    return place(z, case.memory), place(z_adv, case.memory)


def joined(case: Case, dtype: torch.dtype, device: str) -> Tensor:
    """A random batch, benign half first, that lies in memory as the case says; some elements equal, some negative."""
    z = torch.randn(case.shape, dtype=torch.float64)
    z_adv = z + 0.3 * torch.randn(case.shape, dtype=torch.float64) * (torch.rand(case.shape) > 0.2)
    return place(torch.cat((z, z_adv)).to(dtype).to(device), case.memory)


def with_special_values(x: Tensor) -> Tensor:
    """A contiguous copy with -0, NaN and infinities here and there."""
    flat = x.reshape(-1).clone()
    flat[::7], flat[3::11], flat[5::13], flat[6::17] = -0.0, torch.nan, torch.inf, -torch.inf
    return flat.reshape(x.shape)


def gaps_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """The storage of ``x`` as a flat tensor, and where in it no element of ``x`` lies."""
    storage = torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage())
    gaps = torch.ones_like(storage, dtype=torch.bool)
    gaps.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(False)
    return storage, gaps


def bits(x: Tensor) -> Tensor:
    """The bits of every element; all NaN are one, since torch.relu itself gives bfloat16 ones different bits."""
    integers = x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
    return integers.masked_fill(x.isnan(), -1)


def unusual_rows(positions: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """A pair of ``[2, 70, positions]`` whose neighbouring rows are alike, far apart, tiny, zero, negative or sparse."""
    shape = (2, positions)

    def noise(size: float = 1.0) -> Tensor:
        return size * torch.randn(shape, dtype=torch.float64)

    z, z_adv = (torch.empty(2, 70, positions, dtype=torch.float64) for _ in range(2))
    for c in range(70):
        a = noise()
        near, zero = a + noise(0.1), torch.zeros_like(a)
        below = -a.abs() - 0.01
        spike = zero.clone()
        spike[:, c % positions] = 3 * positions**0.5
        even = torch.arange(positions) % 2 == 0
        kinds = (
            (a, near),
            (a, noise(2**-10)),
            (a, a * 2**-12),
            (a, -a),
            (a, noise()),
            (a, zero),
            (zero, a),
            (zero, zero),
            (below, below + noise(0.001)),
            (below * (torch.rand(shape) > 0.5), -below),  # -0 and negative ones
            (a, spike),
            (a.where(even, 2**-10 * a), a.where(~even, 2**-10 * a)),
            (a, a * 2**8),
        )
        z[:, c], z_adv[:, c] = kinds[c % len(kinds)]
    return z.to(dtype).to(device), z_adv.to(dtype).to(device)


def row_scales(z: Tensor, z_adv: Tensor, channel_dim: int) -> Tensor:
    """What the rounding error of each row statistic is relative to, ``[N, C, 15]``: sums of magnitudes."""
    a, b = (x.double().movedim(channel_dim, 1).flatten(2) if x.dim() > 2 else x.double()[..., None] for x in (z, z_adv))
    d = b - a
    zero = torch.zeros(a.shape[:2], dtype=torch.float64, device=a.device)
    # The change itself is rounded once before it is used: its error is relative to the larger operand.
    rounded = torch.maximum(a.abs(), b.abs()) + d.abs()
    return torch.stack(
        [
            rounded.sum(2),
            rounded.sum(2),
            (rounded * d.abs()).sum(2),
            (rounded * a.abs()).sum(2),
            a.abs().sum(2),
            b.abs().sum(2),
            a.abs().sum(2),
            a.square().sum(2),
            b.square().sum(2),
            (a * b).abs().sum(2),
            zero,
            zero,
            rounded.amax(2) if a.shape[2] else zero,
            zero,
            zero,
        ],
        dim=2,
    )


def row_tolerance(z: Tensor, z_adv: Tensor, channel_dim: int) -> Tensor:
    """Largest admissible error of row statistics: a worst-case bound of the summation, not a guess.

    One after the other are added at most 32 elements of a block, 2048 / 4 blocks of a chunk and S / 2048 chunks
    (fewer in rows); folding the lanes adds 4 more roundings, each element brings up to 3 of its own.
    """
    scales = row_scales(z, z_adv, channel_dim)
    count = z.numel() // max(1, scales.shape[0] * scales.shape[1])
    depth = min(count, 32) + min(count, 2048) / 4 + count / 2048 + 8
    return depth * UNIT[z.dtype] * scales
