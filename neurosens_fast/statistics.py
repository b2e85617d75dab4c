"""Which statistics exist, how they accumulate, and which metrics derive from them.

Three levels, the columns of the first two named in :mod:`neurosens_fast.columns`:

* **row statistics**: per sample and neuron, one read of the pair (``ROW_STATISTICS``);
* **totals**: finalised per-sample terms summed over samples (``SUMS``, float64) and maxima
  (``MAXIMA``, float64). Both merge associatively across batches, processes and reports;
* **metrics**: numbers per neuron, formed from the totals and the sample count (``METRICS``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import ops
from .columns import MAXIMA, SUMS


def new_totals(neurons: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Totals of no sample: ``sums`` zeros ``[C, 14]`` and ``maxima`` -inf ``[C, 3]``, float64.

    A device without float64 (MPS) keeps its totals on the CPU.
    """
    place = torch.device(device)
    if place.type == "mps":
        place = torch.device("cpu")
    sums = torch.zeros(neurons, len(SUMS), dtype=torch.float64, device=place)
    maxima = torch.full((neurons, len(MAXIMA)), -torch.inf, dtype=torch.float64, device=place)
    return sums, maxima


@dataclass(frozen=True)
class Metric:
    """One number per neuron: how it derives from the totals, and where it comes from."""

    name: str
    description: str
    source: str
    compute: Callable[[Tensor, Tensor, int], Tensor]  # (sums [C, 14], maxima [C, 3], samples) -> [C]


def _mean_of(term: str) -> Callable[[Tensor, Tensor, int], Tensor]:
    column = SUMS.index(term)
    return lambda sums, maxima, samples: sums[:, column] / samples


def _maximum_of(name: str) -> Callable[[Tensor, Tensor, int], Tensor]:
    column = MAXIMA.index(name)
    return lambda sums, maxima, samples: maxima[:, column].clone()


_OURS = "choice of this package"
_EVALBOX = "AISafety EvalBox"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "sensitivity",
            "mean absolute change of the activation, mean_i mean_s |d|",
            "Zhang et al., IEEE TIP 30:1291, 2021",
            _mean_of("sensitivity"),
        ),
        Metric("sensitivity_l2", "mean_i ||d_i||_2 / |S|", _EVALBOX, _mean_of("sensitivity_l2")),
        Metric("relative_l1", "mean_i ||d_i||_1 / ||z_i||_1, 1 where z_i is zero", _EVALBOX, _mean_of("relative_l1")),
        Metric("relative_l2", "mean_i ||d_i||_2 / ||z_i||_2, 1 where z_i is zero", _EVALBOX, _mean_of("relative_l2")),
        Metric(
            "mean_shift",
            "mean_i |mean_s d|, the spatial mean before the absolute value",
            "MindArmour NeuronMetric, which sums over i instead",
            _mean_of("mean_shift"),
        ),
        Metric(
            "rms_change",
            "sqrt(mean_i mean_s d^2)",
            _OURS,
            lambda sums, maxima, samples: (sums[:, SUMS.index("squared_change")] / samples).sqrt(),
        ),
        Metric(
            "activation_shift",
            "mean_i ||d_i||_2, not divided by the length",
            "trigger-activated change, Zheng et al., ECCV 2022",
            _mean_of("activation_shift"),
        ),
        Metric(
            "cosine",
            "mean_i <z, z'> / (||z|| ||z'||); 1 where both are zero, 0 where one is",
            f"similarity form of SNS, {_OURS}",
            lambda sums, maxima, samples: 1 - sums[:, SUMS.index("cosine_distance")] / samples,
        ),
        Metric("cosine_distance", "mean_i 1 - cosine, exact for nearly equal rows", _OURS, _mean_of("cosine_distance")),
        Metric("peak_change", "max over samples and positions of |d|", _OURS, _maximum_of("change_max")),
        *(
            metric
            for branch in ("benign", "adversarial")
            for metric in (
                Metric(
                    f"activation_frequency_{branch}",
                    f"share of samples whose {branch} spatial mean exceeds 1 % of the sample's largest channel mean",
                    "CAS, ICLR 2021",
                    _mean_of(f"{branch}_frequency"),
                ),
                Metric(f"mean_activation_{branch}", f"mean {branch} activation", _OURS, _mean_of(f"{branch}_mean")),
                Metric(f"max_activation_{branch}", f"largest {branch} activation", _OURS, _maximum_of(f"{branch}_max")),
                Metric(
                    f"active_share_{branch}", f"share of {branch} activations > 0", _OURS, _mean_of(f"{branch}_active")
                ),
            )
        ),
    )
}
"""Every metric by name, in the order of tables."""

