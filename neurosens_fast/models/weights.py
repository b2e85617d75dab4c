"""Weights from a file into a model, with a sentence where they do not fit. Nothing in a file is ever executed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neurosens_fast.support.files import existing_file
from neurosens_fast.support.messages import listing, one_line

LEVELS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which a checkpoint may hold the tensors."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and wrappers such as ``Normalized`` put before names."""


def read_weights(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU: safetensors by its ending, anything else as PyTorch's format.

    Raises ``OSError`` for a file that is not there or cannot be read, ``ValueError`` for one that is truncated, holds
    pickled objects other than tensors, or no tensors by name.
    """
    file = existing_file(path, "file of weights")
    content = _safetensors(file) if file.suffix == ".safetensors" else _pytorch(file)
    state = _tensors(content)
    if not state:
        found = f"its keys: {listing([str(key) for key in content])}" if isinstance(content, Mapping) else "no dict"
        raise ValueError(
            f"weights {path} hold no tensors by name, neither directly nor under {', '.join(LEVELS)} ({found}); "
            "save model.state_dict()"
        )
    return state


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"weights {path} are truncated, damaged, or no safetensors file ({one_line(error)})"
        ) from error


def _pytorch(path: Path) -> Any:
    stream = path.open("rb")  # by itself, as torch.load raises OSError for damaged files too
    try:
        with stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on TorchScript, which the sentence below names
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch have many ways to say it
        if match := re.search(r"GLOBAL ([\w.]+)|TorchScript", str(error)):
            what = f"the Python object {match[1]}" if match[1] else "a TorchScript program"
            raise ValueError(
                f"weights {path} hold {what}, not only tensors, and are not loaded because that could run code; "
                "save model.state_dict() alone, best as safetensors"
            ) from error
        raise ValueError(f"weights {path} are truncated, damaged, or no weights of PyTorch") from error


def _tensors(content: Any) -> dict[str, Tensor]:
    """Tensors by name, one or more of :data:`LEVELS` down where there is one."""
    if not isinstance(content, Mapping):
        return {}
    for level in LEVELS:
        if isinstance(content.get(level), Mapping) and (found := _tensors(content[level])):
            return found
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def adapted(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """``state`` with those prefixes removed, and other packages' names replaced, that make most names the model's."""
    known = set(model.state_dict())
    candidates = [dict(state)]
    for candidate in candidates:  # grows while it is walked through; every name gets shorter or is replaced once
        for renamed in _renamings(candidate, getattr(model, "WEIGHT_SYNONYMS", {})):
            if len(renamed) == len(candidate) and all(renamed.keys() != other.keys() for other in candidates):
                candidates.append(renamed)
    return max(candidates, key=lambda candidate: len(candidate.keys() & known))


def _renamings(state: dict[str, Tensor], synonyms: Mapping[str, str]) -> list[dict[str, Tensor]]:
    renamed = [{name.removeprefix(prefix): value for name, value in state.items()} for prefix in PREFIXES]
    renamed.append({name.replace("_orig_mod.", ""): value for name, value in state.items()})  # a compiled submodule
    if synonyms:
        parts = {name: [synonyms.get(part, part) for part in name.split(".")] for name in state}
        renamed.append({".".join(parts[name]): value for name, value in state.items()})
    return renamed


def load_weights(model: nn.Module, state: Mapping[str, Tensor], weights: str, spec: str) -> None:
    """Copy ``state`` into ``model``. ``weights`` and ``spec`` name both in the sentence of the ``ValueError``.

    As in PyTorch's own loading, ``num_batches_tracked`` may be missing; so may a tensor that shares its memory with
    one that is there (tied weights, which safetensors stores once).
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    misfits: list[str] = []
    classes: set[int | None] = (
        set()
    )  # numbers of classes that would explain the shapes; None for a shape of another kind
    for name in own.keys() & state.keys():
        mine, given = own[name], state[name]
        if is_lazy(mine):
            continue
        if mine.shape != given.shape:
            misfits.append(f"{name} is {list(given.shape)}, the model has {list(mine.shape)}")
            classes.add(given.shape[0] if given.dim() and given.shape[1:] == mine.shape[1:] else None)
        elif mine.is_floating_point() != given.is_floating_point():
            misfits.append(f"{name} is {given.dtype}, the model has {mine.dtype}".replace("torch.", ""))
            classes.add(None)
    tied = {own[name].data_ptr() for name in own.keys() & state.keys()}
    missing = [name for name in own if name not in state and not _may_be_missing(name, own[name], tied)]
    unexpected = [name for name in state if name not in own]
    if misfits or missing or unexpected:
        counts = [
            f"{len(names):,} {what} ({listing(sorted(names), 3)})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape or kind", misfits))
            if names
        ]
        mend = "is --model or --num-classes wrong?"
        if not missing and not unexpected and len(classes) == 1 and (count := classes.pop()) is not None:
            mend = f"were they trained for {count} classes? Then give --num-classes {count}"
        raise ValueError(f"weights {weights} do not fit {spec}: {', '.join(counts)}; {mend}")
    try:
        model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:  # a sparse or quantised tensor, say
        raise ValueError(f"weights {weights} cannot be copied into {spec}: {one_line(error)}") from error


def _may_be_missing(name: str, tensor: Tensor, tied: set[int]) -> bool:
    return name.endswith("num_batches_tracked") or (
        not is_lazy(tensor) and tensor.numel() > 0 and tensor.data_ptr() in tied
    )
