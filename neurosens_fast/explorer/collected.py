"""What one pass over the data finds out about the neurons of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosens_fast.statistics import PairStatistics

from .neuron_layer import NeuronLayer
from .top_inputs import TopInputs

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Collected:
    """Numbers of ``samples`` samples at E levels, and the first N of them one by one; everything is on the CPU.

    One by one: ``numbers`` ``[N]`` in the data and ``labels`` ``[N]``; ``inputs`` ``[N, ...]`` as the model took them
    and ``adversarial`` ``[E, N, ...]``, None where inputs are no single tensor or differ in size; ``linf`` and ``l2``
    ``[E, N]`` of the perturbation (of all tensors of an input together); ``logits`` ``[1 + E, N, K]`` and ``values``
    ``[1 + E, V, C]``, benign first, V at most N.

    Over all samples, with a and a' the benign and the adversarial value of neuron n, y the true class and y' that of
    :func:`adversarial_class`: ``activation_change`` mean |a' - a|,
    ``true_contribution`` and ``adversarial_contribution`` mean w_yn (a' - a) and mean w_y'n (a' - a), ``swap_drop`` and
    ``swap_rise`` the mean fall of p_y and rise of p_y' where the neuron alone takes its adversarial value, each
    ``[E, C]``; all but the first are None for a layer without weights. ``class_means`` ``[1 + E, K, C]`` are the mean
    values of the samples of each true class (NaN without any), ``class_samples`` ``[K]`` how many those are;
    ``statistics`` are the audit's totals at each level, over all positions of the layer's map if there is one;
    ``medians`` ``[1 + E, C]`` median activation percentiles; ``right`` ``[1 + E]`` how many samples were classified
    rightly. ``top`` are the inputs with the largest benign values, whose positions are those of a map of
    ``map_shape`` ``S``; it keeps no pictures of the first N. ``notes`` say what else is to be known.
    """

    layer: NeuronLayer
    samples: int
    numbers: Integers
    labels: Integers
    inputs: Tensor | None
    adversarial: Tensor | None
    linf: Floats
    l2: Floats
    logits: Singles
    values: Singles
    activation_change: Floats
    true_contribution: Floats | None
    adversarial_contribution: Floats | None
    swap_drop: Floats | None
    swap_rise: Floats | None
    class_means: Floats
    class_samples: Integers
    statistics: tuple[PairStatistics, ...]
    medians: Floats
    right: Integers
    top: TopInputs
    map_shape: tuple[int, ...] | None
    notes: tuple[str, ...]

    @property
    def accuracy(self) -> Floats:
        """Share of samples that were classified rightly, ``[1 + E]``, benign first."""
        return self.right / self.samples


def adversarial_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The class y' that an attack leads to, ``[..., N]``: the most probable one other than the true ``labels`` ``[N]``.

    ``logits`` ``[..., N, K]`` are those under attack. Where the attack succeeded that is the predicted class; where it
    failed, the runner-up (a choice of this package).
    """
    first, second = logits.topk(2).indices.unbind(-1)
    return torch.where(first == labels.to(logits.device), second, first)
