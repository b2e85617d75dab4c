"""Random numbers of attacks: one stream per sample, keyed by seed and the sample's index.

With a seed, a sample's draws depend on nothing but the seed, its index and how often it drew before: not on the
batch size, the order, the device or the number of processes. They come from numpy's Philox generator on the CPU, whose
counter holds the sample and the draw: a generator for every sample would take longer than the step of a small network.
Source: Salmon et al., SC 2011; the use of the counter: choice of this package.
"""

from __future__ import annotations

import math
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
        # Seeds of any size; a SeedSequence mixes its numbers, so that neighbours share nothing.
        self._philox = None if seed is None else numpy.random.Philox(numpy.random.SeedSequence([seed, purpose]))
        self._draws = 0

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), ``[N, *shape]``."""
        if self._philox is not None:
            return self._drawn("random", shape)
        place = torch.device("cpu") if self._generator is None else self._generator.device
        drawn = torch.rand((len(self._samples), *shape), generator=self._generator, dtype=torch.float64, device=place)
        return drawn.to(self._device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, ``[N, *shape]``."""
        if self._philox is not None:
            return self._drawn("standard_normal", shape)
        place = torch.device("cpu") if self._generator is None else self._generator.device
        drawn = torch.randn((len(self._samples), *shape), generator=self._generator, dtype=torch.float64, device=place)
        return drawn.to(self._device)

    def laplace(self, *shape: int) -> Tensor:
        """Numbers with density ``exp(-|t|) / 2``, ``[N, *shape]``: their direction is uniform in L1."""
        half = self.uniform(*shape) - 0.5
        return -half.sign() * torch.log1p(-2 * half.abs())

    def rows(self, rows: Tensor) -> None:
        """Go on with some of the samples."""
        self._samples = [self._samples[row] for row in rows.tolist()]

    def _drawn(self, method: str, shape: tuple[int, ...]) -> Tensor:
        """What ``method`` of numpy's generator fills each sample with."""
        philox: Any = self._philox
        draw = getattr(numpy.random.Generator(philox), method)
        state = {**philox.state, "buffer_pos": 4, "has_uint32": 0}  # nothing left over from another sample
        counter = state["state"]["counter"]
        counter[:] = 0, 0, self._draws, 0
        drawn = numpy.empty((len(self._samples), math.prod(shape)))
        for sample, row in zip(self._samples, drawn, strict=True):
            counter[3] = sample
            philox.state = state
            draw(out=row)
        self._draws += 1
        return torch.from_numpy(drawn.reshape(len(drawn), *shape)).to(self._device)
