"""``explore(model, data, attack) -> Explorer``: everything that the page shows, computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from neurosens_fast.audit import AuditReport
from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.setting import AttackCallable, Setting, check_counts
from neurosens_fast.fragility import FragilityReport
from neurosens_fast.fragility.levels import MakeAttack, described_run
from neurosens_fast.support.packages import import_package

from .exploration import Exploration
from .explored import Wanted, explored
from .explorer import Explorer
from .levels import levels_of
from .projection import METHODS, check_umap
from .reports import check_reports


def explore(
    model: nn.Module,
    data: Data,
    attack: AttackCallable | MakeAttack | Mapping[str, MakeAttack],
    layer: str | None = None,
    report: AuditReport | None = None,
    *,
    eps: float | Iterable[float] | None = None,
    fragility: FragilityReport | None = None,
    other: nn.Module | None = None,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    images: int = 1000,
    top: int = 9,
    swap_images: int = 8,
    swap_neurons: int = 64,
    share: float = 0.5,
    projection: str = "auto",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    seed: int = 0,
    model_description: str | None = None,
    other_description: str | None = None,
    data_description: str | None = None,
    attack_description: str | None = None,
) -> Explorer:
    """How an attack works on the neurons of ``layer``, as an :class:`Explorer` that is saved or served as a page.

    ``layer`` is by default the penultimate one: what the linear layer reads whose output are the logits, so that
    weights say what a neuron adds to each class. Another is chosen by its dotted name (``relu#2``: its second call in a
    forward). A neuron's value for a sample is its mean over positions.

    ``attack`` is an attack ``(x, y) -> x_adv``; or, to switch between strengths, what makes one when called as
    ``attack(model, eps=eps)`` (a class such as ``FGSM``, a ``functools.partial`` of one), or several such by name in a
    dict, each with every strength of ``eps`` (default 0.02, 0.05, 0.1). ``report`` and ``fragility`` are reports on the
    same neurons whose measures are shown beside the others. ``other`` is a second model to show side by side, attacked
    by attacks of its own; ``names`` are what the page calls the models, ``class_names`` the classes.

    The first ``images`` samples are shown one by one; measures are means over all samples, and the ``top`` inputs that
    stimulate each neuron most are chosen among all of them, read once per model in constant memory. Receptive fields,
    and swaps of the pixels inside, which cost a forward each, are computed of ``swap_images`` images (class by class,
    those that the attack turned first) and the ``swap_neurons`` most vulnerable neurons; a field is the smallest set of
    pixels with ``share`` of the influence on the neuron (the page names the images and neurons that have fields;
    served, it computes others).
    ``projection`` is ``"pca"``, ``"umap"``, or ``"auto"``, UMAP where umap-learn is installed.

    ``data`` and the rest are as in :func:`~neurosens_fast.audit.audit`, and so is the model afterwards. Source: views
    and measures follow Li, Wang, Fujiwara and Ma, ACM TiiS 2023, as a reconstruction; every measure's definition stands
    on the page. Needs bokeh and scipy, which ``pip install 'neurosens-fast[explore]'`` brings.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend: an unknown layer, a report of another
    model, a strength that is negative or given twice, no labels, data without a sample, another
    number of class names than there are classes; ``ModuleNotFoundError`` without bokeh or scipy, or umap-learn for
    ``projection="umap"``.
    """
    for package in ("bokeh", "scipy"):
        import_package(package, "exploring needs", extra="explore")
    check_reports(report, fragility)
    check_counts(images=images, top=top, batch_size=batch_size, max_samples=max_samples)
    for name, count in (("swap_images", swap_images), ("swap_neurons", swap_neurons)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"{name} must be a whole number of at least 0, got {count!r}")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share!r}")
    if projection not in METHODS:
        raise ValueError(f"projection must be one of {', '.join(METHODS)}, got {projection!r}")
    if projection == "umap":
        check_umap()
    if class_names is not None and (
        isinstance(class_names, str)
        or not all(isinstance(name, str) for name in class_names)
        or len(set(class_names)) < len(class_names)
    ):
        raise ValueError(f"class_names must be a text for each class, no two alike, got {class_names!r:.80}")
    levels = levels_of(attack, eps)
    models = [model] if other is None else [model, other]
    if other is not None:
        if isinstance(data, Iterator):
            raise ValueError("an iterator can be read once only, and two models read the data each; give a data set")
        if levels.ready is not None:
            raise ValueError(
                "with two models, give what makes an attack for a model and eps, as attack=FGSM or "
                "functools.partial(PGD, steps=10): each model is attacked by attacks of its own"
            )
    if isinstance(names, str) or (names is not None and len(names) != len(models)):
        raise ValueError(f"names must be {len(models)} texts, one for each model, got {names!r}")
    wanted = Wanted(
        layer=layer,
        class_names=None if class_names is None else tuple(class_names),
        images=images,
        top=top,
        swap_images=swap_images,
        swap_neurons=swap_neurons,
        share=share,
        projection=projection,
        batch_size=batch_size,
        max_samples=max_samples,
        progress=progress,
        seed=seed,
    )
    found: list[Exploration] = []
    on_demand = []
    for number, network in enumerate(models):
        setting = Setting(network, None, device, dtype)
        described = described_run(
            *(setting, data, attack_description or levels.description, seed),
            *(model_description if number == 0 else other_description, data_description),
        )
        name = type(network).__name__ if names is None else names[number]
        if names is None and number and name == found[0].name:
            name += " (other)"
        reports = (report, fragility) if number == 0 else (None, None)
        exploration, fields = explored(setting, data, levels, name, described, reports, wanted)
        found.append(exploration)
        on_demand.append(fields)
    return Explorer(tuple(found), tuple(on_demand))
