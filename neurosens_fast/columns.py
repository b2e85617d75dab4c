"""Names of the columns of the operators' tensors, in order; ``csrc/math/statistics.h`` has the same order.

Notation: ``z`` benign and ``z'`` adversarial activation of one neuron and sample, ``d = z' - z``,
``|S|`` positions per row.
"""

from __future__ import annotations

ROW_STATISTICS: tuple[str, ...] = (
    "change_l1",  # sum |d|
    "change_sum",  # sum d
    "change_sq",  # sum d^2
    "change_dot",  # sum d z
    "benign_sum",  # sum z
    "adversarial_sum",  # sum z'
    "benign_l1",  # sum |z|
    "benign_sq",  # sum z^2
    "adversarial_sq",  # sum z'^2
    "pair_dot",  # sum z z'
    "benign_positive",  # number of z > 0
    "adversarial_positive",  # number of z' > 0
    "change_max",  # max |d|
    "benign_max",  # max z
    "adversarial_max",  # max z'
)
"""Last axis of ``ops.pair_statistics``."""

SUMS: tuple[str, ...] = (
    "sensitivity",  # mean_s |d|
    "sensitivity_l2",  # ||d||_2 / |S|
    "relative_l1",  # ||d||_1 / ||z||_1, 1 where z is zero
    "relative_l2",  # ||d||_2 / ||z||_2, 1 where z is zero
    "mean_shift",  # |mean_s d|
    "squared_change",  # mean_s d^2
    "activation_shift",  # ||d||_2
    "cosine_distance",  # 1 - cosine(z, z')
    "benign_mean",  # mean_s z
    "adversarial_mean",  # mean_s z'
    "benign_active",  # share of z > 0
    "adversarial_active",  # share of z' > 0
    "benign_frequency",  # 1 if mean_s z exceeds 1 % of the sample's largest channel mean
    "adversarial_frequency",  # the same of z'
)
"""Last axis of the ``sums`` totals: per-sample terms, summed over samples."""

MAXIMA: tuple[str, ...] = ("change_max", "benign_max", "adversarial_max")
"""Last axis of the ``maxima`` totals: largest value over samples and positions."""
