"""The pictures of a reproduction."""

from __future__ import annotations

import statistics
from pathlib import Path

from neurosens_fast.audit.figure import GREEN, LINE, MUTED, ORANGE, PEAK, PURPLE, figure_in

from .plan import COMPARED
from .verdicts import Rows

COLOURS = dict(zip(COMPARED, (MUTED, LINE, GREEN, PURPLE, ORANGE, PEAK), strict=True))
"""From the Okabe-Ito set, safe for colour blindness."""
FILES = ("masking.png", "robustness.png", "sensitivity.png", "overlap.png")


def draw_masking(rows: Rows, path: Path) -> None:
    """Accuracy against the share of masked neurons: a row of panels for clean and for adversarial inputs."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    looks = {"most": (PEAK, "o"), "random": (MUTED, "s"), "least": (LINE, "^")}
    with figure_in(path, 4.2 * len(methods), 6.4) as figure:
        panels = figure.subplots(2, len(methods), sharex=True, sharey=True, squeeze=False)
        for line, branch in zip(panels, ("clean", "adversarial"), strict=True):
            for axes, method in zip(line, methods, strict=True):
                for order, (colour, marker) in looks.items():
                    found: dict[float, list[float]] = {}
                    for row in rows:
                        if row["method"] == method and row["order"] == order:
                            found.setdefault(100 * row["share"], []).append(100 * row[f"{branch}_accuracy"])
                    shares = sorted(found)
                    means = [statistics.fmean(found[share]) for share in shares]
                    axes.plot(
                        shares,
                        means,
                        color=colour,
                        marker=marker,
                        markersize=3,
                        label=order if order == "random" else f"{order} sensitive",
                    )
                    low, high = ([edge(found[share]) for share in shares] for edge in (min, max))
                    axes.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.set_title(f"{method}, {branch}", fontsize=10)
        for axes in panels[-1]:
            axes.set_xlabel("neurons masked (%)")
        for line in panels:
            line[0].set_ylabel("accuracy (%)")
        panels[0][-1].legend(frameon=False, fontsize=8)


def draw_robustness(rows: Rows, columns: tuple[str, ...], path: Path) -> None:
    """Bars of mean accuracy by attack and method, with the range over seeds."""
    with figure_in(path, 11.0, 4.4) as figure:
        axes = figure.subplots()
        width = 0.8 / len(COMPARED)
        for number, method in enumerate(COMPARED):
            values = [[100 * row[column] for row in rows if row["method"] == method] for column in columns]
            means = [statistics.fmean(entry) for entry in values]
            spread = [
                [mean - min(entry) for mean, entry in zip(means, values, strict=True)],
                [max(entry) - mean for mean, entry in zip(means, values, strict=True)],
            ]
            places = [place + (number - (len(COMPARED) - 1) / 2) * width for place in range(len(columns))]
            axes.bar(
                places, means, width, yerr=spread, color=COLOURS[method], label=method, ecolor="#22252a", capsize=2
            )
        axes.set_xticks(range(len(columns)), columns)
        axes.set_ylabel("accuracy (%)")
        axes.legend(frameon=False, fontsize=8, ncols=3)


def draw_sensitivity(rows: Rows, path: Path) -> None:
    """Mean sensitivity by layer for every method, absolute and relative to the activations."""
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    with figure_in(path, 11.0, 4.4) as figure:
        for axes, column in zip(figure.subplots(1, 2), ("sensitivity", "relative"), strict=True):
            for method in COMPARED:
                values = [
                    [row[column] for row in rows if (row["method"], row["layer"]) == (method, layer)]
                    for layer in layers
                ]
                places = range(len(layers))
                axes.plot(places, list(map(statistics.fmean, values)), color=COLOURS[method], marker="o", label=method)
                axes.fill_between(
                    places,
                    list(map(min, values)),
                    list(map(max, values)),
                    color=COLOURS[method],
                    alpha=0.15,
                    linewidth=0,
                )
            axes.set_xticks(range(len(layers)), layers, rotation=30 if len(layers) > 6 else 0, fontsize=8)
            axes.set_title("sensitivity" if column == "sensitivity" else "relative to the activation (L1)", fontsize=10)
            axes.set_yscale("log")
        figure.axes[0].set_ylabel("mean over the layer's neurons")
        figure.axes[0].legend(frameon=False, fontsize=8)


def draw_overlap(rows: Rows, path: Path) -> None:
    """Shares of the most sensitive neurons in common, a matrix for each model."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    labels = list(dict.fromkeys(row["first"] for row in rows))
    with figure_in(path, 4.6 * len(methods), 4.4) as figure:
        panels = figure.subplots(1, len(methods), squeeze=False)[0]
        for axes, method in zip(panels, methods, strict=True):
            found = {(row["first"], row["second"]): row["overlap"] for row in rows if row["method"] == method}
            matrix = [[100 * found.get((first, second), float("nan")) for second in labels] for first in labels]
            axes.imshow(matrix, vmin=0, vmax=100, cmap="Blues")
            for i, line in enumerate(matrix):
                for j, value in enumerate(line):
                    if value == value:
                        axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8,
                                  color="white" if value > 60 else "#22252a")  # fmt: skip
            axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
            axes.set_yticks(range(len(labels)), labels if axes is panels[0] else [], fontsize=8)
            axes.set_title(f"{method}: top 10 % in common (%)", fontsize=10)
