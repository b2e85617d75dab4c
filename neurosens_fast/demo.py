"""The demonstration: train a small network on real digits, attack it, and rank its neurons by sensitivity."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attacks import PGD
from .audit import AuditReport, ReportError, audit
from .audit.isolation import random_state
from .capture import evaluation_mode
from .data import Split, digits
from .models import DigitsCNN

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


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
    """Train, attack with PGD, audit, print, and write ``audit.safetensors``, ``neurons.csv`` and ``sensitivity.png``.

    Returns the report. Raises ``ModuleNotFoundError`` if scikit-learn is missing, ``ReportError`` if a
    file cannot be written.
    """
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
    attack = PGD(model, eps=eps, alpha=eps / max(1, steps) * 2.5, steps=steps, seed=seed)
    begin = time.perf_counter()
    with console.status("attack and audit"):
        report = audit(
            model, (split.test_images, split.test_labels), attack, seed=seed, data_description=split.description
        )
    taken = time.perf_counter() - begin
    for line in (
        f"attack   {attack}",
        f"audit    {report.neurons:,} neurons in {len(report.layers)} layers, {report.samples:,} pairs; with the "
        f"attack {taken:.1f} s",
        f"accuracy {report.clean_accuracy:.1%} clean, {report.adversarial_accuracy:.1%} adversarial\n",
    ):
        console.print(line, highlight=False, markup=False)
    console.print(layer_table(report))
    console.print(neuron_table(report, top))
    report.save(folder / "audit.safetensors")
    report.to_csv(folder / "neurons.csv")
    report.plot(folder / "sensitivity.png")
    console.print(
        f"written to {folder}: audit.safetensors, neurons.csv, sensitivity.png", highlight=False, markup=False
    )
    return report


def _table(title: str, layers: list[str], numbers: tuple[str, ...]) -> Table:
    """An empty table that fits 80 columns: first the layer, longer names folded, then numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold", min_width=min(14, max(map(len, layers), default=0)))
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def layer_table(report: AuditReport) -> Table:
    """The per-layer summary of a report as a rich table, with a bar for the layer's mean sensitivity."""
    from rich.text import Text

    numbers = ("type", "neurons", "dead", "mean", "largest", "of neuron")
    table = _table("Sensitivity of each layer, in the order of execution", list(report.layers), numbers)
    table.columns[1].justify = "left"
    table.add_column("", no_wrap=True)
    rows = report.summary()
    highest = max((row.score for row in rows if math.isfinite(row.score)), default=0.0)
    for row in rows:
        bar = "█" * round(12 * row.score / highest) if highest and math.isfinite(row.score) else ""
        dead = str(len(row.dead)) if row.dead else "-"
        most = "-" if row.most_sensitive is None else str(row.most_sensitive)
        values = (f"{row.score:.4f}", f"{row.maximum:.4f}", most)
        table.add_row(Text(row.layer), row.module_type, str(row.neurons), dead, *values, Text(bar, style="blue"))
    broken = [f"{layer} {', '.join(map(str, neurons[:8]))}" for layer, neurons in report.nonfinite().items()]
    if broken:
        table.caption = Text(f"non-finite neurons: {'; '.join(broken[:4])}", style="red")
    return table


def neuron_table(report: AuditReport, k: int, by: str = "sensitivity") -> Table:
    """The ``k`` neurons with the largest metric ``by`` as a rich table, with their rank inside the layer."""
    from rich.text import Text

    shown = ("relative_l1", "mean_activation_benign", "mean_activation_adversarial")
    columns = {name: report.metric(name) for name in shown}
    neurons = report.top(k, by=by)
    inside: dict[tuple[str, int], int] = {}
    for layer in {neuron.layer for neuron in neurons}:
        inside.update({(layer, place.neuron): place.rank for place in report.top(1.0, by=by, layer=layer)})
    numbers = ("neuron", "rank", "in its layer", by.replace("_", " "), "relative", "benign", "adversarial")
    title = f"The {len(neurons)} neurons with the largest {by.replace('_', ' ')}"
    table = _table(title, [neuron.layer for neuron in neurons], numbers)
    for row in neurons:
        place = f"{inside[row.layer, row.neuron]} of {len(columns[shown[0]][row.layer])}"
        extra = [f"{float(columns[name][row.layer][row.neuron]):.3f}" for name in shown]
        table.add_row(Text(row.layer), str(row.neuron), str(row.rank), place, f"{row.value:.4f}", *extra)
    table.caption = Text("relative: change divided by size; benign, adversarial: mean activation", style="dim")
    return table
