"""A training run on disk: weights people can use, and one file from which the run goes on. No pickle.

``best.safetensors`` and ``last.safetensors`` hold weights, ``checkpoint.safetensors`` everything that decides what
comes next, ``training.json`` and ``log.csv`` what people read. Each file appears whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neurosens_fast.support.checked_file import FileKind, FileProblem, checksum, read, serialised, write
from neurosens_fast.support.files import write_whole
from neurosens_fast.support.messages import listing

FORMAT = "neurosens-fast training 1"
BEST, LAST, CHECKPOINT = "best.safetensors", "last.safetensors", "checkpoint.safetensors"
SUMMARY, LOG = "training.json", "log.csv"
FILES = (BEST, LAST, CHECKPOINT, SUMMARY, LOG)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not belong to this run; the message names file and mend."""


def _checksum(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    return checksum({name: value for name, value in header.items() if name != "format"}, tensors)


_KIND = FileKind(
    format=FORMAT,
    version=None,
    what="a training checkpoint",
    part="checkpoint",
    unlike="no file of a training",
    checksum=_checksum,
)


def save_weights(path: Path, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write weights by name, as ``load_model(weights=...)`` reads them, with ``facts`` as JSON in the header."""
    write_whole(path, serialised({"format": FORMAT, **facts}, state))


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the state of a run: tensors by name, and ``facts`` as JSON with a checksum over both."""
    write(path, _KIND, facts, tensors)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save_checkpoint` wrote, on the CPU. ``CheckpointError`` where it is missing or damaged."""
    if not path.exists():
        raise CheckpointError(f"there is no {path} to go on from; train without resume first")
    try:
        return read(path, _KIND, _tensors_and_facts)
    except FileProblem as problem:
        mend = f"{LAST} and {BEST} beside it hold weights to start from, without resume"
        raise CheckpointError(f"{problem}; {mend}") from problem.__cause__


def check_same_run(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """``CheckpointError`` that names what differs between the run of a checkpoint and the one asked for."""
    for name in ("method", "model", "data", "attack"):
        if found.get(name) != wanted[name]:
            theirs = f"{found.get(name)!r}, not {wanted[name]!r}"
            raise CheckpointError(f"{path} is of another {name}: {theirs}; give the same, or another folder")
    before = found["settings"]
    differing = [  # by their texts, since 1 neuron is not 1.0 of all
        f"{name} {before.get(name)!r} (now {value!r})"
        for name, value in wanted["settings"].items()
        if repr(before.get(name)) != repr(value)
    ]
    if found["epochs"] != wanted["epochs"]:
        differing.append(f"epochs {found['epochs']} (now {wanted['epochs']})")
    if found["steps_per_epoch"] != wanted["steps_per_epoch"]:
        differing.append(f"{found['steps_per_epoch']} batches per epoch (now {wanted['steps_per_epoch']})")
    if differing:
        raise CheckpointError(
            f"{path} was made with other settings: {listing(differing)}; give the same ones, or another folder"
        )


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors of a state dict, on the CPU, tied ones too; values that are no tensors are left out."""
    return {
        name: value.detach().cpu().clone().contiguous()
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }


def load_tensors(model: nn.Module, state: dict[str, Tensor], path: Path | None = None) -> None:
    """Copy ``state`` into the model; ``CheckpointError`` where names or shapes differ."""
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
    wrong += [name for name in state if name not in own]
    if wrong:
        raise CheckpointError(f"{path or 'the state'} is of another model: {listing(wrong)} do not fit")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


def optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's state as tensors by name and the rest as JSON; ``ValueError`` for one that keeps other things."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for number, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value.detach().cpu().clone().contiguous()
            elif value is None or isinstance(value, bool | int | float | str):
                plain[f"{number}.{name}"] = value
            else:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps a {type(value).__name__} as {name!r}, which no checkpoint can "
                    "hold; train without out, or with another optimizer"
                )
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Go on with what :func:`optimizer_tensors` gave."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in (*tensors.items(), *facts["state"].items()):
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": facts["param_groups"]})


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a prefix before their names."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _tensors_and_facts(header: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return tensors, {name: value for name, value in header.items() if name != "format"}
