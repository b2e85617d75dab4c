"""Options that several commands share, stated once; dataclasses whose fields become a command's options."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .errors import TRACEBACK_OPTION, TRACEBACK_VARIABLE
from .parsing import fraction, seed_number

MODELS = "digits-cnn, mnist-cnn, cifar-resnet18, torchvision:NAME, timm:NAME, or file.py:function"
DATA = "digits, mnist:DIR, fashion-mnist:DIR, cifar10:DIR, imagefolder:DIR[@SIZE], or file.py:function"
ATTACK_NAMES = "pgd, fgsm, ffgsm, bim, mifgsm, apgd-ce, apgd-dlr, apgd-t, cw, square"
GROUPS = "activations, convolutions, linear, norms, blocks, all"

Traceback = Annotated[
    bool,
    typer.Option(TRACEBACK_OPTION, help=f"Show the whole traceback of an error; so does {TRACEBACK_VARIABLE}=1."),
]


Progress = Annotated[
    bool,
    typer.Option(
        "--progress/--no-progress",
        help="A bar with rate and time left, if there is a terminal.",
        rich_help_panel="Output",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel="Output")]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What makes a network of a model's name."""

    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=".safetensors, or .pth with tensors only, as model.state_dict() gives them. Default: random weights, "
            "or what file.py:function returns.",
            rich_help_panel="Model",
        ),
    ] = None
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Classes of the model. Default: its own.", rich_help_panel="Model"),
    ] = None
    normalize: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What the model wants its input normalised with: imagenet, cifar10, mnist, or MEAN/STD as in 0.5/0.25 "
            "or 0.5,0.5,0.5/0.2,0.2,0.2. The attack works on 0..1.",
            rich_help_panel="Model",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(NetworkOptions):
    """The model of a run."""

    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="MODEL", help=f"{MODELS} that returns a torch.nn.Module.", rich_help_panel="Model"
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data of a run."""

    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help=f"{DATA} that returns batches or a data set of (input, label).".replace("[", r"\["),
            rich_help_panel="Data",
        ),
    ]
    split: Annotated[
        Literal["test", "train"],
        typer.Option(metavar="NAME", help="test or train.", rich_help_panel="Data"),
    ] = "test"
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the data set into DIR if it is not there.", rich_help_panel="Data")
    ] = False
    max_samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Use N samples, drawn by --seed; of file.py:function the first N. Default: all.",
            rich_help_panel="Data",
        ),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Samples per batch.", rich_help_panel="Data")] = (
        128
    )


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """The attack of a run; None stands for "not typed"."""

    attack: Annotated[
        str,
        typer.Option(
            metavar="ATTACK",
            help=f"{ATTACK_NAMES}, none (inputs unchanged), or file.py:function, which takes the model and returns a "
            "callable (x, y) -> x_adv.",
            rich_help_panel="Attack",
        ),
    ] = "pgd"
    eps: Annotated[
        float | None,
        typer.Option(
            parser=fraction,
            metavar="NUMBER",
            help="Largest change of an input, which lies in 0..1. Default: 8/255.",
            rich_help_panel="Attack",
        ),
    ] = None
    alpha: Annotated[
        float | None,
        typer.Option(
            parser=fraction,
            metavar="NUMBER",
            help="Step of pgd, bim, mifgsm and ffgsm. Default: 2.5 eps / steps, 1.25 eps for ffgsm.",
            rich_help_panel="Attack",
        ),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Steps of iterative attacks. Default: 10, 100 for apgd and cw.",
            rich_help_panel="Attack",
        ),
    ] = None
    norm: Annotated[
        Literal["linf", "l2", "l1"] | None,
        typer.Option(
            metavar="NAME",
            help="Ball of pgd (linf, l2, l1) or apgd (linf, l2) that eps measures. Default: linf.",
            rich_help_panel="Attack",
        ),
    ] = None
    random_start: Annotated[
        bool | None,
        typer.Option(
            "--random-start/--no-random-start",
            help="Begin pgd at a random point of the ball, or at the input. Default: random.",
            rich_help_panel="Attack",
        ),
    ] = None
    queries: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Queries of square. Default: 5000.", rich_help_panel="Attack"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where a run computes."""

    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="cpu, cuda or cuda:1. Default: cuda if there is one.", rich_help_panel="Computing"
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads. Default: torch's choice.", rich_help_panel="Computing"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class MachineOptions(DeviceOptions):
    """Where a run computes, and the seed of its draws."""

    seed: Annotated[
        int,
        typer.Option(
            parser=seed_number,
            metavar="N",
            help="Seed of attack, drawn samples and random weights.",
            rich_help_panel="Computing",
        ),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class RunOptions(MachineOptions):
    """How a run computes."""

    dtype: Annotated[
        Literal["float32", "float64", "bfloat16", "float16"],
        typer.Option(
            metavar="NAME",
            help="float32, float64, or autocast of the measured pass to bfloat16 or float16.",
            rich_help_panel="Computing",
        ),
    ] = "float32"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where a run writes and what it prints."""

    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.", rich_help_panel="Output")]
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that are in DIR.", rich_help_panel="Output")
    ] = False
    progress: Progress = True
    quiet: Quiet = False


def command(app: typer.Typer, function: Callable[..., None]) -> None:
    """Add ``function`` to ``app`` under the name of its module's last part.

    A parameter that is annotated with a dataclass of options stands for all its fields; the function gets
    one object. Every command takes ``--traceback``, which ``main`` reads.
    """
    name = function.__module__.rpartition(".")[2]
    hints = typing.get_type_hints(function, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            parameters += _parameters(kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
    parameters.append(
        inspect.Parameter("traceback", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Traceback)
    )

    @functools.wraps(function)
    def call(**values: Any) -> None:
        del values["traceback"]
        for group, kind in groups.items():
            values[group] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        function(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command(name)(call)


def _parameters(kind: type[Any]) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(kind, include_extras=True)
    needed_first = sorted(fields(kind), key=lambda field: field.default is not MISSING)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in needed_first
    ]
