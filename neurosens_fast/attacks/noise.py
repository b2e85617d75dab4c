"""Random numbers of attacks: one stream per sample, keyed by seed and the sample's index.

With a seed, a sample's draws depend on nothing but the seed, its index and how often it drew before: not on the
batch size, the order, the device or the number of processes. They come from numpy's Philox generator on the CPU, whose
counter holds the sample and the draw: a generator for every sample would take longer than the step of a small network.
Source: Salmon et al., SC 2011; the use of the counter: choice of this package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor


class Noise:
    """Streams of the samples with ``index`` ``[N]``; without ``seed`` one stream for all, ``generator`` or torch's.

    What is drawn has the samples first, is float64, and lies on ``device``.
    """

    def __init__(
        self,
        seed: int | None,
        generator: torch.Generator | None,
        index: Tensor,
        device: torch.device,
        purpose: int = 0,
    ) -> None:
        self._generator, self._device, self._samples = generator, device, index.tolist()
        self._seeded: numpy.random.Generator | None = None
        if seed is not None:
            # Seeds of any size; a SeedSequence mixes its numbers, so that neighbours share nothing.
            self._seeded = numpy.random.Generator(numpy.random.Philox(numpy.random.SeedSequence([seed, purpose])))
        self._draws = 0

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), ``[N, *shape]``."""
        return self._drawn(shape, numpy.random.Generator.random, torch.rand)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, ``[N, *shape]``."""
        return self._drawn(shape, numpy.random.Generator.standard_normal, torch.randn)

    def laplace(self, *shape: int) -> Tensor:
        """Numbers with density ``exp(-|t|) / 2``, ``[N, *shape]``: their direction is uniform in L1."""
        half = self.uniform(*shape) - 0.5
        return -half.sign() * torch.log1p(-2 * half.abs())

    def rows(self, rows: Tensor) -> None:
        """Go on with some of the samples."""
        self._samples = [self._samples[row] for row in rows.tolist()]

    def _drawn(self, shape: tuple[int, ...], seeded: Callable[..., Any], shared: Callable[..., Tensor]) -> Tensor:
        """What numpy's ``seeded`` fills each sample with; without a seed what torch's ``shared`` gives for all."""
        size = (len(self._samples), *shape)
        if self._seeded is None:
            place = torch.device("cpu") if self._generator is None else self._generator.device
            return shared(size, generator=self._generator, dtype=torch.float64, device=place).to(self._device)
        philox: Any = self._seeded.bit_generator
        state = {**philox.state, "buffer_pos": 4, "has_uint32": 0}  # nothing left over from another sample
        counter = state["state"]["counter"]
        counter[:] = 0, 0, self._draws, 0
        drawn = numpy.empty((len(self._samples), math.prod(shape)))
        for sample, row in zip(self._samples, drawn, strict=True):
            counter[3] = sample
            philox.state = state
            seeded(self._seeded, out=row)
        self._draws += 1
        return torch.from_numpy(drawn.reshape(size)).to(self._device)
