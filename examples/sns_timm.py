"""Hold the sensitive neurons of a timm model stable while it learns, in chosen layers only.

    python examples/sns_timm.py

Needs timm: ``pip install neurosens-fast[adapters]``. The model is created without weights, so nothing is downloaded.
About ten seconds on two cores.
"""

from __future__ import annotations

import argparse

import timm
import torch
from torch import nn

from neurosens_fast.attacks import PGD
from neurosens_fast.audit import audit
from neurosens_fast.data import digits
from neurosens_fast.nn import SNSLoss


def main() -> None:
    """Train with the SNS term, then print the accuracies and the sensitivity of every layer that was tapped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="test_resnet", help="any classifier of timm.list_models()")
    parser.add_argument("--layers", default="layer*.act*", help="names or globs, or a group such as activations")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()

    torch.manual_seed(0)
    split = digits()
    model = timm.create_model(options.model, in_chans=1, num_classes=10)
    attack = PGD(model, eps=0.1, alpha=0.05, steps=3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with SNSLoss(model, layers=options.layers, k=0.1, weight=0.5) as sns:
        for epoch in range(1, options.epochs + 1):
            for batch in torch.randperm(len(split.train_labels)).split(64):
                images, labels = split.train_images[batch], split.train_labels[batch]
                attacked = attack(images, labels)
                with sns.pairs():
                    logits = model(torch.cat([images, attacked]))
                term = sns.loss()
                loss = nn.functional.cross_entropy(logits[: len(images)], labels) + term
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            print(f"epoch {epoch}: loss {loss.item():.3f}, of which the SNS term is {term.item():.3f}")

    attack = PGD(model, eps=0.1, alpha=0.0125, steps=20, seed=0)
    report = audit(model, (split.test_images, split.test_labels), attack, options.layers, progress=False)
    print(f"clean {report.clean_accuracy:.1%}  adversarial {report.adversarial_accuracy:.1%}")
    for layer in report.summary():
        print(f"{layer.layer:20} {layer.neurons:4} neurons, mean sensitivity {layer.score:.4f}")


if __name__ == "__main__":
    main()
