"""Options of ``neurosens-fast train``, by the groups its help shows; None stands for "not typed"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from .options import DATA, OutputOptions
from .parsing import fraction

_METHOD, _DATA, _ATTACK, _UPDATE = "Method", "Data", "Attack in the loop", "Optimisation"
_COMPUTING = "Computing"


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What is trained on and what is held out."""

    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help=f"Its training split is used: {DATA}.".replace("[", r"\["),
            rich_help_panel=_DATA,
        ),
    ]
    val_data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Data to validate on. Default: a part of the training data.", rich_help_panel=_DATA
        ),
    ] = None
    val_share: Annotated[
        float,
        typer.Option(
            parser=fraction,
            metavar="SHARE",
            help="Share of the training data that is held out for validation.",
            rich_help_panel=_DATA,
        ),
    ] = 0.1
    max_samples: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Use N training samples, drawn by the seed.", rich_help_panel=_DATA),
    ] = None
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the data set into DIR if it is not there.", rich_help_panel=_DATA)
    ] = False
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Samples per batch.", rich_help_panel=_DATA)] = 128
    crop: Annotated[
        int, typer.Option(min=0, metavar="N", help="Crop at random after padding by N pixels.", rich_help_panel=_DATA)
    ] = 0
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the images.", rich_help_panel=_DATA)] = False
    workers: Annotated[
        int, typer.Option(min=0, metavar="N", help="Processes that read image folders.", rich_help_panel=_DATA)
    ] = 0


@dataclass(frozen=True, kw_only=True)
class TrainingMethod:
    """The loss, and the attack that it needs."""

    eps: Annotated[
        float | None,
        typer.Option(
            parser=fraction,
            metavar="NUMBER",
            help="Largest change of an input. Default: 8/255.",
            rich_help_panel=_ATTACK,
        ),
    ] = None
    alpha: Annotated[
        float | None,
        typer.Option(
            parser=fraction,
            metavar="NUMBER",
            help="Its step. Default: 2.5 eps / steps, 1.25 eps for fast.",
            rich_help_panel=_ATTACK,
        ),
    ] = None
    steps: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Its steps. Default: 10.", rich_help_panel=_ATTACK)
    ] = None
    norm: Annotated[
        Literal["linf", "l2", "l1"] | None,
        typer.Option(metavar="NAME", help="Ball that eps measures. Default: linf.", rich_help_panel=_ATTACK),
    ] = None
    val_steps: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="PGD steps of the validation. Default: 10.", rich_help_panel=_ATTACK),
    ] = None
    val_every: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Epochs from validation to validation. Default: 1.", rich_help_panel=_ATTACK
        ),
    ] = None
    beta: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="NUMBER", help="Weight of trades (default 6) and mart (5).", rich_help_panel=_METHOD
        ),
    ] = None
    weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Weight of alp (default 0.5), sns and vulnerability (1).",
            rich_help_panel=_METHOD,
        ),
    ] = None
    k: Annotated[
        str | None,
        typer.Option(
            "-k", "--k", metavar="K", help="Sensitive neurons per layer, a count or a share. Default: 0.1.",
            rich_help_panel=_METHOD,
        ),
    ] = None  # fmt: skip
    distance: Annotated[
        Literal["1", "mse", "l2", "cosine"] | None,
        typer.Option(metavar="NAME", help="Distance that sns stabilises: 1, mse, l2, cosine.", rich_help_panel=_METHOD),
    ] = None
    layers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYERS", help="Layers of sns, as in audit. Default: activations.", rich_help_panel=_METHOD
        ),
    ] = None
    scope: Annotated[
        Literal["layer", "model"] | None,
        typer.Option(metavar="NAME", help="Choose neurons per layer or over the model.", rich_help_panel=_METHOD),
    ] = None
    classify: Annotated[
        Literal["adversarial", "benign", "half"] | None,
        typer.Option(metavar="NAME", help="What the cross-entropy of sns sees.", rich_help_panel=_METHOD),
    ] = None
    joint: Annotated[
        bool | None,
        typer.Option(
            "--joint/--separate",
            help="Benign and adversarial samples in one forward, or in two. Default: one.",
            rich_help_panel=_METHOD,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainingUpdates:
    """Optimiser, schedule, and what ends a run."""

    optimizer: Annotated[
        Literal["sgd", "adam", "adamw"] | None,
        typer.Option(metavar="NAME", help="sgd (default), adam or adamw.", rich_help_panel=_UPDATE),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Peak learning rate. Default: 0.1, 0.001 for the adams.",
            rich_help_panel=_UPDATE,
        ),
    ] = None
    momentum: Annotated[
        float | None, typer.Option(min=0, metavar="NUMBER", help="Of sgd. Default: 0.9.", rich_help_panel=_UPDATE)
    ] = None
    weight_decay: Annotated[
        float | None, typer.Option(min=0, metavar="NUMBER", help="Default: 5e-4.", rich_help_panel=_UPDATE)
    ] = None
    schedule: Annotated[
        Literal["cyclic", "step", "cosine", "constant"] | None,
        typer.Option(metavar="NAME", help="cyclic (default), step, cosine or constant.", rich_help_panel=_UPDATE),
    ] = None
    label_smoothing: Annotated[
        float | None, typer.Option(min=0, max=0.999, metavar="NUMBER", help="Default: 0.", rich_help_panel=_UPDATE)
    ] = None
    clip_norm: Annotated[
        float | None,
        typer.Option(min=0, metavar="NUMBER", help="Bound of the norm of all gradients.", rich_help_panel=_UPDATE),
    ] = None
    ema: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.99999, metavar="DECAY", help="Average the weights, as with 0.999.", rich_help_panel=_UPDATE
        ),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Stop after N epochs without a better one.", rich_help_panel=_UPDATE),
    ] = None
    collapse: Annotated[
        Literal["stop", "back-off", "ignore"] | None,
        typer.Option(
            metavar="NAME",
            help="If adversarial accuracy falls by over 20 points: stop (default), back-off or ignore.",
            rich_help_panel=_UPDATE,
        ),
    ] = None
    amp: Annotated[
        Literal["bf16", "fp16"] | None,
        typer.Option(metavar="NAME", help="bf16 or fp16: mixed precision.", rich_help_panel=_COMPUTING),
    ] = None
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last", help="Faster memory layout of images on most devices.", rich_help_panel=_COMPUTING
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainingOutput(OutputOptions):
    """Where a training writes and what it prints."""

    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in DIR.", rich_help_panel="Output")
    ] = False
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves to DIR/tensorboard.", rich_help_panel="Output")
    ] = False


def typed(*groups: Any) -> dict[str, Any]:
    """The options of ``groups`` that were typed, by name."""
    return {name: value for group in groups for name, value in vars(group).items() if value is not None}
