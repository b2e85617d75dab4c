"""Train a small network on digits without and with the SNS term, and attack both.

    python examples/sns_pytorch.py

The term pulls the adversarial activations of the most sensitive neurons to the benign ones. It takes the three
lines marked below; the rest is an ordinary training loop with an attack in it. A few seconds on two cores.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from neurosens_fast.attacks import PGD
from neurosens_fast.data import Split, digits
from neurosens_fast.demo import accuracy
from neurosens_fast.models import DigitsCNN
from neurosens_fast.nn import SNSLoss


def train(split: Split, weight: float, epochs: int) -> DigitsCNN:
    """A network trained with the cross-entropy of benign images plus ``weight`` times the SNS term."""
    torch.manual_seed(0)
    model = DigitsCNN()
    attack = PGD(model, eps=0.15, alpha=0.075, steps=3)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    sns = SNSLoss(model, k=0.1)  # 1: the 10 % most sensitive neurons of each activation layer
    for _ in range(epochs):
        for batch in torch.randperm(len(split.train_labels)).split(64):
            images, labels = split.train_images[batch], split.train_labels[batch]
            attacked = attack(images, labels)
            with sns.pairs():  # 2: benign and adversarial images go through the model together
                logits = model(torch.cat([images, attacked]))
            loss = nn.functional.cross_entropy(logits[: len(images)], labels)
            loss = loss + weight * sns.loss()  # 3
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def main() -> None:
    """Train twice and print the accuracies on the test images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    split = digits()
    for title, weight in (("without the SNS term", 0.0), ("with the SNS term", 0.5)):
        model = train(split, weight, options.epochs)
        attacked = PGD(model, eps=0.15, alpha=0.02, steps=20, seed=0)(split.test_images, split.test_labels)
        clean, adversarial = (accuracy(model, images, split.test_labels) for images in (split.test_images, attacked))
        print(f"{title:20}  clean {clean:.1%}  adversarial {adversarial:.1%}")


if __name__ == "__main__":
    main()
