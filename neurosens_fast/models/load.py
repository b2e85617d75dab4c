"""A model by the text that names it."""

from __future__ import annotations

import contextlib
import operator
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path

from torch import nn

from neurosens_fast.support.files import existing_file, fingerprint
from neurosens_fast.support.messages import did_you_mean, one_line
from neurosens_fast.support.packages import import_package
from neurosens_fast.support.random_state import random_state
from neurosens_fast.support.userfile import call_user_function, describe_user_function, is_user_function

from .cifar_resnet18 import CifarResNet18
from .digits_cnn import DigitsCNN
from .mnist_cnn import MnistCNN
from .normalized import normalized, parse_normalization
from .weights import adapted, load_weights, read_weights

Builder = Callable[[int | None], nn.Module]
"""Builds the model with its last layer for so many classes; None for as many as it has by itself."""

_BUILT_IN: dict[str, type[DigitsCNN | MnistCNN | CifarResNet18]] = {
    "digits-cnn": DigitsCNN,
    "mnist-cnn": MnistCNN,
    "cifar-resnet18": CifarResNet18,
}


def model_names() -> list[str]:
    """The forms of ``spec`` that :func:`load_model` takes, for help texts."""
    return [*_BUILT_IN, "torchvision:NAME", "timm:NAME", "FILE.py:FUNCTION"]


_OF_DATA = {"digits": "digits-cnn", "mnist": "mnist-cnn", "fashion-mnist": "mnist-cnn", "cifar10": "cifar-resnet18"}


def model_for(data: str) -> str:
    """The built-in model for a data set by its name, as ``load_data`` takes it; ``ValueError`` where there is none."""
    kind = data.partition(":")[0]
    if kind not in _OF_DATA:
        raise ValueError(f"say which model to train on {data}: --model MODEL")
    return _OF_DATA[kind]


