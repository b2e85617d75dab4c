"""Train a network with the SNS term in Lightning, and watch how sensitive its layers are after each epoch.

    python examples/sns_lightning.py

Needs Lightning: ``pip install neurosens-fast[adapters]``. A few seconds on two cores.
"""

from __future__ import annotations

import argparse

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from neurosens_fast.adapters.lightning import SensitivityCallback
from neurosens_fast.attacks import PGD
from neurosens_fast.data import digits
from neurosens_fast.models import DigitsCNN
from neurosens_fast.nn import SNSLoss


class StableDigits(lightning.LightningModule):
    """A network whose sensitive neurons are held stable while it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.model = DigitsCNN()
        self.sns = SNSLoss(self.model, k=0.1)
        self.attack = PGD(self.model, eps=0.15, alpha=0.075, steps=3)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, 10]``."""
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Cross-entropy of the benign images plus the SNS term."""
        images, labels = batch
        attacked = self.attack(images, labels)
        with self.sns.pairs():
            logits = self.model(torch.cat([images, attacked]))
        return nn.functional.cross_entropy(logits[: len(images)], labels) + 0.5 * self.sns.loss()

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """Logs the accuracy on benign images."""
        images, labels = batch
        self.log("accuracy", (self(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class PrintMetrics(lightning.Callback):
    """Prints everything that was logged, as a line per epoch."""

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See the class."""
        metrics = "  ".join(f"{name} {float(value):.3f}" for name, value in sorted(trainer.callback_metrics.items()))
        print(f"epoch {trainer.current_epoch + 1}: {metrics}")


def main() -> None:
    """Train, and print the accuracy under attack at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    split = digits()
    train = DataLoader(TensorDataset(split.train_images, split.train_labels), 64, shuffle=True)
    test = DataLoader(TensorDataset(split.test_images, split.test_labels), 64)

    lightning.seed_everything(0)
    module = StableDigits()
    sensitivity = SensitivityCallback(PGD(module, eps=0.15, alpha=0.02, steps=20))
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        callbacks=[sensitivity, PrintMetrics()],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, train, test)
    assert sensitivity.report is not None
    print(f"of {sensitivity.report.samples} attacked images {sensitivity.report.adversarial_accuracy:.1%} right")


if __name__ == "__main__":
    main()
