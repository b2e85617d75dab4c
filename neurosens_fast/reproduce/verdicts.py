"""What the measurements say of each claim, in one sentence that does not flatter."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .plan import COMPARED

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """``answer`` is ``holds``, ``does not hold``, ``undecided`` or ``holds in part``; ``reason`` gives the figures."""

    claim: str
    answer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.claim} **{self.answer}**: {self.reason}"


def verdict_on_masking(rows: Rows) -> Verdict:
    """Claim 1: masking the most sensitive neurons costs more accuracy under attack than any others."""
    answers, parts = [], []
    for method in dict.fromkeys(row["method"] for row in rows):
        gaps = []
        for seed in dict.fromkeys(row["seed"] for row in rows):
            means = {
                order: mean_accuracy(rows, method, seed, order, "adversarial_accuracy")
                for order in ("most", "random", "least")
            }
            gaps.append((means["random"] - means["most"], means["least"] - means["most"]))
        answers.append(_answer(min(gap) for gap in gaps))
        first, second = (statistics.fmean(side) for side in zip(*gaps, strict=True))
        parts.append(f"{method} {-100 * first:+.1f} points against random and {-100 * second:+.1f} against the least")
    reason = f"accuracy with the most sensitive masked, mean over all masks, {'; '.join(parts)}"
    return Verdict(
        "Masking the most sensitive neurons costs the most accuracy under attack:", _together(answers), reason
    )


def verdict_on_robustness(rows: Rows) -> Verdict:
    """Claim 2: SNS withstands attacks better than PGD adversarial training at the same budget."""
    by = {(row["method"], row["seed"]): row["worst case"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    gains = {method: [by["sns", seed] - by[method, seed] for seed in seeds] for method in COMPARED if method != "sns"}
    parts = [
        f"{100 * statistics.fmean(values):+.1f} points against {method} "
        f"[{100 * min(values):+.1f}, {100 * max(values):+.1f}]"
        for method, values in gains.items()
    ]
    reason = f"worst-case accuracy of SNS, {', '.join(parts)}"
    claim = "Stabilising sensitive neurons makes a model more robust than PGD adversarial training:"
    return Verdict(claim, _answer(gains["pgd-at"]), reason)


def verdict_on_sensitivity(rows: Rows) -> Verdict:
    """Claim 3: adversarially trained models are less sensitive than the standard one."""
    answers, parts = [], []
    for method in COMPARED:
        if method == "standard":
            continue
        ratios = list(sensitivity_ratios(rows, method).values())
        answers.append(_answer(1 - ratio for ratio in ratios))
        calmer, layers = layers_below(rows, method)
        spread = f"[{min(ratios):.2f}, {max(ratios):.2f}]"
        parts.append(f"{method} {statistics.fmean(ratios):.2f} {spread}, lower in {calmer} of {layers} layers")
    reason = f"mean over layers of the mean sensitivity, divided by that of standard training: {'; '.join(parts)}"
    return Verdict("Adversarial training lowers sensitivity:", _together(answers), reason)


def mean_accuracy(rows: Rows, method: str, seed: int, order: str, column: str) -> float:
    """Mean of ``column`` over all masks of one order that mask some and not all neurons."""
    return statistics.fmean(
        row[column]
        for row in rows
        if (row["method"], row["seed"], row["order"]) == (method, seed, order) and 0 < row["share"] < 1
    )


def sensitivity_ratios(rows: Rows, method: str) -> dict[int, float]:
    """Seed -> mean over layers of the layer's mean sensitivity over that of the standard model of that seed."""
    values = {(row["method"], row["seed"], row["layer"]): row["sensitivity"] for row in rows}
    found: dict[int, list[float]] = {}
    for (name, seed, layer), value in values.items():
        if name == method:
            found.setdefault(seed, []).append(value / values["standard", seed, layer])
    return {seed: statistics.fmean(ratios) for seed, ratios in found.items()}


def layers_below(rows: Rows, method: str) -> tuple[int, int]:
    """In how many layers the mean over seeds is below that of the standard models, and the number of layers."""
    means: dict[tuple[str, str], float] = {}
    for layer in dict.fromkeys(row["layer"] for row in rows):
        for name in (method, "standard"):
            own = [row["sensitivity"] for row in rows if (row["method"], row["layer"]) == (name, layer)]
            means[name, layer] = statistics.fmean(own)
    layers = [layer for name, layer in means if name == "standard"]
    return sum(means[method, layer] < means["standard", layer] for layer in layers), len(layers)


def _answer(gains: Iterable[float]) -> str:
    """Whether every seed agrees."""
    values = list(gains)
    if all(value > 0 for value in values):
        return "holds"
    return "does not hold" if all(value <= 0 for value in values) else "undecided"


def _together(answers: list[str]) -> str:
    return answers[0] if len(set(answers)) == 1 else "holds in part" if "holds" in answers else "undecided"
