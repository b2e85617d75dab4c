"""The picture of a sweep of repairs."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from neurosens_fast.audit.figure import GREEN, INK, LINE, MUTED, ORANGE, PEAK, PURPLE, SKY, figure_in

from .evaluation import CLEAN, label

if TYPE_CHECKING:
    from .sweep import RepairReport

_COLOURS = (LINE, PEAK, GREEN, PURPLE, ORANGE, SKY)
_MARKERS = "os^Dvp"


def plot(report: RepairReport, path: str | PathLike[str]) -> None:
    """See :meth:`RepairReport.plot`."""
    with figure_in(path, 12.0, 5.2) as figure:
        sweep, test = figure.subplots(1, 2)
        _draw_sweep(sweep, report)
        _draw_test(test, report)
        figure.suptitle(_title(report), x=0.01, ha="left", fontsize=11)


def _title(report: RepairReport) -> str:
    renewed = ", batch norms re-estimated" if report.reestimated else ""
    picked = "no repair" if report.picked == 1 else f"{report.picked:g}"
    return (
        f"{report.model.split(',')[0]}: robust neurons of {report.layer} compressed, fragile ones amplified "
        f"({report.where.replace('_', ' ')}{renewed})\n{picked} picked on {_samples(report, 'validation')} by "
        f"accuracy under {report.pick_by}; every model is attacked itself"
    )


def _samples(report: RepairReport, split: str) -> str:
    evaluation = report.test if split == "test" else next(iter(report.validation.values()))
    return f"{evaluation.samples:,} {split} samples"


def _looks(conditions: tuple[tuple[str, float], ...]) -> list[dict[str, Any]]:
    """A colour for each attack, a marker and a shade for each of its strengths."""
    attacks = list(dict.fromkeys(attack for attack, _ in conditions if attack != CLEAN))
    strengths = sorted({eps for attack, eps in conditions if attack != CLEAN})
    looks: list[dict[str, Any]] = []
    for attack, eps in conditions:
        if attack == CLEAN:
            looks.append({"color": INK, "marker": "x", "linestyle": "--"})
            continue
        place = strengths.index(eps)
        looks.append(
            {
                "color": _COLOURS[attacks.index(attack) % len(_COLOURS)],
                "marker": _MARKERS[place % len(_MARKERS)],
                "linestyle": "-",
                "alpha": 0.4 + 0.6 * (place + 1) / len(strengths),
            }
        )
    return looks


def _draw_sweep(axes: Any, report: RepairReport) -> None:
    factors = list(report.validation)
    conditions = report.test.conditions
    for place, (condition, look) in enumerate(zip(conditions, _looks(conditions), strict=True)):
        axes.errorbar(
            factors,
            [100 * float(found.change[place]) for found in report.validation.values()],
            [100 * float(found.standard_error[place]) for found in report.validation.values()],
            linewidth=2,
            markersize=5,
            elinewidth=1,
            label=label(*condition),
            **look,
        )
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.axvline(report.picked, color=MUTED, linewidth=1, linestyle=":")
    axes.invert_xaxis()
    axes.grid(axis="y", color=MUTED, alpha=0.25)
    axes.set_xlabel("compression factor of robust neurons  (1: no repair; dotted: picked)")
    axes.set_ylabel("change of accuracy (percentage points)")
    axes.set_title(f"Change on {_samples(report, 'validation')}", loc="left", fontweight="bold")
    axes.legend(frameon=False, fontsize=9)


def _draw_test(axes: Any, report: RepairReport) -> None:
    found = report.test
    places = range(len(found.conditions))
    before, after = (100 * values for values in (found.before, found.after))
    axes.bar([place - 0.2 for place in places], before.tolist(), 0.38, color=MUTED, alpha=0.6, label="before")
    axes.bar(
        [place + 0.2 for place in places],
        after.tolist(),
        0.38,
        yerr=(100 * found.standard_error).tolist(),
        color=LINE,
        ecolor=INK,
        error_kw={"elinewidth": 1},
        label=f"after, compress {report.picked:g} (bar: error of the change)",
    )
    names = [label(*condition) for condition in found.conditions]
    crowded = len(names) > 5
    axes.set_xticks(list(places), names, rotation=45 if crowded else 0, ha="right" if crowded else "center")
    axes.set_ylim(0, 115)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y", color=MUTED, alpha=0.25)
    axes.set_ylabel("accuracy (%)")
    axes.set_title(f"Accuracy on {_samples(report, 'test')}", loc="left", fontweight="bold")
    axes.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)