NOTATION = "z, z': benign and adversarial activation of a neuron; d = z' - z; i: sample; s: one of |S| positions"
"""What the letters in the descriptions of metrics mean."""


def check_metric(name: object) -> None:
    """``ValueError`` unless ``name`` is one of :data:`METRICS`, listing them."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; choose one of {', '.join(METRICS)}")


def metric(name: str, sums: Tensor, maxima: Tensor, samples: int) -> Tensor:
    """Metric ``name`` of totals over ``samples`` samples, ``[C]`` float64; NaN where nothing was seen.

    Raises ``ValueError`` for an unknown name, listing the valid ones.
    """
    check_metric(name)
    if samples == 0:
        return torch.full((sums.shape[0],), torch.nan, dtype=torch.float64, device=sums.device)
    return METRICS[name].compute(sums, maxima, samples)


class PairStatistics:
    """Totals of one layer's neurons over the samples seen so far.

    ``sums`` ``[C, 14]`` and ``maxima`` ``[C, 3]`` are float64, ``samples`` counts pairs. ``update`` adds
    a batch, ``merge`` adds another state; both orders give the same metrics to float64 rounding.
    """

    def __init__(self, neurons: int, device: torch.device | str = "cpu") -> None:
        self.sums, self.maxima = new_totals(neurons, device)
        self.samples = 0

    @property
    def neurons(self) -> int:
        """Number of neurons C."""
        return self.sums.shape[0]

    def update(self, benign: Tensor, adversarial: Tensor, channel_dim: int = 1) -> None:
        """Add a batch of activations ``[N, C, *S]`` (channel at ``channel_dim``), in one read."""
        ops.accumulate_pair_statistics_(self.sums, self.maxima, benign, adversarial, channel_dim)
        self.samples += benign.shape[0]

    def update_relu_(self, pair: Tensor, channel_dim: int = 1) -> None:
        """ReLU of ``pair`` ``[2N, C, *S]`` in place, whose halves are added as by :meth:`update` in the same pass."""
        ops.relu_accumulate_pair_statistics_(self.sums, self.maxima, pair, channel_dim)
        self.samples += pair.shape[0] // 2

    def merge(self, other: PairStatistics) -> None:
        """Add the totals of ``other``, which must have as many neurons; else ``ValueError``."""
        if other.neurons != self.neurons:
            raise ValueError(f"cannot merge statistics of {other.neurons} neurons into {self.neurons}")
        self.sums += other.sums.to(self.sums.device)
        torch.maximum(self.maxima, other.maxima.to(self.maxima.device), out=self.maxima)
        self.samples += other.samples

    def copied_to(self, device: torch.device | str) -> PairStatistics:
        """A copy on ``device``."""
        copy = PairStatistics(self.neurons, device)
        copy.merge(self)
        return copy

    def metric(self, name: str) -> Tensor:
        """Metric ``name`` per neuron, ``[C]`` float64."""
        return metric(name, self.sums, self.maxima, self.samples)

    def nonfinite(self) -> Tensor:
        """Indices of neurons whose totals are NaN or infinite, int64."""
        bad = ~self.sums.isfinite().all(1)
        if self.samples:
            bad |= ~self.maxima.isfinite().all(1)
        return bad.nonzero().flatten()
