"""A training run on disk: weights people can use, and one file from which the run goes on. No pickle.

``best.safetensors`` and ``last.safetensors`` hold weights, ``checkpoint.safetensors`` everything that decides what
comes next, ``training.json`` and ``log.csv`` what people read. Each file appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neurosens_fast.support.files import write_whole
from neurosens_fast.support.messages import listing, one_line

FORMAT = "neurosens-fast training 1"
BEST, LAST, CHECKPOINT = "best.safetensors", "last.safetensors", "checkpoint.safetensors"
SUMMARY, LOG = "training.json", "log.csv"
FILES = (BEST, LAST, CHECKPOINT, SUMMARY, LOG)
_KEY = "neurosens_fast"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not belong to this run; the message names file and mend."""


def save_weights(path: Path, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write weights by name, as ``load_model(weights=...)`` reads them, with ``facts`` as JSON in the header."""
    write_whole(path, _serialised(state, {"format": FORMAT, **facts}))


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the state of a run: tensors by name, and ``facts`` as JSON with a checksum over both."""
    header = {"format": FORMAT, **facts}
    header["sha256"] = _checksum(header, tensors)
    write_whole(path, _serialised(tensors, header))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save_checkpoint` wrote, on the CPU. ``CheckpointError`` where it is missing or damaged."""
    tensors, header = _read(path)
    if header.pop("sha256", None) != _checksum(header, tensors):
        raise CheckpointError(
            f"{path} is damaged: its checksum does not match its content; {LAST} and {BEST} beside it hold weights to "
            "start from, without resume"
        )
    return tensors, header


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


def _serialised(tensors: dict[str, Tensor], header: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    return bytes(save(tensors, {_KEY: json.dumps(header)}))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path} to go on from; train without resume first") from error
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEY])
        if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
            raise ValueError("its header is that of another file")
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is truncated, damaged, or no file of a training ({one_line(error, 80)}); train without resume"
        ) from error
    return tensors, header


def _checksum(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the header (without format and checksum) and over names, types, shapes and bytes of all tensors."""
    facts = {name: value for name, value in header.items() if name not in ("format", "sha256")}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
