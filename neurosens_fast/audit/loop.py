"""Going over data with a model: what every experiment on batches does around its own work."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from neurosens_fast.capture import Inputs, untouched
from neurosens_fast.support.random_state import random_state

from .batches import Data, batches, limited, sample_count
from .progress import Report, progress_bar
from .setting import Setting


class Run(Protocol):
    """One experiment under way."""

    samples: int

    def add(self, inputs: Inputs, labels: Tensor) -> None:
        """Work on a batch that is on the device and not empty, and count its ``samples``."""


def go_over(
    data: Data,
    run: Run,
    setting: Setting,
    *,
    batch_size: int,
    max_samples: int | None,
    progress: bool | Report,
    title: str,
    seed: int,
) -> None:
    """Give ``run`` the batches of ``data``; the model and the global random states are afterwards as before.

    Raises ``ValueError`` for weights that are not finite and data without a sample, and turns errors of the model into
    one sentence.
    """
    total = sample_count(data, max_samples)
    with random_state(seed), untouched(setting.model), progress_bar(progress, total, title) as report:
        setting.check_weights()
        for batch in limited(batches(data, batch_size), max_samples):
            inputs, labels = setting.batch(*batch)
            if len(labels):
                with setting.explained(inputs):
                    run.add(inputs, labels)
            report(run.samples, total)
    if not run.samples:
        raise ValueError("data gave no sample; an iterator that was read before is empty, pass a list or a DataLoader")
