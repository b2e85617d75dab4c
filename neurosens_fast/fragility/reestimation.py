"""Statistics of batch norms estimated anew, behind a module that was changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.loop import go_over
from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.setting import Setting, check_counts
from neurosens_fast.capture import AttachedHooks, Inputs, plain_forward


def reestimate_norms(
    model: nn.Module,
    behind: str,
    data: Data,
    *,
    device: torch.device | str | None,
    batch_size: int,
    max_samples: int | None,
    progress: bool | Report,
    seed: int,
) -> None:
    """Put the statistics of ``data`` into the batch norms that run after module ``behind``; see :func:`repair`.

    They are the mean over batches of mean and unbiased variance; nothing else of the model changes. Raises
    ``ValueError`` if there is no such norm, or a batch of one sample does not do for one.
    """
    setting = Setting(model, None, device, None)
    check_counts(batch_size=batch_size, max_samples=max_samples)
    run = _Run(setting, behind)
    go_over(
        data,
        run,
        setting,
        batch_size=batch_size,
        max_samples=max_samples,
        progress=progress,
        title="re-estimate",
        seed=seed,
    )
    with torch.no_grad():
        for norm, mean, variance in run.found:  # only now: going over data puts all buffers back
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)


class _Run:
    """The cumulative averages of torch itself (``momentum=None``) in the buffers of the norms."""

    def __init__(self, setting: Setting, behind: str) -> None:
        self.setting, self._behind = setting, behind
        self.samples = 0
        self.found: list[tuple[Any, Tensor, Tensor]] = []
        self._norms: list[Any] = []

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        """Average over one more batch."""
        if not self.samples:
            self._begin(inputs)
        try:
            plain_forward(self.setting.model, inputs, run=self._averaging)
        except ValueError as error:  # torch's own: one value per channel has no variance
            if len(labels) > 1:
                raise
            raise ValueError(
                "a batch of reestimate holds one sample, of which a batch norm cannot estimate the variance; choose "
                "batch_size or max_samples so that every batch holds more"
            ) from error
        self.found = [(norm, norm.running_mean.clone(), norm.running_var.clone()) for norm in self._norms]
        self.samples += len(labels)

    def _averaging(self, *inputs: Any, **named: Any) -> Any:
        with _training(self._norms):
            return self.setting.model(*inputs, **named)

    def _begin(self, inputs: Inputs) -> None:
        with _Order(self.setting.model, self.setting.model.get_submodule(self._behind)) as order:
            plain_forward(self.setting.model, inputs)
        self._norms = order.norms
        if not self._norms:
            raise ValueError(
                f"no batch norm with running statistics runs behind {self._behind!r}, so that there are none to "
                "re-estimate; leave reestimate out"
            )
        for norm in self._norms:
            norm.reset_running_stats()


@contextmanager
def _training(norms: list[Any]) -> Iterator[None]:
    """The norms in training mode with the plain mean of all batches."""
    kept = [(norm, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.momentum = True, None
        yield
    finally:
        for norm, momentum in kept:
            norm.training, norm.momentum = False, momentum


class _Order(AttachedHooks):
    """The batch norms with running statistics that run after the first call of ``start``, each once."""

    def __init__(self, model: nn.Module, start: nn.Module) -> None:
        super().__init__()
        self.norms: list[Any] = []
        self._model, self._start, self._started = model, start, False

    def _attach(self) -> Iterator[RemovableHandle]:
        for module in self._model.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module is not self._start:
                yield module.register_forward_pre_hook(self._ran)
        yield self._start.register_forward_pre_hook(self._starts)

    def _starts(self, module: nn.Module, inputs: Any) -> None:
        self._started = True

    def _ran(self, module: nn.Module, inputs: Any) -> None:
        if self._started and all(module is not norm for norm in self.norms):
            self.norms.append(module)
