"""The options of ``neurosens-fast explore`` that no other command has, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosens_fast.support.names import FRAGILITY_REPORT
from neurosens_fast.support.userfile import is_user_function

from .levels import LevelOptions, attack_maker
from .options import ATTACK_NAMES, MODELS, AttackOptions, DataOptions, ModelOptions, Progress, Quiet
from .output import OutputFolder
from .parsing import listed
from .show import read_report

if TYPE_CHECKING:
    from torch import nn

    from neurosens_fast.audit import AuditReport
    from neurosens_fast.explorer.explorer import Explorer
    from neurosens_fast.fragility import FragilityReport

    from .prepare import Subject

PORT = 5006


@dataclass(frozen=True, kw_only=True)
class AttacksOptions(LevelOptions):
    """The attacks of a page, each at several strengths."""

    attack: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help=f"{ATTACK_NAMES.replace('cw, ', '')}, or file.py:function, which takes model and eps and returns a "
            "callable (x, y) -> x_adv; or several with commas.",
            rich_help_panel="Attack",
        ),
    ] = "pgd"


@dataclass(frozen=True, kw_only=True)
class OtherOptions:
    """A second model to look at side by side."""

    other: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help=f"A second model, side by side: {MODELS}. Default: --model.", rich_help_panel="Model"
        ),
    ] = None
    other_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights of the second model, as in those of an adversarially trained one.",
            rich_help_panel="Model",
        ),
    ] = None

    def options(self, first: ModelOptions) -> ModelOptions | None:
        """The second model, which has the classes and normalization of the ``first``; None where there is none."""
        if self.other is None and self.other_weights is None:
            return None
        return replace(first, model=self.other or first.model, weights=self.other_weights)

    def names(self, first: ModelOptions) -> list[str]:
        """What the page calls the models: no longer than it takes to tell them apart."""
        second = self.options(first)
        if second is None:
            return [_short(first.model)]
        several = [first, second]
        kinds = [_short(one.model) for one in several]
        if kinds[0] != kinds[1]:
            return kinds
        weights = [one.weights for one in several]
        files = [None if path is None else path.name for path in weights]
        if files[0] == files[1]:
            files = [None if path is None else str(path) for path in weights]
        if kinds[0] == kinds[1] and files[0] == files[1]:
            return [one.model for one in several]
        return [f"{kind}, {file or 'no weights'}" for kind, file in zip(kinds, files, strict=True)]


def _short(spec: str) -> str:
    return spec.rpartition("/")[2] if is_user_function(spec) else spec


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Where the page goes and what a run prints."""

    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page, a file .html.", rich_help_panel="Output")
    ] = None
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Serve the page to this machine until Ctrl-C.", rich_help_panel="Output"),
    ] = False
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="N",
            help=f"Port of --serve, 0 for any that is free. Default: {PORT}.",
            rich_help_panel="Output",
        ),
    ] = None
    budget: Annotated[
        float,
        typer.Option(
            metavar="MB", help="Size of the page above which its pictures are made smaller.", rich_help_panel="Output"
        ),
    ] = 15.0
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace FILE if it is there.", rich_help_panel="Output")
    ] = False
    progress: Progress = True
    quiet: Quiet = False

    @property
    def bytes(self) -> int:
        """``budget`` in bytes."""
        return round(self.budget * 1e6)

    @property
    def port_number(self) -> int:
        """The port of ``--serve``."""
        return PORT if self.port is None else self.port


def page_folder(page: PageOptions) -> OutputFolder | None:
    """The folder of ``--out``, None where there is none. ``ValueError`` for options that do not go together."""
    if page.out is None and not page.serve:
        raise ValueError("say where the page goes: --out page.html, or --serve to look at it now")
    if page.port is not None and not page.serve:
        raise ValueError("--port says nothing without --serve; add it")
    if not page.budget > 0 or page.budget == float("inf"):
        raise ValueError(f"--budget {page.budget:g} is no size in MB; write for example --budget 15")
    if page.out is None:
        return None
    path = page.out
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {path} is no page: its name must end in .html")
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder; choose another name")
    if path.exists() and not page.overwrite:
        raise ValueError(f"there is a file {path} already; choose another --out, or add --overwrite")
    return OutputFolder(path.parent, (path.name,), True)


