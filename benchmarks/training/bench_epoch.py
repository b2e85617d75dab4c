"""An epoch of SNS training, PGD-10 in its loop, against the same algorithm in plain PyTorch.

The plain epoch keeps activations by hooks and attacks through the model as it is, in evaluation mode; it runs in
contiguous and in channels_last memory, with bfloat16 under autocast as ours, and then in float32 too. Ours is a step
of ``fit``: statistics in one read, the attack on a folded copy, channels_last. "No term" is the same step of this
package without the SNS term. Batches are few, and on a CPU small, since time goes with their number; there is no
validation. Before, both sides learn from one batch with the same adversarial images: the loss and the change of every
weight must be equal.

``bench_fit`` is a whole call of ``fit`` on the digits with validation, and the losses of both by epoch.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.benchmarking.contest import Contest, Side, agreement
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.data import digits
from neurosens_fast.models import load_model
from neurosens_fast.training import METHODS, DeviceLoader, Epoch, Settings, fit
from neurosens_fast.training.step import Step

from ..attacks.plain import plain_pgd
from ..networks import has_bfloat16, in_channels_last
from .plain import Batch, in_bfloat16, operations, plain_epoch, plain_optimizer

EPS, STEPS = 8 / 255, 10
PRECISIONS = ("float32", "bfloat16")
DIGITS = Settings(eps=0.1, steps=5, batch_size=64, lr=0.02, schedule="constant", collapse="ignore", keep="last")
EPOCHS = 4


class Case(NamedTuple):
    """The shape of an image, and how many images and batches an epoch has."""

    shape: tuple[int, ...]
    images: dict[str, int]
    batches: dict[str, int]


CASES = {
    "mnist-cnn": Case((1, 28, 28), {"cpu": 128, "cuda": 128}, {"cpu": 1, "cuda": 8}),
    "cifar-resnet18": Case((3, 32, 32), {"cpu": 16, "cuda": 128}, {"cpu": 1, "cuda": 4}),
}


def settings_of(precision: str, weight: float | None = None) -> Settings:
    """Those of the epoch."""
    amp = None if precision == "float32" else "bf16"
    return Settings(eps=EPS, steps=STEPS, channels_last=True, schedule="constant", lr=0.01, amp=amp, weight=weight)


def our_epoch(model: nn.Module, settings: Settings, batches: list[Batch], device: str, method: str = "sns") -> Side:
    """One epoch of ``fit``'s steps on a copy of the model; returns the mean loss."""
    step = Step(in_channels_last(model), METHODS[method], settings, torch.device(device))

    def epoch() -> float:
        step.reset(seed=0)
        for number, (images, labels) in enumerate(batches):
            step(images, labels, torch.arange(len(images)), 0.5, f"batch {number}")
        return step.means(step.totals)[0]

    return epoch


def plain_side(model: nn.Module, settings: Settings, batches: list[Batch]) -> Side:
    """The same in plain PyTorch, on the model itself."""
    attack = plain_pgd(model, EPS, 2.5 * EPS / STEPS, STEPS)
    return partial(plain_epoch, model, plain_optimizer(model, settings), batches, attack)


def changes(model: nn.Module, before: nn.Module) -> list[Tensor]:
    """How all weights and statistics have changed."""
    old = before.state_dict()
    return [value.double() - old[name].double() for name, value in model.state_dict().items()]


def same_step(model: nn.Module, settings: Settings, batch: Batch, device: str) -> str:
    """Both sides learn from one batch with the same adversarial images, in the same memory format.

    Where that, or the algorithm of a convolution, is another, rounding decides otherwise about ReLUs that are almost
    zero, and weights by single percents.
    """
    images = batch[0].contiguous(memory_format=torch.channels_last)
    adversarial = plain_pgd(copy.deepcopy(model), EPS, 2.5 * EPS / STEPS, 2)(*batch).to(images)

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        return adversarial

    ours, plain = in_channels_last(model), in_channels_last(model)
    step = Step(ours, METHODS["sns"], settings, torch.device(device), attack)
    step(images, batch[1], torch.arange(len(images)), 0.5, "the check")
    optimizer = plain_optimizer(plain, settings)
    loss = plain_epoch(in_bfloat16(plain, device) if settings.amp else plain, optimizer, [(images, batch[1])], attack)
    allowed = 0.5 if settings.amp else 0.1 if device == "cuda" else 1e-3  # without the term they are all of it apart
    agreement([step.totals[0] / step.totals[3]], [step.totals.new_tensor(loss)], rtol=allowed / 100)
    return agreement(changes(ours, model), changes(plain, model), rtol=allowed, atol=1e-7)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [pytest.param("cifar-resnet18", marks=pytest.mark.full), "mnist-cnn"])
