"""What single samples and classes show, beside the totals over all samples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class ClassTotals:
    """Sensitivity of one layer's neurons summed by class: ``sums`` ``[K, C]`` and ``samples`` ``[K]``, float64."""

    def __init__(self, classes: int, neurons: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(classes, neurons, dtype=torch.float64, device=device)
        self.samples = torch.zeros(classes, dtype=torch.float64, device=device)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.samples)

    def add(self, labels: Tensor, changes: Tensor, classes: int) -> None:
        """Add the mean changes ``[N, C]`` of samples with ``labels`` ``[N]``, of which there may be ``classes``.

        A label below 0 counts in no class, nor does a sample that the layer did not see, whose changes are all NaN.
        """
        self.grow(classes)
        known = (labels >= 0) & (labels < self.classes) & ~changes.isnan().all(1)
        place = torch.where(known, labels, self.classes)  # one class more takes what does not count
        for totals, values in ((self.sums, changes.double()), (self.samples, torch.ones_like(labels).double())):
            wide = torch.cat((totals, totals.new_zeros(1, *totals.shape[1:])))
            # Not index_add_, whose order of additions is not the same from run to run on CUDA.
            wide.index_put_((place,), values.to(wide.device), accumulate=True)
            totals.copy_(wide[:-1])

    def grow(self, classes: int) -> None:
        """Make room for ``classes`` classes."""
        more = classes - self.classes
        if more > 0:
            self.sums = torch.cat((self.sums, self.sums.new_zeros(more, self.sums.shape[1])))
            self.samples = torch.cat((self.samples, self.samples.new_zeros(more)))

    def merge(self, other: ClassTotals) -> None:
        """Add the totals of ``other``."""
        self.grow(other.classes)
        self.sums[: other.classes] += other.sums.to(self.sums.device)
        self.samples[: other.classes] += other.samples.to(self.samples.device)

    def copied_to(self, device: torch.device | str) -> ClassTotals:
        """A copy on ``device``."""
        copy = ClassTotals(self.classes, self.sums.shape[1], device)
        copy.merge(self)
        return copy

    def means(self) -> Tensor:
        """Mean |d| by class and neuron, ``[K, C]``; NaN where a class has no sample."""
        return self.sums / torch.where(self.samples > 0, self.samples, torch.nan)[:, None]


class SampleMeans:
    """Mean |d| and mean |z| of every neuron for each sample of one batch, gathered from the batch's parts."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.rows: dict[str, Tensor] = {}

    def take(self, part: slice, found: dict[str, Tensor]) -> None:
        """Put what layers found for the samples of ``part`` in its place, and leave ``found`` empty."""
        for name, means in found.items():
            whole = self.rows.setdefault(name, means.new_full((self._length, *means.shape[1:]), torch.nan))
            whole[part] = means
        found.clear()

    def scores(self, layers: Mapping[str, object]) -> Tensor:
        """Mean |d| over the neurons of each of ``layers``, ``[N, L]``, behind the score of the whole sample, ``[N]``.

        That is the mean over layers of mean |d| / mean |z|, 1 where the layer is zero: a choice of this package, since
        layers differ in scale. Layers that did not see the sample do not enter it.
        """
        missing = next(iter(self.rows.values())).new_full((self._length, 1, 2), torch.nan)
        means = [self.rows.get(name, missing).double().mean(1) for name in layers]
        change, size = torch.stack([found.to(means[0].device) for found in means], 1).unbind(-1)  # [N, L]
        relative = torch.where(size == 0, 1.0, change / size)
        return torch.cat((relative.nanmean(1, keepdim=True), change), 1)
