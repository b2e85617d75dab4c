"""Repair: robust neurons compressed, fragile ones amplified (Pravin et al., ICANN 2021; our reconstruction)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.progress import Report

from .place import WHERE
from .reestimation import reestimate_norms
from .report import FragilityReport
from .scaling import NORMS, channels_of, checked_model, filter_norms, module_of, norm_gain, scale_neurons

CONSERVE: dict[str, str] = {
    "norm": "the sum over the layer's neurons of the L2 norm of their filters, by amplifying fragile ones",
    "none": "nothing: robust neurons are compressed and fragile ones stay",
}
"""What a repair conserves (a choice of this package)."""


class NothingToRepair(ValueError):
    """No neuron is robust, or none fragile."""


def repair(
    model: nn.Module,
    report: FragilityReport,
    compress: float = 0.5,
    conserve: str = "norm",
    *,
    score: str = "adversarial",
    eps: float | None = None,
    threshold: float | None = None,
    where: str | None = None,
    norm: str | None = None,
    reestimate: Data | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    seed: int = 0,
) -> nn.Module:
    """A copy of ``model`` with the robust neurons of ``report`` compressed and the fragile ones amplified.

    The factors are those of :func:`repair_scales`, which takes the arguments up to ``norm``; they are multiplied into
    weights as :func:`scale_neurons` does. ``where`` (default: where the report dropped the neurons) says into which:

    - ``"after_norm"``: those of the norm that reads the layer, so that its output is scaled exactly. Without a norm
      there, those of the layer.
    - ``"before_norm"``: those of the layer. A batch norm behind it keeps the statistics of the old outputs, and so
      scales its input like a change of data; with the statistics estimated anew it divides the factors out again.

    ``reestimate`` (data, as :func:`~neurosens_fast.audit.audit` takes them) estimates mean and variance of all batch
    norms that run behind the scaled module anew, in one pass over at most ``max_samples`` samples with everything else
    in evaluation mode: the mean over batches, as ``momentum=None`` and ``torch.optim.swa_utils.update_bn`` have it.
    The data decide too, not the factors alone: compare with ``compress=1.0`` re-estimated on the same data. With
    ``where="before_norm"`` and batch norm behind the layer both are the same model up to the norm's epsilon, so that
    nothing is repaired. ``device``, ``batch_size``, ``progress`` and ``seed`` are for that pass.

    The model is not touched. Judge a repair on data on which the neurons were not classified, as
    :func:`repair_sweep` does.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend, as :func:`repair_scales` and
    :func:`scale_neurons` do, and for ``reestimate`` where no batch norm runs behind the scaled module.
    """
    scales = repair_scales(
        model, report, compress, conserve, score=score, eps=eps, threshold=threshold, where=where, norm=norm
    )
    scaled = _target(model, report, where, norm).scaled
    repaired = scale_neurons(model, scaled, scales)
    if reestimate is not None:
        reestimate_norms(
            repaired,
            scaled,
            reestimate,
            device=device,
            batch_size=batch_size,
            max_samples=max_samples,
            progress=progress,
            seed=seed,
        )
    return repaired


def repair_scales(
    model: nn.Module,
    report: FragilityReport,
    compress: float = 0.5,
    conserve: str = "norm",
    *,
    score: str = "adversarial",
    eps: float | None = None,
    threshold: float | None = None,
    where: str | None = None,
    norm: str | None = None,
) -> Tensor:
    """The factor of each channel of the report's layer, ``[channels]`` float64.

    ``compress`` in (0, 1] for robust neurons, ``1 + (1 - compress) sum_robust |W_k| / sum_fragile |W_k|`` for fragile
    ones, so that the sum of the L2 norms ``|W_k|`` of the filters stays (``conserve="norm"``; ``"none"``: 1), and 1 for
    antifragile neurons and those that were not dropped. ``W_k`` are the weights that the scaled channel applies: with
    ``where="after_norm"`` the layer's filter with the norm folded in, ``gamma / sigma W_k`` (gamma alone where sigma is
    computed from the inputs), else the layer's filter; of a layer that is a norm itself, ``gamma / sigma``.

    Neurons are classified as :meth:`FragilityReport.classes` does with ``score``, ``eps`` and ``threshold``. ``where``
    (default: that of the report) and ``norm`` are for :func:`repair`: ``norm`` names the norm that reads the layer, for
    ``where="after_norm"`` after a report that dropped neurons before it and so does not know it.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend: no robust or no fragile neurons,
    ``compress`` out of range, a report of another model, layers without filters, an unknown ``conserve`` or ``where``.
    """
    if not isinstance(report, FragilityReport):
        raise TypeError(f"report must be a FragilityReport, got {type(report).__name__}")
    checked_compress(compress)
    if conserve not in CONSERVE:
        raise ValueError(f"conserve must be one of {', '.join(CONSERVE)}, got {conserve!r}")
    target = _target(model, report, where, norm)
    classes = report.classes(score, eps, threshold)
    robust, fragile = (
        [neuron for neuron, found in zip(report.neurons, classes, strict=True) if found == kind]
        for kind in ("robust", "fragile")
    )
    if not robust or (not fragile and conserve == "norm"):
        limit = report.threshold(score, eps) if threshold is None else threshold
        raise NothingToRepair(
            f"nothing to repair: of {len(classes)} neurons of {report.layer!r}, {len(robust)} are robust, "
            f"{len(fragile)} fragile and {len(classes) - len(robust) - len(fragile)} antifragile by the {score} score "
            f"with threshold {limit:.4g}, and it takes robust and fragile ones; choose another threshold, score or eps"
        )
    scales = torch.ones(report.channels, dtype=torch.float64)
    scales[robust] = compress
    if conserve == "norm":
        norms = target.filter_norms(model)
        available, needed = float(norms[robust].sum()), float(norms[fragile].sum())
        if not needed > 0:
            raise ValueError(
                f"the filters of all fragile neurons of {report.layer!r} are zero, and no factor amplifies them; give "
                "conserve='none', or another threshold"
            )
        scales[fragile] = 1 + (1 - compress) * available / needed
    return scales


def checked_compress(compress: float) -> None:
    """``ValueError`` if ``compress`` is no number in (0, 1]."""
    if isinstance(compress, bool) or not isinstance(compress, int | float) or not 0 < compress <= 1:
        raise ValueError(f"compress, the factor of robust neurons, must be a number in (0, 1], got {compress!r}")


@dataclass(frozen=True)
class _Target:
    """Names of the module whose filters count and of that which is scaled: it, or the norm that reads it."""

    layer: str
    scaled: str

    def filter_norms(self, model: nn.Module) -> Tensor:
        """L2 norm of the filter that each scaled channel applies, ``[C]`` float64."""
        name, layer = module_of(model, self.layer)
        norms = filter_norms(name, layer)
        if self.scaled == self.layer:
            return norms
        gain = norm_gain(*module_of(model, self.scaled))
        if gain.shape != norms.shape:
            raise ValueError(
                f"layer {self.layer!r} has {len(norms)} filters and the norm {self.scaled!r} {len(gain)} channels, so "
                "that it does not normalise them one by one"
            )
        return norms * gain.abs()


def _target(model: nn.Module, report: FragilityReport, where: str | None, norm: str | None) -> _Target:
    checked_model(model)
    if where is not None and where not in WHERE:
        raise ValueError(f"where must be one of {', '.join(WHERE)}, got {where!r}")
    where = where or report.where
    if norm is not None and where != "after_norm":
        raise ValueError(f"norm={norm!r} is for where='after_norm', and where is {where!r}; leave one of them out")
    scaled = report.layer if where == "before_norm" else norm or report.zeroed
    unknown = where == "after_norm" and norm is None and report.where != where
    if unknown and not isinstance(module_of(model, report.layer)[1], NORMS):
        raise ValueError(
            f"the report dropped neurons before the norm and does not know which one reads {report.layer!r}; name it, "
            f"as in norm='bn1', or give norm={report.layer!r} where there is none"
        )
    name, module = module_of(model, scaled)
    if scaled != report.layer and not isinstance(module, NORMS):
        raise ValueError(f"layer {name!r} is a {type(module).__name__}, not the norm that reads {report.layer!r}")
    channels = channels_of(name, module)
    if channels != report.channels:
        raise ValueError(
            f"the report is of another model: there {report.zeroed!r} has {report.channels} neurons, and here {name!r} "
            f"has {channels} channels"
        )
    return _Target(report.layer, name)