def load_model(
    spec: str,
    *,
    weights: str | PathLike[str] | None = None,
    num_classes: int | None = None,
    normalize: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """The model that ``spec`` names: float32, on the CPU, in evaluation mode. Nothing is downloaded.

    ``spec`` is ``digits-cnn``, ``mnist-cnn``, ``cifar-resnet18``, ``torchvision:NAME``, ``timm:NAME`` or
    ``FILE.py:FUNCTION``, a function of yours that is called without arguments and returns a module.
    ``weights`` is a safetensors file, or one of PyTorch's that holds tensors only: directly or under ``state_dict``,
    ``model_state_dict``, ``model`` or ``net``; ``module.``, ``_orig_mod.`` and ``model.`` before names do not matter.
    ``num_classes`` goes to the constructor; for the built-in models it follows from the weights. ``normalize`` is
    ``imagenet``, ``cifar10``, ``mnist`` or ``MEAN/STD`` (one number, or one per channel with commas) and wraps the
    model in :class:`Normalized`. Without weights the parameters follow from ``seed``; global random generators are
    left as they were.

    Raises ``ValueError``, ``TypeError``, ``ModuleNotFoundError`` or ``OSError`` with one sentence that says what was
    wrong and what to do.
    """
    _check_classes(num_classes)
    if normalize is not None:
        parse_normalization(normalize)  # before the work
    build = _builder(spec)
    state = None if weights is None else read_weights(weights)
    with random_state(seed):
        model = build(num_classes)
    if state is not None:
        state = adapted(state, model)
        if spec in _BUILT_IN and num_classes is None:
            head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
            last = state.get(f"{head}.weight")
            if last is not None and last.dim() == 2 and len(last) > 0:
                with random_state(seed):
                    model = build(len(last))
        load_weights(model, state, str(weights), spec)
    if normalize is not None:
        model = normalized(model, normalize)
    try:
        return model.float().cpu().eval()
    except (RuntimeError, NotImplementedError) as error:  # parameters without data, on torch's meta device
        raise ValueError(f"{spec} cannot be brought to the CPU as float32: {one_line(error)}") from error


def describe_model(
    spec: str,
    *,
    weights: str | PathLike[str] | None = None,
    num_classes: int | None = None,
    normalize: str | None = None,
    seed: int = 0,
) -> str:
    """One line for reports on what :func:`load_model` gives for the same arguments, files by name and content.

    ``torchvision:resnet50, weights resnet50.safetensors (sha256 0123456789ab), normalised imagenet``.
    """
    own = is_user_function(spec) and not _is_prefixed(spec)
    parts = [describe_user_function(spec) if own else spec]
    if num_classes is not None:
        parts.append(f"{num_classes} classes")
    if weights is not None:
        path = existing_file(weights, "file of weights")
        parts.append(f"weights {path.name} (sha256 {fingerprint(path)})")
    else:
        parts.append(f"seed {seed}" if own else f"random weights (seed {seed})")
    if normalize is not None:
        parts.append(f"normalised {normalize}")
    return ", ".join(parts)


def _check_classes(num_classes: int | None) -> None:
    if num_classes is None:
        return
    try:
        valid = not isinstance(num_classes, bool) and operator.index(num_classes) >= 1
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(f"num_classes must be a whole number of at least 1, got {num_classes!r:.80}")


def _is_prefixed(spec: str) -> bool:
    return spec.startswith(("torchvision:", "timm:"))


def _builder(spec: str) -> Builder:
    if not isinstance(spec, str):
        raise TypeError(
            f"the model must be given as text, got {type(spec).__name__}; a module goes to audit() as it is"
        )
    if spec in _BUILT_IN:
        built_in = _BUILT_IN[spec]
        return lambda classes: built_in() if classes is None else built_in(classes)
    source, _, name = spec.partition(":")
    if _is_prefixed(spec):
        return _torchvision(name) if source == "torchvision" else _timm(name)
    if is_user_function(spec):
        return lambda classes: _user_model(spec, classes)
    if Path(spec).suffix in (".safetensors", ".pth", ".pt"):
        raise ValueError(f"{spec} is a file of weights: name its model, and give the file as weights (--weights)")
    hint = did_you_mean(spec, [*_BUILT_IN, "torchvision:", "timm:"])
    with contextlib.suppress(ModuleNotFoundError):
        zoo = import_package("torchvision.models", "a hint needs")
        hint = f"; did you mean torchvision:{spec}?" if spec in zoo.list_models(module=zoo) else hint
    raise ValueError(f"unknown model {spec!r}; choose one of {', '.join(model_names())}{hint}")


def _torchvision(name: str) -> Builder:
    zoo = import_package("torchvision.models", f"torchvision:{name} needs")
    known = zoo.list_models(module=zoo)  # classifiers; detectors would download a backbone
    if name.lower() not in known:
        hint = did_you_mean(name, known) or "; torchvision.models.list_models() lists them"
        raise ValueError(f"torchvision has no classifier {name!r}{hint}")
    return lambda classes: _built(
        lambda: zoo.get_model(name, weights=None, **_classes(classes)), f"torchvision:{name}", classes
    )


def _timm(name: str) -> Builder:
    timm = import_package("timm", f"timm:{name} needs")
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models()) or "; timm.list_models() lists them"
        raise ValueError(f"timm has no model {name!r}{hint}")
    return lambda classes: _built(
        lambda: timm.create_model(name, pretrained=False, **_classes(classes)), f"timm:{name}", classes
    )


def _classes(classes: int | None) -> dict[str, int]:
    return {} if classes is None else {"num_classes": classes}


def _built(construct: Callable[[], nn.Module], spec: str, classes: int | None) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of coming initialisations, which a user cannot mend
            return construct()
    except Exception as error:  # whatever another package's constructor raises
        asked = "" if classes is None else f" with {classes} classes"
        raise ValueError(f"{spec} cannot be built{asked}: {type(error).__name__}: {one_line(error)}") from error


def _user_model(spec: str, classes: int | None) -> nn.Module:
    model = call_user_function(spec, given=_classes(classes))
    if not isinstance(model, nn.Module):
        raise TypeError(f"{spec} returned an object of type {type(model).__name__}; it must return a torch.nn.Module")
    return model
