"""Training with one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurosens_fast.audit.descriptions import describe_callable, describe_data, describe_model, package_versions
from neurosens_fast.capture import hookable, parameters_device
from neurosens_fast.support.processes import rank_and_world

from . import checkpoints
from .board import FOLDER, Board
from .loader import loader_of
from .methods import method_named
from .result import Epoch, TrainingResult
from .run import Run
from .settings import settings_from
from .step import AttackCallable, Step
from .validation import Validation


def fit(
    model: nn.Module,
    train: Any,
    val: Any,
    method: str = "sns",
    epochs: int = 10,
    *,
    attack: AttackCallable | None = None,
    device: torch.device | str | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    progress: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
    model_description: str | None = None,
    data_description: str | None = None,
    **settings: Any,
) -> TrainingResult:
    """Train ``model`` in place by one of :data:`~neurosens_fast.training.METHODS`; returns a :class:`TrainingResult`.

    ``train`` and ``val`` are two tensors (images ``[N, *S]`` in [0, 1], labels ``[N]``), a data set of samples, or an
    iterable of batches with a length, such as a ``DataLoader``; tensors go to the device whole, a ``DeviceLoader`` is
    used as it is. ``attack`` replaces the method's own in the loop: any callable ``(x, y) -> x_adv``, called with the
    model in evaluation mode. ``settings`` are the fields of :class:`~neurosens_fast.training.Settings`, the same for
    all methods::

        result = fit(model, (x, y), (x_val, y_val), "sns", epochs=20, eps=0.15, k=0.1, out="run1")

    A model in evaluation mode is trained in training mode; in one that is in training mode, modules that you set to
    evaluation mode stay so. Afterwards modes are as they were, hooks are gone, and the model holds the weights of the
    best validation accuracy, or the last ones (``keep``). Started from trained weights, this is fine-tuning.

    With ``out`` a folder gets ``best.safetensors`` and ``last.safetensors`` (weights for ``load_model``),
    ``training.json``, ``log.csv``, and after each epoch ``checkpoint.safetensors``, from which ``resume=True`` goes
    on: on the CPU with the same weights, bit for bit, as if nothing had happened. ``tensorboard`` writes curves there
    too. Under ``torchrun`` (or any process group) each process trains on its part of every batch.

    Raises ``ValueError`` or ``TypeError`` with one sentence for settings, data and checkpoints that do not fit;
    :class:`~neurosens_fast.training.DivergedError` where the loss is not finite, naming batch and layer, before the
    update, with the last good checkpoint in place; ``OSError`` where a file cannot be written, with the
    old ones in place. Global random generators are as they were.
    """
    chosen, recipe = settings_from(settings), method_named(method)
    recipe.check(method, chosen, attack)
    _check(model, val, epochs, out, resume, tensorboard)
    place = _device(model, device)
    model.to(place)
    if chosen.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rank, world = rank_and_world()
    folder = None if out is None else Path(out)
    loader = loader_of(
        train,
        chosen.batch_size,
        place,
        crop=chosen.crop,
        flip=chosen.flip,
        seed=chosen.seed,
        workers=chosen.workers,
        rank=rank,
        world=world,
    )
    facts = {
        "model": describe_model(hookable(model)) if model_description is None else model_description,
        "data": f"{describe_data(train)}, {describe_data(val)}" if data_description is None else data_description,
        "attack": "the method's own" if attack is None else describe_callable(attack),
        "versions": package_versions(),
    }
    board = Board(folder / FOLDER if folder is not None and tensorboard else None)
    if folder is not None and rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    with _training_mode(model):
        step = Step(model, recipe, chosen, place, attack)
        try:
            run = Run(step, loader, Validation(val, chosen, place), method, epochs, chosen, facts)
            return run.go(folder, resume, progress, board, on_epoch)
        finally:
            board.close()
            step.close()


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        if not model.training:
            model.train()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _device(model: nn.Module, device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    own = parameters_device(model)
    if own is None:
        raise ValueError("the model's parameters are on several devices, or it has none; name one with device=")
    return own


def _check(model: Any, val: Any, epochs: int, out: Any, resume: bool, tensorboard: bool) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs must be a whole number of at least 1, got {epochs!r}")
    if val is None:
        raise ValueError(
            "training needs validation data: it decides which epoch is the best; hold a part of the training data out, "
            "for example with training.held_out(images, labels)"
        )
    if out is None and (resume or tensorboard):
        raise ValueError(f"{'resume' if resume else 'tensorboard'}=True needs a folder: give out=")
    if out is not None and not resume and (Path(out) / checkpoints.CHECKPOINT).exists():
        raise ValueError(
            f"{out} already holds a {checkpoints.CHECKPOINT}; give resume=True to go on from it, or another folder"
        )
