"""By what neurons and layers are judged, and the classes that follow."""

from __future__ import annotations

from collections.abc import Sequence

SCORES: dict[str, str] = {
    "clean": "accuracy on clean inputs with the neuron dropped, less that without",
    "adversarial": "the same on adversarial inputs",
    "difference": "the adversarial score less the clean one",
}
"""What a neuron is judged by (Pravin et al., ICANN 2021 and AIJ 327:104060, 2024; our reconstruction)."""

CLASSES: dict[str, str] = {
    "fragile": "score below -threshold: the network needs the neuron",
    "robust": "score within the threshold: it does not",
    "antifragile": "score above the threshold: it does better without",
}
"""Classes of neurons by score."""


def condition_of(eps: float | None, measured: Sequence[float]) -> int:
    """The place of ``eps`` (None: the largest) among the conditions, of which the first is clean.

    Raises ``ValueError`` for one that was not measured.
    """
    if eps is None:
        return 1 + measured.index(max(measured))
    if eps not in measured:
        raise ValueError(f"eps {eps} was not measured; choose one of {listed(measured)}")
    return 1 + measured.index(eps)


def column_of(score: str, eps: float | None, measured: Sequence[float]) -> int:
    """The same for a score of :data:`SCORES`, whose place is that of its condition; ``ValueError`` for another."""
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    place = condition_of(eps, measured)
    return 0 if score == "clean" else place


def classified(values: Sequence[float], threshold: float) -> tuple[str, ...]:
    """The class of each score, one of :data:`CLASSES`; ``ValueError`` for a negative threshold."""
    if not threshold >= 0:
        raise ValueError(f"threshold must be a number of at least 0, got {threshold}")
    fragile, robust, antifragile = CLASSES
    return tuple(fragile if value < -threshold else antifragile if value > threshold else robust for value in values)


def listed(values: Sequence[float]) -> str:
    """``0.02, 0.05``."""
    return ", ".join(f"{value:g}" for value in values)
