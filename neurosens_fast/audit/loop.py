"""Going over data with a model: what every experiment on batches does around its own work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from neurosens_fast.capture import Inputs, untouched
from neurosens_fast.support.random_state import random_state, seed_globally

from .ahead import moved_ahead
from .batches import Data, sample_count
from .progress import Report, progress_bar
from .setting import Setting
from .source import EVERYTHING, NumberedBatch, Share, numbered_batches


def nothing(given: Any) -> None:
    """Nothing."""


NO_SAMPLE = "data gave no sample; an iterator that was read before is empty, pass a list or a DataLoader"
_WORK = 2  # the stream of random numbers of the work on a batch; those of its making are the source's


class Run(Protocol):
    """One experiment under way."""

    @property
    def samples(self) -> int:
        """How many samples were worked on."""

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        """Work on a batch that is on the device and not empty, and count its ``samples``.

        ``first`` is the number of the batch's first sample within the data.
        """


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
    share: Share = EVERYTHING,
    workers: int = 0,
    before: Callable[[NumberedBatch], Any] = nothing,
    after: Callable[[NumberedBatch], Any] = nothing,
) -> None:
    """Give ``run`` the batches of ``share``; the model and the global random states are afterwards as before.

    ``before`` is called with every batch that was read, ``after`` with each that ``run`` has worked on. The random
    numbers that the work on a batch draws depend on ``seed`` and the batch's number. Raises ``ValueError`` for weights
    that are not finite and data without a sample, and turns errors of the model into one sentence.
    """
    total = sample_count(data, max_samples) if share.world == 1 else None
    with random_state(seed), untouched(setting.model), progress_bar(progress, total, title) as report:
        setting.check_weights()
        source = numbered_batches(
            data,
            batch_size,
            max_samples=max_samples,
            share=share,
            seed=seed,
            workers=workers,
        )
        for batch in moved_ahead(source, setting):
            before(batch)
            if len(batch.labels) and batch.number >= share.start:
                seed_globally(seed, _WORK, batch.number)
                with setting.explained(batch.inputs):
                    run.add(batch.inputs, batch.labels, batch.first)
                after(batch)
            report(run.samples, total)
    if not run.samples and share.world == 1:
        raise ValueError(NO_SAMPLE)
