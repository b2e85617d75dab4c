"""Random numbers of attacks: one stream per sample, keyed by seed and the sample's index.

With a seed, a sample's draws depend on nothing but the seed, its index and how many it drew before: not on the
batch size, the order, the device or the number of processes. They come from numpy's Philox generator on the CPU.
"""

from __future__ import annotations

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
        self._generator, self._device, self._count = generator, device, len(index)
        self._streams: list[numpy.random.Generator] | None = None
        if seed is not None:
            # Seeds of any size; a SeedSequence mixes its numbers, so that neighbours share nothing.
            keys = [numpy.random.SeedSequence([seed, purpose, sample]) for sample in index.tolist()]
            self._streams = [numpy.random.Generator(numpy.random.Philox(key)) for key in keys]

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), ``[N, *shape]``."""
        if self._streams is not None:
            return self._joined([stream.random(shape) for stream in self._streams], shape)
        place = torch.device("cpu") if self._generator is None else self._generator.device
        drawn = torch.rand((self._count, *shape), generator=self._generator, dtype=torch.float64, device=place)
        return drawn.to(self._device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, ``[N, *shape]``."""
        if self._streams is not None:
            return self._joined([stream.standard_normal(shape) for stream in self._streams], shape)
        place = torch.device("cpu") if self._generator is None else self._generator.device
        drawn = torch.randn((self._count, *shape), generator=self._generator, dtype=torch.float64, device=place)
        return drawn.to(self._device)

    def laplace(self, *shape: int) -> Tensor:
        """Numbers with density ``exp(-|t|) / 2``, ``[N, *shape]``: their direction is uniform in L1."""
        half = self.uniform(*shape) - 0.5
        return -half.sign() * torch.log1p(-2 * half.abs())

    def rows(self, rows: Tensor) -> None:
        """Go on with some of the samples."""
        self._count = len(rows)
        if self._streams is not None:
            self._streams = [self._streams[row] for row in rows.tolist()]

    def _joined(self, drawn: list[numpy.ndarray], shape: tuple[int, ...]) -> Tensor:
        whole = numpy.stack(drawn) if drawn else numpy.empty((0, *shape))
        return torch.from_numpy(whole).to(self._device)
