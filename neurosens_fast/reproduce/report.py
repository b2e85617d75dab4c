"""The report of a reproduction: Markdown that begins with the verdicts, and a CSV table for each figure."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurosens_fast.support.files import csv_content, write_whole

from . import figures
from .plan import COMPARED, Plan
from .verdicts import Rows, Verdict, mean_accuracy, verdict_on_masking, verdict_on_robustness, verdict_on_sensitivity

if TYPE_CHECKING:
    from pandas import DataFrame

REPORT = "report.md"
TABLES = ("masking.csv", "robustness.csv", "sensitivity.csv", "overlap.csv", "selection.csv")
ACCURACIES = ("clean", "fgsm", "pgd-20", "apgd-ce", "worst case")
DISTANCES = ("ebd", "ebd-2", "eni")


def write_report(
    folder: Path, plan: Plan, data: str, tables: dict[str, Rows], selection: dict[str, dict[str, Any]], machine: str
) -> list[Verdict]:
    """Write everything below ``folder`` and return the verdicts."""
    verdicts = [
        verdict_on_masking(tables["masking"]),
        verdict_on_robustness(tables["robustness"]),
        verdict_on_sensitivity(tables["sensitivity"]),
    ]
    tried = [
        {"method": method, **entry, "chosen": _is_chosen(entry, found["settings"])}
        for method, found in selection.items()
        for entry in found["tried"]
    ]
    for name, rows in {**tables, "selection": tried}.items():
        write_whole(folder / f"{name}.csv", csv_content(_frame(rows)))
    figures.draw_masking(tables["masking"], folder / "masking.png")
    figures.draw_robustness(tables["robustness"], ACCURACIES, folder / "robustness.png")
    figures.draw_sensitivity(tables["sensitivity"], folder / "sensitivity.png")
    figures.draw_overlap(tables["overlap"], folder / "overlap.png")
    parts = [
        "# Neuron sensitivity: three claims, measured",
        "\n".join(f"{number}. {verdict}" for number, verdict in enumerate(verdicts, 1)),
        _setting(plan, data, tables["robustness"], machine),
        "## 1. Which neurons matter\n\n" + _masking_table(tables["masking"]),
        "## 2. Which training withstands\n\n" + _robustness_table(tables["robustness"]) + "\n\n" + _chosen(selection),
        "## 3. What training does to sensitivity\n\n"
        + _sensitivity_table(tables["sensitivity"])
        + "\n\n"
        + _overlaps(tables["overlap"]),
    ]
    write_whole(folder / REPORT, ("\n\n".join(parts) + "\n").encode())
    return verdicts


def _is_chosen(entry: dict[str, Any], settings: dict[str, Any]) -> bool:
    return all(entry[name] == value for name, value in settings.items())


def _frame(rows: Rows) -> DataFrame:
    from pandas import DataFrame

    return DataFrame(rows)


def _setting(plan: Plan, data: str, rows: Rows, machine: str) -> str:
    each = {row["method"]: row for row in rows}
    budget = ", ".join(
        f"{method} {each[method]['epochs']} epochs ({each[method]['gradient evaluations']:,})" for method in COMPARED
    )
    return (
        f"A claim *holds* where every one of {plan.seeds} seeds says so, *does not hold* where none does, and is "
        "*undecided* otherwise; *in part* means for some of the models. Brackets are the range over seeds.\n\n"
        f"- Data: {data}. Model: {plan.model}. Linf, eps {plan.eps:.4g}.\n"
        "- Equal budget: every method gets as many gradient evaluations (forward and backward passes of one sample, in "
        f"the attack and in the update) as {plan.epochs} epochs of PGD adversarial training with {plan.steps} steps: "
        f"{budget}.\n"
        f"- Weights (and k of SNS) are chosen by accuracy under PGD on the validation part, with a seed that is not "
        "reported; so is each run's best epoch (of standard training by clean accuracy). The test part is used for "
        "this report alone.\n"
        "- The models are small and the runs short. The paper's networks and data sets are larger; this shows what "
        "comes out at this size.\n"
        f"- Machine: {machine}."
    )


def _masking_table(rows: Rows) -> str:
    lines = [
        "Mean accuracy in % over all masks of an order.",
        "",
        "| model | inputs | most | random | least |",
        "|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        for branch in ("clean", "adversarial"):
            cells = []
            for order in ("most", "random", "least"):
                seeds = dict.fromkeys(row["seed"] for row in rows)
                cells.append(
                    _spread([mean_accuracy(rows, method, seed, order, f"{branch}_accuracy") for seed in seeds], 100)
                )
            lines.append(f"| {method} | {branch} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "![Accuracy against masked neurons](masking.png)"])


def _robustness_table(rows: Rows) -> str:
    columns = (*ACCURACIES, *DISTANCES)
    lines = [f"| method | {' | '.join(columns)} | seconds |", "|---" * (len(columns) + 2) + "|"]
    for method in COMPARED:
        own = [row for row in rows if row["method"] == method]
        cells = [_spread([row[column] for row in own], 100 if column in ACCURACIES else 1) for column in columns]
        lines.append(f"| {method} | {' | '.join(cells)} | {statistics.median(row['seconds'] for row in own):.0f} |")
    text = (
        "Accuracies in %. EBD: mean distance to the boundary along random directions (L2; 8 where none is nearer); "
        "EBD-2: gradient steps of eps / 20 until the prediction changes (at most 100); ENI: change of the loss per "
        "change of the input, where less is calmer. "
        "The worst case is over FGSM, PGD-20, APGD-CE and APGD-DLR."
    )
    return "\n".join([text, "", *lines, "", "![Accuracy under attacks](robustness.png)"])


def _chosen(selection: dict[str, dict[str, Any]]) -> str:
    texts = [
        f"{method} {', '.join(f'{name} {value:g}' for name, value in found['settings'].items())}"
        for method, found in selection.items()
        if found["settings"]
    ]
    return f"Chosen on the validation part: {'; '.join(texts)} (all that was tried: selection.csv)."


def _sensitivity_table(rows: Rows) -> str:
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    lines = [
        "Mean sensitivity of each layer under PGD-20.",
        "",
        f"| method | {' | '.join(layers)} |",
        "|---" * (len(layers) + 1) + "|",
    ]
    for method in COMPARED:
        cells = [
            _spread([row["sensitivity"] for row in rows if (row["method"], row["layer"]) == (method, layer)], 1)
            for layer in layers
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "![Mean sensitivity by layer](sensitivity.png)"])


def _overlaps(rows: Rows) -> str:
    parts = []
    for method in dict.fromkeys(row["method"] for row in rows):
        attacks = [
            row["overlap"] for row in rows
            if row["method"] == method and row["first"] < row["second"] and "eps" not in row["first"] + row["second"]
        ]  # fmt: skip
        sizes = [
            row["overlap"] for row in rows
            if row["method"] == method and row["first"] == "pgd-20" and "eps" in row["second"]
        ]  # fmt: skip
        parts.append(
            f"{method}: {100 * statistics.fmean(attacks):.0f} % between attacks, {100 * statistics.fmean(sizes):.0f} % "
            "between eps and its half or double"
        )
    return (
        f"The 10 % most sensitive neurons of a layer in common (about 10 % by chance), seed 0: {'; '.join(parts)}.\n\n"
        "![Overlap of the most sensitive neurons](overlap.png)"
    )


def _spread(values: list[float], scale: float) -> str:
    """``mean [least, largest]``."""
    mean, low, high = (scale * value for value in (statistics.fmean(values), min(values), max(values)))
    digits = ".1f" if scale == 100 else ".3g"
    return f"{mean:{digits}} [{low:{digits}}, {high:{digits}}]"
