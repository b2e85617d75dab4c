"""``neurosens-fast train``: adversarial training and SNS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import MODELS, MachineOptions, NetworkOptions
from .output import OutputFolder, print_facts, standard_output
from .parsing import count_or_share, listed
from .train_options import TrainingData, TrainingMethod, TrainingOutput, TrainingUpdates, typed

if TYPE_CHECKING:
    from neurosens_fast.training import TrainingResult

METHODS = "standard, fast, pgd-at, trades, mart, alp, vulnerability or sns"


def run(
    *,
    method: Annotated[
        str, typer.Option("--method", metavar="METHOD", help=f"{METHODS}.", rich_help_panel="Method")
    ] = "sns",
    data: TrainingData,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Epochs.", rich_help_panel="Optimisation")] = 10,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help=f"{MODELS}. Default: the small network that belongs to the data.",
            rich_help_panel="Model",
        ),
    ] = None,
    network: NetworkOptions,
    loss: TrainingMethod,
    updates: TrainingUpdates,
    machine: MachineOptions,
    output: TrainingOutput,
) -> None:
    """Train a network that withstands attacks.

    Methods: standard, fast (FGSM from a random start), pgd-at, trades, mart,
    alp (adversarial logit pairing), vulnerability (suppression over all
    neurons) and sns, which keeps the most sensitive neurons calm. With
    --weights training goes on from there. Writes [bold]best.safetensors[/],
    [bold]last.safetensors[/], [bold]checkpoint.safetensors[/], [bold]training.json[/] and
    [bold]log.csv[/] to DIR. torchrun -m neurosens_fast train ... uses several
    processes.

    [bold]neurosens-fast train --method sns --data digits --eps 0.15 --epochs 10 --out run1[/]
    [bold]neurosens-fast audit --model digits-cnn --weights run1/best.safetensors \\
        --data digits --eps 0.15 --out run2[/]
    """
    from neurosens_fast.models import model_for
    from neurosens_fast.support.processes import local_device, process_group, rank_and_world, wait_for_all
    from neurosens_fast.training.checkpoints import FILES
    from neurosens_fast.training.fit import fit
    from neurosens_fast.training.methods import method_named
    from neurosens_fast.training.progress import epoch_line

    from .prepare import check_fit, load_network, parameters, place

    recipe = method_named(method)
    settings = typed(loss, updates) | {"seed": machine.seed}
    settings |= {name: getattr(data, name) for name in ("batch_size", "crop", "flip", "workers")}
    settings = _parsed(settings)
    folder = OutputFolder(output.out, FILES, output.overwrite or output.resume)
    if output.overwrite and output.resume:
        raise ValueError("--resume goes on with what --overwrite would replace; drop one")
    name = model or model_for(data.data)
    device = local_device(place(machine))
    built, description = load_network(name, network, machine.seed)
    train, val, shape, facts = split(data, machine.seed)
    if shape is not None:
        check_fit(built, shape, f"samples of {data.data}")
    built.to(device)
    with process_group(device), folder.opened() as path:
        console = standard_output(output.quiet or rank_and_world()[0] > 0)
        if output.overwrite and rank_and_world()[0] == 0:
            for file in FILES:
                (path / file).unlink(missing_ok=True)
        wait_for_all()
        print_facts(
            console,
            [
                ("method", f"{recipe.title} ({recipe.source})"),
                ("model", f"{description}; {parameters(built)}"),
                ("data", facts),
                ("on", f"{device}, {rank_and_world()[1]} process(es)" if rank_and_world()[1] > 1 else str(device)),
            ],
        )
        result = fit(
            built,
            train,
            val,
            method,
            epochs,
            device=device,
            out=path,
            resume=output.resume,
            tensorboard=output.tensorboard,
            progress=output.progress and not output.quiet,
            on_epoch=lambda row: console.print(epoch_line(row, epochs)),
            model_description=description,
            data_description=facts,
            **settings,
        )
        print_facts(console, _outcome(result))
        console.print(folder.written(), soft_wrap=True)


def _outcome(result: TrainingResult) -> list[tuple[str, str]]:
    best = result.epoch(result.best_epoch)
    facts = [
        (
            "best",
            f"epoch {best.epoch}: clean {best.clean_accuracy:.1%}, adversarial {best.adversarial_accuracy:.1%} of the "
            "validation data",
        )
    ]
    return [*facts, ("stopped", result.stopped)] if result.stopped else facts


def _parsed(settings: dict[str, Any]) -> dict[str, Any]:
    """Texts as what ``fit`` takes."""
    changed = dict(settings)
    if "k" in changed:
        changed["k"] = count_or_share(changed["k"])
    if changed.get("distance") == "1":
        changed["distance"] = 1
    if "layers" in changed:
        chosen = listed(changed["layers"])
        changed["layers"] = chosen[0] if len(chosen) == 1 else tuple(chosen)
    return changed


def split(data: TrainingData, seed: int) -> tuple[Any, Any, tuple[int, ...] | None, str]:
    """Training data, validation data, the shape of a sample where it is known, and a description.

    Raises ``ValueError`` for data of which no part can be held out.
    """
    from neurosens_fast.data import load_data

    source = load_data(data.data, train=not data.data.startswith("imagefolder:"), download=data.download)
    train, description = _drawn(source.dataset, data.max_samples, seed), source.description
    if data.max_samples is not None:
        description += f", {_length(train):,} drawn by seed {seed}"
    if data.val_data is not None:
        val = load_data(data.val_data, download=data.download)
        return train, val.dataset, source.shape, f"{description}; validated on {val.description}"
    train, val = _held_out(train, data.val_share, seed, data.data)
    held = f"{_length(train):,} samples, {_length(val):,} more for validation"
    return train, val, source.shape, f"{description}: {held}"


def _held_out(dataset: Any, share: float, seed: int, name: str) -> tuple[Any, Any]:
    from torch import Generator
    from torch.utils.data import random_split

    from neurosens_fast.training.loader import held_out, tensors_of

    if not share > 0:
        raise ValueError("--val-share 0 leaves no validation data; give a share, or --val-data DATA")
    tensors = tensors_of(dataset)
    if tensors is not None:
        return held_out(*tensors, share, seed)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(f"no part of {name} can be held out for validation, as it is read once; give --val-data DATA")
    count = min(max(1, round(share * len(dataset))), len(dataset) - 1)
    train, val = random_split(dataset, [len(dataset) - count, count], Generator().manual_seed(seed))
    return train, val


def _drawn(dataset: Any, count: int | None, seed: int) -> Any:
    from torch.utils.data import Subset

    from neurosens_fast.support.random_state import drawn
    from neurosens_fast.training.loader import tensors_of

    tensors = tensors_of(dataset)
    if count is None:
        return dataset if tensors is None else tensors
    if tensors is None and not hasattr(dataset, "__getitem__"):
        raise ValueError("--max-samples needs data whose samples can be picked; limit them inside your function")
    total = _length(dataset if tensors is None else tensors)
    order = drawn(total, count, seed)
    return Subset(dataset, order.tolist()) if tensors is None else (tensors[0][order], tensors[1][order])


def _length(data: Any) -> int:
    from neurosens_fast.training.loader import tensors_of

    tensors = tensors_of(data)
    return len(data) if tensors is None else len(tensors[0])
