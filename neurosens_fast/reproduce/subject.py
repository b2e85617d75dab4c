"""The data of a reproduction, and its trained models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.attacks import APGD, FGSM, MIFGSM, PGD, Attack
from neurosens_fast.models import load_model
from neurosens_fast.support.random_state import drawn
from neurosens_fast.training import fit, held_out
from neurosens_fast.training.loader import tensors_of

from .plan import SELECTION_SEED, Plan
from .store import Store

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Data:
    """Images ``[N, C, H, W]`` in [0, 1] and labels ``[N]``: three parts that share no sample."""

    train: Pair
    val: Pair
    test: Pair
    description: str


def read_data(plan: Plan, download: bool, device: torch.device) -> Data:
    """The parts: of the training split ``val_share`` is held out; the test split is for the report alone."""
    from neurosens_fast.data import load_data

    sources = [load_data(plan.data, train=train, download=download) for train in (True, False)]
    whole, test = (
        _tensors(source.dataset, count, device, plan.data)
        for source, count in zip(sources, (plan.samples, plan.test_samples), strict=True)
    )
    train, val = held_out(*whole, share=plan.val_share, seed=0)
    counts = f"{len(train[0]):,} to train, {len(val[0]):,} to validate, {len(test[0]):,} to test"
    return Data(train, val, test, f"{sources[0].description.partition(',')[0]}: {counts}")


def _tensors(dataset: Any, count: int | None, device: torch.device, name: str) -> Pair:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(f"{name} must be a data set of samples of one size, since all of it is kept in memory")
    tensors = tensors_of(dataset)
    order = drawn(len(dataset if tensors is None else tensors[0]), count, 0)
    if tensors is not None:
        images, labels = (tensor[order] for tensor in tensors)
    else:
        samples = [dataset[index] for index in order.tolist()]
        images = torch.stack([image for image, _ in samples])
        labels = torch.tensor([int(label) for _, label in samples])
    return images.to(device), labels.to(device)


class Models:
    """Trained models by method and seed, trained when they are first asked for."""

    def __init__(self, plan: Plan, data: Data, store: Store, device: torch.device) -> None:
        self.plan, self.data, self.store, self.device = plan, data, store, device

    def chosen(self, method: str) -> dict[str, Any]:
        """The settings of ``method`` with the best validation accuracy under PGD, and what each reached."""
        choices = self.plan.choices(method)
        if len(choices) == 1:
            return {"settings": choices[0], "tried": []}
        tried = [
            {**choice, "accuracy": self._trained(method, SELECTION_SEED, choice, f"selection-{method}-{number}")}
            for number, choice in enumerate(choices)
        ]
        best = max(range(len(tried)), key=lambda number: tried[number]["accuracy"])
        return {"settings": choices[best], "tried": tried}

    def model(self, method: str, seed: int) -> nn.Module:
        """The model of one method and seed, in evaluation mode."""
        name = f"{method}-seed{seed}"
        self._trained(method, seed, self.chosen(method)["settings"], name)
        weights = self.store.folder / "models" / name / "best.safetensors"
        return load_model(self.plan.model, weights=weights, seed=seed).to(self.device)

    def facts(self, method: str, seed: int) -> dict[str, Any]:
        """Epochs, gradient evaluations and seconds of a training."""
        facts: dict[str, Any] = self.store.once(f"training-{method}-seed{seed}", dict)
        return facts

    def _trained(self, method: str, seed: int, settings: dict[str, Any], name: str) -> float:
        """Train where that was not done yet; the best validation accuracy under PGD."""
        plan = self.plan

        def train() -> dict[str, Any]:
            folder = self.store.folder / "models" / name
            result = fit(
                load_model(plan.model, seed=seed).to(self.device),
                self.data.train,
                self.data.val,
                method,
                plan.epochs_of(method),
                out=folder,
                resume=(folder / "checkpoint.safetensors").exists(),
                progress=False,
                eps=plan.eps,
                steps=plan.steps,
                batch_size=plan.batch_size,
                optimizer=plan.optimizer,
                lr=plan.lr,
                collapse="ignore",
                val_every=max(1, plan.epochs_of(method) // 12),
                seed=seed,
                **settings,
            )
            best = result.epoch(result.best_epoch)
            return {
                "accuracy": best.adversarial_accuracy,
                "clean": best.clean_accuracy,
                "epochs": len(result.history),
                "best_epoch": best.epoch,
                "gradient_evaluations": result.history[-1].gradient_evaluations,
                "seconds": sum(row.seconds for row in result.history),
            }

        return float(self.store.once(f"training-{name}", train)["accuracy"])


def attack_named(name: str, model: nn.Module, eps: float) -> Attack:
    """The attacks of the report, at ``eps``."""
    if name == "fgsm":
        return FGSM(model, eps)
    if name == "mifgsm":
        return MIFGSM(model, eps, 2.5 * eps / 10, 10)
    if name == "pgd-20":
        return PGD(model, eps, 2.5 * eps / 20, 20, seed=0)
    return APGD(model, eps, steps=50, loss=name.removeprefix("apgd-"), seed=0)
