"""What the SNS term costs: a training step with it, the same in plain PyTorch, and steps that do less.

Every step attacks a batch (PGD-3, by this package in all of them), runs the network on benign and adversarial images
together, takes the cross-entropy of the adversarial half plus an SNS loss over all ReLUs, and steps SGD. Ours reads
activations by hooks on the model as it is, or with its ReLUs swapped for ``TappedReLU``; plain PyTorch keeps them by
hooks. "Pair alone" leaves the term out, "adversarial half alone" the benign images too. Both sides first learn from
the same adversarial images: loss and gradients must be equal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.attacks import PGD
from neurosens_fast.benchmarking.contest import Contest, Side, agreement
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.models import load_model
from neurosens_fast.nn import SNSLoss, tap

from .plain import Term, operations, stored_term

CASES = {
    "mnist-cnn": ((1, 28, 28), {"cpu": 128, "cuda": 128}),
    "cifar-resnet18": ((3, 32, 32), {"cpu": 12, "cuda": 128}),
}
"""Model -> shape of an image, images of a step."""
PAIR, HALF = "pair alone", "adversarial half alone"


def sns_term(model: nn.Module) -> Term:
    """The term by this package."""
    sns = SNSLoss(model, layers="activations", k=0.1)

    def term(forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        with sns.pairs():
            logits = forward()
        return logits, sns.loss()

    return term


class Step:
    """One training step of its own copy of a model."""

    def __init__(self, model: nn.Module, term: Callable[[nn.Module], Term] | None, pair: bool = True) -> None:
        self.model = copy.deepcopy(model)
        self.term = term(self.model) if term else None
        self.pair = pair
        self.attack = PGD(self.model, eps=8 / 255, alpha=2 / 255, steps=3, seed=0)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)

    def learn(self, images: Tensor, adversarial: Tensor, labels: Tensor) -> Tensor:
        """The step without its attack; returns the loss."""
        extra: Tensor | float = 0.0
        if not self.pair:
            logits = self.model(adversarial)
        elif self.term is None:
            logits = self.model(torch.cat((images, adversarial)))
        else:
            logits, extra = self.term(partial(self.model, torch.cat((images, adversarial))))
        loss = F.cross_entropy(logits[-len(labels) :], labels) + extra
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Attack and learn."""
        return self.learn(images, self.attack(images, labels), labels)

    def learnt(self, images: Tensor, adversarial: Tensor, labels: Tensor) -> list[Tensor]:
        """The loss of one step, and all gradients."""
        loss = self.learn(images, adversarial, labels)
        return [loss, *(parameter.grad for parameter in self.model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("way", ["hooks", "TappedReLU"])
@pytest.mark.parametrize("name", ["mnist-cnn", pytest.param("cifar-resnet18", marks=pytest.mark.full)])
def bench_step(name: str, way: str, device: str, contest: Contest) -> None:
    shape, sizes = CASES[name]
    count = 8 if contest.quick else sizes[device]
    model = load_model(name).to(device).train()
    images, labels = torch.rand(count, *shape, device=device), torch.randint(10, (count,), device=device)
    ours = Step(model if way == "hooks" else tap(copy.deepcopy(model)), sns_term)
    plain = Step(model, stored_term)
    adversarial = plain.attack(images, labels)
    found, wanted = (step.learnt(images, adversarial, labels) for step in (ours, plain))
    agreed = agreement(found, wanted, rtol=1e-3 if device == "cpu" else 0.1, atol=1e-6)

    def side(step: Step) -> Side:
        return partial(step, images, labels)

    less = {PAIR: side(Step(model, None))}
    if way == "hooks":
        less[HALF] = side(Step(model, None, pair=False))
    contest(
        "A training step with the SNS term: PGD-3, all ReLUs, k = 10 %",
        {"model": name, "images": count, "activations read by": way},
        side(ours),
        rivals={"plain PyTorch": side(plain)},
        floors=less,
        agreed=agreed,
        work=Work(flops=operations(model, images, steps=3)),
        memory=("ours", "plain PyTorch", PAIR),
        seconds=15.0,
    )
