"""The measurements behind the paper's three claims (Zhang et al., IEEE TIP 30:1291, 2021)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

from neurosens_fast.audit import AuditReport, audit, masking_curve
from neurosens_fast.robustness import (
    empirical_boundary_distance,
    empirical_boundary_distance_2,
    empirical_noise_insensitivity,
    robust_accuracy,
)

from .plan import COMPARED
from .subject import Models, attack_named

MASKED = ("standard", "pgd-at", "sns")
"""The models of the first claim."""
JUDGES = ("fgsm", "pgd-20", "apgd-ce", "apgd-dlr")
OVERLAPPING = ("fgsm", "mifgsm", "pgd-20", "apgd-ce")
SCALES = (0.5, 2.0)
SHARE = 0.1
"""The top share of a layer whose overlap is measured, as EvalBox shows it."""


def masking_rows(models: Models) -> list[dict[str, Any]]:
    """Claim 1: accuracies against the number of masked neurons; ranked on the validation part, measured on the test."""
    return list(chain.from_iterable(_measured(models, "masking", MASKED, _masking)))


def _masking(models: Models, method: str, seed: int) -> list[dict[str, Any]]:
    model = models.model(method, seed)
    attack = attack_named("pgd-20", model, models.plan.eps)
    ranking = audit(model, models.data.val, attack, progress=False)
    curve = masking_curve(model, ranking, models.data.test, attack, layers="activations", seed=seed, progress=False)
    return [{"method": method, "seed": seed, **point._asdict()} for point in curve.points]


def robustness_rows(models: Models) -> list[dict[str, Any]]:
    """Claim 2: accuracy under each attack and in the worst case, EBD, EBD-2 and ENI, for every method and seed."""
    return _measured(models, "robustness", COMPARED, _robustness)


def _robustness(models: Models, method: str, seed: int) -> dict[str, Any]:
    model, test, eps = models.model(method, seed), models.data.test, models.plan.eps
    attacks = {name: attack_named(name, model, eps) for name in JUDGES}
    report = robust_accuracy(model, test, attacks, progress=False)
    attacked = attacks["pgd-20"](*test)
    row: dict[str, Any] = {"method": method, "seed": seed, "clean": report.clean_accuracy}
    row |= {outcome.name: outcome.accuracy for outcome in report.outcomes}
    row["worst case"] = report.worst_case_accuracy
    few = test[0][: models.plan.boundary_samples], test[1][: models.plan.boundary_samples]
    row["ebd"] = empirical_boundary_distance(model, *few, directions=models.plan.directions, step=0.2, steps=40).mean
    row["ebd-2"] = empirical_boundary_distance_2(model, *few, step=eps / 20).mean
    row["eni"] = empirical_noise_insensitivity(model, test[0], attacked, test[1])
    facts = models.facts(method, seed)
    return row | {
        "epochs": facts["epochs"],
        "gradient evaluations": facts["gradient_evaluations"],
        "seconds": facts["seconds"],
    }


def sensitivity_rows(models: Models) -> list[dict[str, Any]]:
    """Claim 3: mean sensitivity of each layer of every model, absolute and relative to the activations."""
    return list(chain.from_iterable(_measured(models, "sensitivity", COMPARED, _sensitivity)))


def _sensitivity(models: Models, method: str, seed: int) -> list[dict[str, Any]]:
    report = _audited(models, method, seed, "pgd-20", 1.0)
    relative = report.metric("relative_l1")
    return [
        {
            "method": method,
            "seed": seed,
            "layer": layer,
            "depth": depth,
            "sensitivity": float(values.mean()),
            "relative": float(relative[layer].mean()),
        }
        for depth, (layer, values) in enumerate(report.metric("sensitivity").items())
    ]


def overlap_rows(models: Models) -> list[dict[str, Any]]:
    """Claim 3: how many of the most sensitive neurons two attacks, or two sizes of eps, have in common."""
    rows = []
    for method in MASKED:
        rows += models.store.once(f"overlap-{method}", partial(_overlap, models, method))
    return rows


def _overlap(models: Models, method: str) -> list[dict[str, Any]]:
    reports = {(name, 1.0): _audited(models, method, 0, name, 1.0) for name in OVERLAPPING}
    reports |= {("pgd-20", scale): _audited(models, method, 0, "pgd-20", scale) for scale in SCALES}
    sets = {key: _top_sets(report) for key, report in reports.items()}
    rows = []
    for first, ours in sets.items():
        for second, theirs in sets.items():
            shares = [len(ours[layer] & theirs[layer]) / len(ours[layer]) for layer in ours]
            rows.append(
                {
                    "method": method,
                    "first": _label(*first),
                    "second": _label(*second),
                    "overlap": statistics.fmean(shares),
                }
            )
    return rows


def _measured(
    models: Models, name: str, methods: tuple[str, ...], measure: Callable[[Models, str, int], Any]
) -> list[Any]:
    """What ``measure`` gives for each model of ``methods`` and seed, once."""
    return [
        models.store.once(f"{name}-{method}-seed{seed}", partial(measure, models, method, seed))
        for method in methods
        for seed in range(models.plan.seeds)
    ]


def _audited(models: Models, method: str, seed: int, attack: str, scale: float) -> AuditReport:
    model = models.model(method, seed)
    return audit(model, models.data.test, attack_named(attack, model, scale * models.plan.eps), progress=False)


def _top_sets(report: AuditReport) -> dict[str, set[int]]:
    from neurosens_fast.ops import neuron_count

    return {
        layer: set(values.topk(neuron_count(SHARE, len(values))).indices.tolist())
        for layer, values in report.metric("sensitivity").items()
    }


def _label(attack: str, scale: float) -> str:
    return attack if scale == 1.0 else f"{attack}, {scale:g} eps"