@dataclass(frozen=True)
class Attacks:
    """Makers of attacks by name, each called as ``(model, eps=...)``, their strengths, and all of it in one line."""

    makers: dict[str, Callable[..., Any]]
    eps: tuple[float, ...]
    description: str


def named_attacks(options: AttacksOptions, seed: int) -> Attacks:
    """The attacks that were typed; each takes the options that mean something to it."""
    from .attacks import ATTACKS, check_attacks

    names = list(dict.fromkeys(listed([options.attack])))
    if not names:
        raise ValueError("--attack names no attack; write for example --attack pgd")
    common = {
        one.name: getattr(options, one.name) for one in fields(AttackOptions) if one.name not in ("attack", "eps")
    }
    check_attacks(AttackOptions(attack=options.attack, **common), names)
    makers: dict[str, Callable[..., Any]] = {}
    described = []
    eps: tuple[float, ...] = ()
    for name in names:
        takes = ATTACKS[name].takes if name in ATTACKS else ()
        own = {option: value if option in takes else None for option, value in common.items()}
        eps, maker, description = attack_maker(replace(options, attack=name, **own), seed)
        short = _short(name)
        makers[name if short in makers else short] = maker
        described.append(description)
    return Attacks(makers, eps, f"{'; '.join(described)}, eps {', '.join(f'{one:g}' for one in eps)}")


@dataclass
class Views:
    """What the page shows, as typed, and the reports that are shown with it."""

    layer: str | None
    images: int
    swap_images: int
    swap_neurons: int
    projection: str
    classes: tuple[str, ...] = ()
    report: AuditReport | None = field(default=None, init=False)
    fragility: FragilityReport | None = field(default=None, init=False)

    def load(self, report: Path | None, fragility: Path | None) -> None:
        """Read reports from their files, or from folders that hold them."""
        from neurosens_fast.fragility import FragilityReport

        if report is not None:
            self.report, _ = read_report(report)
        if fragility is not None:
            place = fragility / FRAGILITY_REPORT if fragility.is_dir() else fragility
            if fragility.is_dir() and not place.exists():
                raise ValueError(f"the folder {fragility} holds no {FRAGILITY_REPORT}; name the file")
            self.fragility = FragilityReport.load(place)


def explorer_of(
    subject: Subject,
    attacks: Attacks,
    views: Views,
    other: tuple[nn.Module, str] | None,
    names: list[str],
    data: DataOptions,
    seed: int,
    progress: bool,
) -> Explorer:
    """The explorer of what was prepared; ``other`` is a second model on the CPU and its description."""
    import torch

    from neurosens_fast.explorer import explore

    network, described = other or (None, None)
    if network is not None:
        network = (network.double() if subject.dtype == torch.float64 else network).to(subject.device)
    return explore(
        subject.model,
        subject.data,
        attacks.makers,
        views.layer,
        views.report,
        eps=attacks.eps,
        fragility=views.fragility,
        other=network,
        names=names,
        class_names=views.classes or _folder_names(subject, data),
        images=views.images,
        swap_images=views.swap_images,
        swap_neurons=views.swap_neurons,
        projection=views.projection,
        device=subject.device,
        dtype=subject.dtype,
        batch_size=data.batch_size,
        max_samples=data.max_samples,
        progress=progress,
        seed=seed,
        model_description=subject.model_description,
        other_description=described,
        data_description=subject.data_description,
        attack_description=subject.attack_description,
    )


def _folder_names(subject: Subject, data: DataOptions) -> tuple[str, ...] | None:
    """The classes of an image folder, if the model has as many."""
    from neurosens_fast.capture import plain_forward

    if not data.data.startswith("imagefolder:"):
        return None
    classes = getattr(subject.data, "dataset", subject.data).classes  # --max-samples draws a subset
    parameter = next(subject.model.parameters(), None)
    image = subject.data[0][0].to(subject.device, None if parameter is None else parameter.dtype)
    return tuple(classes) if plain_forward(subject.model, image[None]).shape[-1] == len(classes) else None
