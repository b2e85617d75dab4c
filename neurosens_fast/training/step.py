"""One step of training: attack, forward, loss, update."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from neurosens_fast.attacks import run_attack
from neurosens_fast.capture import evaluation_mode, logits_of
from neurosens_fast.nn import SNSLoss
from neurosens_fast.support.processes import raise_together, rank_and_world

from .methods import Method, Outputs
from .settings import Settings, schedule_factor
from .watch import DivergedError, place_of_failure

AttackCallable = Callable[..., Any]
_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
MEND = "lower the learning rate, or bound gradients with clip_norm"
_TOTALS = ("loss", "term", "right", "samples")


class Step:
    """Updates ``model`` in place; everything that a method keeps between batches.

    ``attack`` overrides that of the method. ``totals`` ``[4]`` float64 adds up loss, term, right predictions and
    samples since :meth:`reset`.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        settings: Settings,
        device: torch.device,
        attack: AttackCallable | None = None,
    ) -> None:
        self.model, self.method, self.settings, self.device = model, method, settings, device
        own = method.inner_attack(model, settings) if attack is None else None
        self.own_attack = own
        self.attack = own if attack is None else attack
        self.ema = _average(model, settings.ema)
        self.optimizer = _optimizer(settings, model.parameters())
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
        self.network: nn.Module = model
        if rank_and_world()[1] > 1:
            places = [device] if device.type == "cuda" else None
            self.network = DistributedDataParallel(model, device_ids=places, broadcast_buffers=False)
        self.sns = _sns(model, method, settings)
        self.lr_factor = 1.0
        self.totals = torch.zeros(len(_TOTALS), dtype=torch.float64, device=device)

    @property
    def evaluated(self) -> nn.Module:
        """The model whose weights count: the average, where there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def evaluations(self) -> int:
        """Gradient evaluations per sample and step."""
        return self.method.gradient_evaluations(self.attack)

    def reset(self, seed: int) -> None:
        """Begin an epoch."""
        self.totals.zero_()
        if self.own_attack is not None:
            self.own_attack.seed = seed
        if self.sns is not None and self.settings.refresh == "epoch":
            self.sns.refresh()

    def __call__(self, images: Tensor, labels: Tensor, index: Tensor, done: float, where: str) -> None:
        """Update the model by one batch; ``done`` is the share of all steps behind, ``where`` names the batch.

        Raises :class:`DivergedError` before the update where the loss is not finite, in every process at once.
        """
        if self.settings.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        if self.sns is not None and not self.sns.sensitivity:
            self.sns.prepare(images[:8])
        adversarial = self._attacked(images, labels, index, where)
        with self._autocast():
            outputs = self._outputs(images, adversarial, labels)
            loss = self.method.loss(outputs, self.settings)
        problem = None
        if not bool(loss.isfinite()):
            seen = images if adversarial is None else torch.cat([images, adversarial])
            problem = self._failure(seen, where) or DivergedError(
                f"the loss is not finite in {where}, though every layer's output is: it overflows; {MEND}"
            )
        raise_together(problem, where, self.device)
        self._note(loss, outputs)
        self._update(loss, done)

    def learning_rate(self, done: float) -> float:
        """That of the first group of parameters when the share ``done`` of all steps is behind."""
        return float(self.optimizer.param_groups[0]["initial_lr"]) * self._factor(done)

    def means(self, totals: Tensor) -> tuple[float, float, float]:
        """Mean loss, mean term (NaN without one) and accuracy of ``totals``."""
        loss, term, right, samples = totals.tolist()
        return loss / samples, term / samples if self.sns is not None else float("nan"), right / samples

    def forget(self) -> None:
        """Begin with a fresh optimiser: momenta that led astray are of no use."""
        self.optimizer = _optimizer(self.settings, self.model.parameters())

    def close(self) -> None:
        """Take the hooks off the model."""
        if self.sns is not None:
            self.sns.detach()

    def _attacked(self, images: Tensor, labels: Tensor, index: Tensor, where: str) -> Tensor | None:
        """What the attack makes of the images, with the model in evaluation mode whoever wrote the attack."""
        adversarial, problem = None, None
        try:
            if self.attack is not None:
                with evaluation_mode(self.model):
                    adversarial = run_attack(self.attack, images, labels, index)
        except ValueError as error:  # among others what attacks say of gradients that are not finite
            problem = self._failure(images, where) or type(error)(f"{where}: {error}")
            problem.__cause__ = error
        raise_together(problem, where, self.device)
        return adversarial

    def _failure(self, inputs: Tensor, where: str) -> Exception | None:
        """The error that says where values stop being finite; None where all are."""
        if not bool(inputs.isfinite().all()):
            return ValueError(f"the inputs of {where} are not finite; mend the training data")
        with self._autocast():
            place = place_of_failure(self.model, inputs)
        return None if place is None else DivergedError(f"the loss is not finite in {where}: {place}; {MEND}")

    def _outputs(self, images: Tensor, adversarial: Tensor | None, labels: Tensor) -> Outputs:
        if adversarial is None:
            return Outputs(self._logits(images, labels), None, labels)
        if not self.method.pairs:
            return Outputs(None, self._logits(adversarial, labels), labels)
        sns = self.sns
        if self.settings.joint:
            with nullcontext() if sns is None else sns.pairs():
                logits = self._logits(torch.cat([images, adversarial]), labels)
            benign, attacked = logits[: len(images)], logits[len(images) :]
        else:
            with nullcontext() if sns is None else sns.benign():
                benign = self._logits(images, labels)
            with nullcontext() if sns is None else sns.adversarial():
                attacked = self._logits(adversarial, labels)
        return Outputs(benign, attacked, labels, None if sns is None else sns.loss())

    def _logits(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = logits_of(self.network(images), len(images))
        if logits is None:
            raise ValueError("the model must return logits [N, classes] in training; wrap it in a module that does")
        if self.attack is None:  # attacks look for themselves
            least, most = (int(label) for label in labels.aminmax())
            if least < 0 or most >= logits.shape[1]:
                raise ValueError(f"labels must lie in 0..{logits.shape[1] - 1}, got {least}..{most}")
        return logits

    def _note(self, loss: Tensor, outputs: Outputs) -> None:
        logits = outputs.benign if outputs.adversarial is None else outputs.adversarial
        assert logits is not None
        count = len(outputs.labels)
        with torch.no_grad():
            term = torch.zeros_like(loss) if outputs.term is None else outputs.term
            right = (logits.argmax(1) == outputs.labels).sum()
            parts = [loss.double() * count, term.double() * count, right.double(), right.new_full((), count).double()]
            self.totals += torch.stack(parts)

    def _update(self, loss: Tensor, done: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self._factor(done)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
            for average, buffer in zip(self.ema.module.buffers(), self.model.buffers(), strict=True):
                if not average.is_floating_point():  # counts and indices, which have no mean
                    average.copy_(buffer)

    def _factor(self, done: float) -> float:
        return self.lr_factor * schedule_factor(self.settings.schedule, done)

    def _autocast(self) -> AbstractContextManager[Any]:
        amp = self.settings.amp
        return nullcontext() if amp is None else torch.autocast(self.device.type, dtype=_AMP[amp])


def _optimizer(settings: Settings, parameters: Iterable[Tensor]) -> Optimizer:
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not wanted:
        raise ValueError("the model has no parameter that requires a gradient; there is nothing to train")
    decay, momentum = settings.weight_decay, settings.momentum
    if callable(settings.optimizer):
        built = settings.optimizer(wanted)
    elif settings.optimizer == "sgd":
        built = SGD(wanted, settings.peak_lr, momentum, weight_decay=decay, nesterov=momentum > 0)
    else:
        built = (Adam if settings.optimizer == "adam" else AdamW)(wanted, settings.peak_lr, weight_decay=decay)
    for group in built.param_groups:
        group["initial_lr"] = group["lr"] if settings.lr is None else settings.lr
    return built


def _average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    return average


def _sns(model: nn.Module, method: Method, settings: Settings) -> SNSLoss | None:
    if not method.term:
        return None
    return SNSLoss(
        model,
        settings.layers,
        settings.k if method.share is None else method.share,
        settings.distance,
        settings.scope,
        settings.refresh,
        detach_benign=settings.detach_benign,
    )