def bench_epoch(name: str, precision: str, device: str, contest: Contest) -> None:
    if precision == "bfloat16" and not has_bfloat16(device):
        pytest.skip("this processor has no instructions for bfloat16")
    shape, images, count = CASES[name]
    size, number = (8, 1) if contest.quick else (images[device], count[device])
    batches = [
        (torch.rand(size, *shape, device=device), torch.randint(10, (size,), device=device)) for _ in range(number)
    ]
    settings = settings_of(precision)
    model = load_model(name).to(device).train()
    agreed = same_step(model, settings, batches[0], device)
    plain, last = copy.deepcopy(model), in_channels_last(model)
    wider = {}
    if precision == "bfloat16":
        wider["plain PyTorch, float32"] = plain_side(copy.deepcopy(model), settings_of("float32"), batches)
        in_bfloat16(plain, device), in_bfloat16(last, device)
    last_batches = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches]
    contest(
        f"An epoch of SNS training, PGD-{STEPS}, without validation",
        {"model": name, "batches": f"{number} of {size}", "precision": precision},
        our_epoch(model, settings, batches, device),
        rivals={
            "plain PyTorch": plain_side(plain, settings, batches),
            "plain PyTorch, channels_last": plain_side(last, settings, last_batches),
            **wider,
        },
        floors={"no term": our_epoch(model, settings_of(precision, 0.0), batches, device, "alp")},
        agreed=agreed,
        work=Work(flops=number * operations(model, batches[0][0], STEPS)),
        seconds=30.0,
    )


def plain_fit(model: nn.Module, train: Batch, val: Batch, epochs: int) -> list[tuple[float, float, float]]:
    """What ``fit`` does by :data:`DIGITS`: the loss of every epoch, clean and adversarial accuracy after it."""
    attack, judge = (
        plain_pgd(model, DIGITS.eps, 2.5 * DIGITS.eps / steps, steps) for steps in (DIGITS.steps, DIGITS.val_steps)
    )
    optimizer, loader = plain_optimizer(model, DIGITS), DeviceLoader(*train, DIGITS.batch_size)
    history = []
    for epoch in range(1, epochs + 1):
        loss = plain_epoch(model, optimizer, (batch[:2] for batch in loader.batches(epoch)), attack)
        model.eval()
        with torch.no_grad():
            right = model(val[0]).argmax(1) == val[1]
        images, labels = val[0][right], val[1][right]
        adversarial = judge(images, labels)
        with torch.no_grad():
            standing = (model(adversarial).argmax(1) == labels).sum()
        history.append((loss, float(right.sum()) / len(right), float(standing) / len(right)))
    return history


def bench_fit(device: str, contest: Contest) -> None:
    split, epochs = digits(), 1 if contest.quick else EPOCHS
    most = 128 if contest.quick else len(split.train_images)
    train = split.train_images[:most].to(device), split.train_labels[:most].to(device)
    val = split.test_images[:50].to(device), split.test_labels[:50].to(device)

    def ours(epochs: int = 1) -> list[Epoch]:
        model = load_model("digits-cnn").to(device)
        return fit(model, train, val, "sns", epochs, progress=False, **asdict(DIGITS)).history

    def plain(epochs: int = 1) -> list[tuple[float, float, float]]:
        return plain_fit(load_model("digits-cnn").to(device), train, val, epochs)

    found, wanted = [row.loss for row in ours(epochs)], [row[0] for row in plain(epochs)]
    contest(
        "A call of fit: SNS training of digits-cnn, PGD-5, one epoch with validation",
        {"images": f"{len(train[0]):,}"},
        ours,
        rivals={"plain PyTorch": plain},
        agreed="losses " + agreement(map(torch.tensor, found), map(torch.tensor, wanted), rtol=0.05),
        facts={
            f"loss by epoch, {side}": " ".join(f"{loss:.3f}" for loss in losses)
            for side, losses in (("ours", found), ("plain PyTorch", wanted))
        },
        seconds=10.0,
    )
