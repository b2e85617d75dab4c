"""The demonstration: train a small network on real digits, attack it, and rank its neurons by sensitivity."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attacks import FGSM, PGD
from .audit import AuditReport, ReportError, audit
from .audit.storage import write_whole
from .audit.tables import accuracies, layer_table, neuron_table, report_notes
from .capture import evaluation_mode
from .data import Split, digits
from .explorer import explore
from .models import DigitsCNN
from .support.names import REPORT
from .support.random_state import random_state

if TYPE_CHECKING:
    from rich.console import Console

PAGE = "explorer.html"
FILES = (REPORT, "neurons.csv", "sensitivity.png", "model.safetensors", PAGE)
_LAYERS = ("convolutions", "norms", "activations", "linear")


def train_digits(
    split: Split, epochs: int, seed: int, on_epoch: Callable[[int, float], None] | None = None
) -> DigitsCNN:
    """A :class:`DigitsCNN` trained by Adam with a one-cycle schedule, batches of 64; global random states untouched.

    ``on_epoch(epoch, mean_loss)`` is called after each epoch, counted from 1.
    """
    with random_state(seed):
        model = DigitsCNN()
        count = len(split.train_labels)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        steps = max(1, epochs * -(-count // 64))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=5e-3, total_steps=steps)
        for epoch in range(1, epochs + 1):
            total = 0.0
            for batch in torch.randperm(count).split(64):
                loss = nn.functional.cross_entropy(model(split.train_images[batch]), split.train_labels[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.item() * len(batch)
            if on_epoch is not None:
                on_epoch(epoch, total / count)
    return model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of ``images`` ``[N, ...]`` that ``model`` gives their labels ``[N]``, in evaluation mode."""
    with evaluation_mode(model), torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())


def run_demo(
    out: str | Path = "demo-output",
    seed: int = 0,
    epochs: int = 6,
    eps: float = 0.15,
    steps: int = 10,
    top: int = 15,
    console: Console | None = None,
) -> AuditReport:
    """Train, attack with PGD, audit, print, and write five files into the folder ``out``.

    They are ``audit.safetensors``, ``neurons.csv``, ``sensitivity.png``, the weights ``model.safetensors``, and the
    page ``explorer.html``, which is left out, with a note, where bokeh is missing. Returns the report.
    Raises ``ModuleNotFoundError`` if scikit-learn is missing, ``ReportError`` if a file cannot be written.
    """
    from safetensors.torch import save

    if console is None:
        from rich.console import Console

        console = Console()
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"cannot write to the folder {folder}: {error.strerror or error}") from error
    split = digits(seed)
    counts = f"{len(split.train_labels):,} to train, {len(split.test_labels):,} to test"
    console.print(f"data     {split.description}: {counts}", highlight=False)
    begin = time.perf_counter()
    with console.status("training") as status:
        model = train_digits(split, epochs, seed, lambda epoch, loss: status.update(f"epoch {epoch}: loss {loss:.4f}"))
    taken = time.perf_counter() - begin
    clean = accuracy(model, split.test_images, split.test_labels)
    console.print(
        f"trained  DigitsCNN, {epochs} epochs in {taken:.1f} s: {clean:.1%} of the test images right", highlight=False
    )

    def pgd(model: nn.Module, eps: float) -> PGD:
        return PGD(model, eps=eps, alpha=eps / max(1, steps) * 2.5, steps=steps, seed=seed)

    attack = pgd(model, eps)
    begin = time.perf_counter()
    with console.status("attack and audit"):
        report = audit(
            model,
            (split.test_images, split.test_labels),
            attack,
            _LAYERS,
            progress=False,
            seed=seed,
            data_description=split.description,
        )
    taken = time.perf_counter() - begin
    for line in (
        f"attack   {attack}",
        f"audit    {report.neurons:,} neurons in {len(report.layers)} layers, {report.samples:,} pairs; with the "
        f"attack {taken:.1f} s",
        f"accuracy {accuracies(report)}\n",
    ):
        console.print(line, highlight=False, markup=False)
    report.save(folder / REPORT)
    report.to_csv(folder / "neurons.csv")
    report.plot(folder / "sensitivity.png")
    write_whole(folder / "model.safetensors", save(model.state_dict()))
    notes = list(report_notes(report))
    try:
        explorer = explore(
            model,
            (split.test_images, split.test_labels),
            {f"PGD, {steps} steps": pgd, "FGSM": FGSM},
            eps=(eps / 3, 2 * eps / 3, eps),
            progress=False,
            seed=seed,
            data_description=split.description,
            attack_description=f"PGD, {steps} steps of 2.5 eps / {steps} from a random start; FGSM",
        )
        size = explorer.save(folder / PAGE)
        notes.append(f"{PAGE} ({size / 1e6:.1f} MB) shows the neurons of {explorer.explorations[0].layer} in a browser")
    except ModuleNotFoundError as error:
        (folder / PAGE).unlink(missing_ok=True)  # of another model
        notes.append(f"{PAGE} is not written: {error}")
    console.print(layer_table(report))
    console.print()
    if top:
        console.print(neuron_table(report, top))
        console.print()
    for note in notes:
        console.print(f"note     {note}", highlight=False, markup=False)
    console.print(
        f"written to {folder}: {', '.join(file for file in FILES if (folder / file).exists())}",
        highlight=False,
        markup=False,
    )
    return report
