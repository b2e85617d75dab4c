"""The attacks of this package against those of torchattacks, foolbox and AutoAttack, on a trained network.

``python -m benchmarks.attacks.parity DATA WEIGHTS`` (say ``mnist:DIR model.safetensors``) prints a Markdown table of
what both make of the same images, and how long each took, once. ``--only`` runs comparisons whose name contains a word;
``--rows FILE`` keeps their rows, so that a long run can be made in parts. ``make test-peer`` installs the libraries.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.adapters.attacks import from_foolbox, from_torchattacks
from neurosens_fast.attacks import APGD, APGDT, CW, FGSM, PGD, Square, run_attack
from neurosens_fast.audit.batches import batches
from neurosens_fast.data import load_data
from neurosens_fast.demo import accuracy
from neurosens_fast.models import load_model

EPS, ALPHA, STEPS = 0.1, 0.01, 40
EPS_RANDOM, EPS_SQUARE = {"linf": 0.1, "l2": 1.2}, 0.15  # where about half of MNIST's images still stand
BATCH = 250
AttackCallable = Callable[..., Any]
Make = Callable[[nn.Module], AttackCallable]


@dataclass(frozen=True)
class Comparison:
    """Two attacks on the first ``samples`` images, in ``dtype``; ``table`` is where the row stands."""

    name: str
    table: str
    ours: Make
    theirs: Make
    dtype: torch.dtype = torch.float32
    samples: int = 1000


EXACT, RANDOM, SMALLEST = "Without a random start", "With random draws", "Smallest perturbation"
COLUMNS = {
    EXACT: ("off by > 1e-10", "off by > 1e-5", "largest difference", "right, ours", "right, theirs"),
    RANDOM: ("right, ours", "right, theirs"),
    SMALLEST: ("right, ours", "right, theirs", "mean L2, ours", "mean L2, theirs"),
}


def comparisons() -> list[Comparison]:
    """All of them; the libraries are imported when one runs."""
    found = []
    for dtype in (torch.float64, torch.float32):
        for name, ours, torchattacks_name, foolbox_name, options in (
            ("FGSM", lambda model: FGSM(model, EPS, exact=True), "FGSM", "LinfFastGradientAttack", {}),
            ("PGD-40", _pgd, "PGD", "LinfPGD", {"steps": STEPS, "random_start": False}),
        ):
            theirs = _torchattacks(torchattacks_name, {**options, **({"alpha": ALPHA} if options else {})})
            named = f"{name}, eps {EPS}, {str(dtype)[6:]}"
            found.append(Comparison(f"{named}, torchattacks", EXACT, ours, theirs, dtype))
            theirs = _foolbox(foolbox_name, EPS, {**options, **({"abs_stepsize": ALPHA} if options else {})})
            found.append(Comparison(f"{named}, foolbox", EXACT, ours, theirs, dtype))
    for norm, eps in EPS_RANDOM.items():
        for loss in ("ce", "dlr"):
            name = f"APGD-{loss.upper()}, {norm}, eps {eps:g}, 50 steps, pyautoattack"
            found.append(Comparison(name, RANDOM, _apgd(norm, eps, loss), _apgd_of_autoattack(norm, eps, loss)))
        name = f"APGD-T, {norm}, eps {eps:g}, 20 steps, 9 targets, pyautoattack"
        found.append(Comparison(name, RANDOM, _apgdt(norm, eps), _apgdt_of_autoattack(norm, eps)))
    name = f"Square, eps {EPS_SQUARE}, 500 queries, pyautoattack"
    found.append(Comparison(name, RANDOM, _square, _square_of_autoattack))
    for abort_early in (False, True):
        search = {"binary_search_steps": 5, "steps": 100, "abort_early": abort_early}
        theirs = _foolbox("L2CarliniWagnerAttack", None, {**search, "initial_const": 1.0, "stepsize": 0.05})
        name = f"C&W, c 1, rate 0.05, 5 x 100 steps, abort_early={abort_early}, foolbox"
        found.append(Comparison(name, SMALLEST, _cw({**search, "c": 1.0, "lr": 0.05}), theirs, samples=200))
    return found


def _pgd(model: nn.Module) -> AttackCallable:
    return PGD(model, EPS, ALPHA, STEPS, False, exact=True)


def _cw(options: dict[str, Any]) -> Make:
    return lambda model: CW(model, exact=True, **options)


def _apgd(norm: str, eps: float, loss: str) -> Make:
    return lambda model: APGD(model, eps, 50, norm, loss=loss, seed=0, exact=True)


def _apgdt(norm: str, eps: float) -> Make:
    return lambda model: APGDT(model, eps, 20, norm, seed=0, exact=True)


def _square(model: nn.Module) -> AttackCallable:
    return Square(model, EPS_SQUARE, 500, seed=0)


def _torchattacks(name: str, options: dict[str, Any]) -> Make:
    def make(model: nn.Module) -> AttackCallable:
        return from_torchattacks(getattr(importlib.import_module("torchattacks"), name)(model, eps=EPS, **options))

    return make


def _foolbox(name: str, eps: float | None, options: dict[str, Any]) -> Make:
    def make(model: nn.Module) -> AttackCallable:
        return from_foolbox(getattr(importlib.import_module("foolbox").attacks, name)(**options), model, eps)

    return make


def _apgd_of_autoattack(norm: str, eps: float, loss: str) -> Make:
    def make(model: nn.Module) -> AttackCallable:
        base: Any = importlib.import_module("pyautoattack.autopgd_base")
        run: AttackCallable = base.APGDAttack(
            model, n_iter=50, norm=norm.capitalize(), eps=eps, loss=loss, seed=0
        ).perturb
        return run

    return make


def _apgdt_of_autoattack(norm: str, eps: float) -> Make:
    def make(model: nn.Module) -> AttackCallable:
        base: Any = importlib.import_module("pyautoattack.autopgd_base")
        run: AttackCallable = base.APGDAttack_targeted(
            model, n_iter=20, norm=norm.capitalize(), eps=eps, seed=0
        ).perturb
        return run

    return make


def _square_of_autoattack(model: nn.Module) -> AttackCallable:
    square: Any = importlib.import_module("pyautoattack.square")
    run: AttackCallable = square.SquareAttack(model, n_queries=500, eps=EPS_SQUARE, seed=0).perturb
    return run


def measured(comparison: Comparison, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, str]:
    """The row of a comparison: every column that any table has."""
    model = model.to(comparison.dtype)
    x, y = images[: comparison.samples].to(comparison.dtype), labels[: comparison.samples]
    results, seconds = [], []
    for make in (comparison.ours, comparison.theirs):
        attack = make(model)
        index = torch.arange(len(x))
        begin = time.perf_counter()
        parts = zip(x.split(BATCH), y.split(BATCH), index.split(BATCH), strict=True)
        results.append(torch.cat([run_attack(attack, *part) for part in parts]))
        seconds.append(time.perf_counter() - begin)
    ours, theirs = results
    off = (ours.double() - theirs.double()).abs()
    row = {
        "comparison": comparison.name,
        "images": f"{len(x):,}",
        "off by > 1e-10": f"{(off > 1e-10).double().mean():.4%}",
        "off by > 1e-5": f"{(off > 1e-5).double().mean():.4%}",
        "largest difference": f"{off.max():.1e}",
    }
    for who, result, taken in zip(("ours", "theirs"), results, seconds, strict=True):
        row[f"right, {who}"] = f"{accuracy(model, result, y):.1%}"
        row[f"mean L2, {who}"] = f"{(result - x).flatten(1).norm(dim=1).mean():.4f}"
        row[f"seconds, {who}"] = f"{taken:.1f}"
    return row


def markdown(rows: dict[str, dict[str, str]]) -> str:
    """The tables of the comparisons that have run, in the order of :func:`comparisons`."""
    parts = []
    for table, own in COLUMNS.items():
        columns = ("comparison", "images", *own, "seconds, ours", "seconds, theirs")
        lines = [f"## {table}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        ran = [
            rows[comparison.name]
            for comparison in comparisons()
            if comparison.table == table and comparison.name in rows
        ]
        lines += ["| " + " | ".join(row[column] for column in columns) + " |" for row in ran]
        if ran:
            parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run the comparisons that were asked for, and print the tables of all that are known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as for neurosens-fast audit, say mnist:DIR")
    parser.add_argument("weights")
    parser.add_argument("--model", default="mnist-cnn")
    parser.add_argument("--only", default="", help="a part of the names of the comparisons to run")
    parser.add_argument("--rows", type=Path, help="a JSON file that keeps the rows from run to run")
    parser.add_argument("--out", type=Path, help="where to write the tables")
    arguments = parser.parse_args()
    model = load_model(arguments.model, weights=arguments.weights)
    chosen = [comparison for comparison in comparisons() if arguments.only in comparison.name]
    most = max(comparison.samples for comparison in chosen)
    images, labels = next(batches(load_data(arguments.data).dataset, most))
    assert isinstance(images, Tensor)
    rows = json.loads(arguments.rows.read_text()) if arguments.rows and arguments.rows.exists() else {}
    for comparison in chosen:
        rows[comparison.name] = row = measured(comparison, model, images, labels)
        print(row, flush=True)
        if arguments.rows:
            arguments.rows.write_text(json.dumps(rows, indent=1))
    print(markdown(rows))
    if arguments.out:
        arguments.out.write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
