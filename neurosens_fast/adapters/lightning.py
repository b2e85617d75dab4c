"""Neuron sensitivity during a Lightning training."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.audit.batches import Batch, Data, batches
from neurosens_fast.audit.descriptions import describe_data
from neurosens_fast.audit.setting import AttackCallable, check_count
from neurosens_fast.capture import Layers, Taps, batch_length, mapped
from neurosens_fast.support.packages import import_package

from .names import metric_names

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    _lightning = import_package("lightning.pytorch", "neurosens_fast.adapters.lightning needs")
    Callback, LightningModule = _lightning.Callback, _lightning.LightningModule


class SensitivityCallback(Callback):
    """Attacks some validation batches at the end of a validation epoch and logs how sensitive each layer was.

    Logs ``METRIC/LAYER``, ``sensitivity/model.relu1`` say: the mean over the layer's neurons of ``metric``, a name of
    ``statistics.METRICS`` or several. ``report`` is the whole :class:`~neurosens_fast.audit.AuditReport` of the last
    time, with every neuron and the accuracies.

    ``attack`` is any callable ``(x, y) -> x_adv``, such as ``PGD(module)``; the module's ``forward`` must give logits.
    ``layers`` and ``channel_dims`` are those of :func:`~neurosens_fast.audit.audit`. At most ``max_samples`` samples
    are used in each process, the first of the first validation loader, whose batches must be ``(x, y)``; or those of
    ``data``, which is given to the module as it is, at the end of the training epoch where nothing is validated. Totals
    of several processes are added.

    Runs in epochs whose number (from 1) ``every_n_epochs`` divides and in ``trainer.validate``, not in the sanity
    check; under the trainer's precision, and with gradients for the attack although Lightning validates without. The
    module and the random states are afterwards as they were, so that training goes on as without the callback.

    Raises ``ValueError`` or ``TypeError`` with the mend: for wrong arguments at once, for unknown layers, a module
    without ``forward`` and a lack of data before the first epoch, for batches without labels when one comes.
    """

    def __init__(
        self,
        attack: AttackCallable,
        layers: Layers = "activations",
        *,
        metric: str | Sequence[str] = "sensitivity",
        every_n_epochs: int = 1,
        max_samples: int = 256,
        data: Data | None = None,
        channel_dims: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        if not callable(attack):
            raise TypeError(f"attack must be a callable (x, y) -> x_adv, got {type(attack).__name__}")
        check_count("every_n_epochs", every_n_epochs)
        check_count("max_samples", max_samples)
        self.attack, self.layers, self.channel_dims = attack, layers, channel_dims
        self.metrics = metric_names(metric)
        self.every_n_epochs, self.max_samples = every_n_epochs, max_samples
        self.data, self.seed = data, seed
        self.report: AuditReport | None = None
        self._kept: list[Batch] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells what would fail at the end of the first epoch."""
        if type(pl_module).forward is LightningModule.forward:
            raise TypeError(f"{type(pl_module).__name__} has no forward; define forward(x) that returns logits")
        if self.data is None and not trainer.enable_validation:
            raise ValueError("this training validates nothing, so there are no batches to attack; give data=")
        Taps(pl_module, self.layers, self.channel_dims)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audits the module on its own data where no validation will."""
        if not trainer.enable_validation:
            self._audit(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets batches of an epoch that was interrupted."""
        self._kept.clear()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keeps a copy of the batch, before the validation step, while samples are wanted."""
        if not self._due(trainer) or self.data is not None or dataloader_idx:
            return
        if sum(len(labels) for _, labels in self._kept) >= self.max_samples:
            return
        try:
            inputs, labels = next(batches([batch], 1))
            batch_length(inputs)
        except TypeError as error:
            raise TypeError(f"the validation batches cannot be attacked ({error}); give other data=") from error
        with torch.inference_mode(False):  # a tensor of the inference mode could have no gradient later
            self._kept.append((mapped(inputs, Tensor.clone), labels.clone()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audits the module and logs."""
        self._audit(trainer, pl_module)

    def _audit(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._due(trainer):
            return
        report, error = None, None
        try:
            report = self._own_report(trainer, pl_module)
        except Exception as caught:  # the other processes wait for this one
            error = caught
        self._kept.clear()
        self.report = _of_all_processes(report, error)
        for metric in self.metrics:
            means = {f"{metric}/{layer}": float(values.mean()) for layer, values in self.report.metric(metric).items()}
            pl_module.log_dict(means, sync_dist=True)  # equal in all processes; without it Lightning warns

    def _own_report(self, trainer: Trainer, pl_module: LightningModule) -> AuditReport | None:
        """The report of this process; None where no validation batch came here."""
        precision = trainer.precision_plugin
        own = self.data is not None
        if not own and not self._kept:
            return None
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            precision.forward_context(),
            torch.compiler.set_stance("force_eager"),  # compiled code calls no hooks that came later
        ):
            return audit(
                pl_module,
                map(precision.convert_input, batches(self.data, 128)) if own else self._kept,
                self.attack,
                self.layers,
                channel_dims=self.channel_dims,
                max_samples=self.max_samples,
                progress=False,
                seed=self.seed,
                data_description=describe_data(self.data) if own else "validation batches",
            )

    def _due(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking:
            return False
        return trainer.state.fn != "fit" or (trainer.current_epoch + 1) % self.every_n_epochs == 0


def _of_all_processes(report: AuditReport | None, error: Exception | None) -> AuditReport:
    """The merged reports of all processes, the same in each; an error of one of them ends all."""
    outcomes: list[Any] = [report if error is None else f"{type(error).__name__}: {error}"]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        own = outcomes[0]
        outcomes = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(outcomes, own)
    if error is not None:
        raise error
    for process, outcome in enumerate(outcomes):
        if isinstance(outcome, str):
            raise RuntimeError(f"the audit failed in process {process}: {outcome}")
    reports = [outcome for outcome in outcomes if outcome is not None]
    if not reports:
        raise ValueError("no validation batch came to any process; give the callback data=")
    return functools.reduce(AuditReport.merge, reports)
