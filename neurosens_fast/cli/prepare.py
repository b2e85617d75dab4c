"""From options to a model, data and an attack: what is cheap is checked first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from neurosens_fast.audit.tables import counted
from neurosens_fast.capture import plain_forward
from neurosens_fast.support.messages import one_line
from neurosens_fast.support.processes import local_device, process_count
from neurosens_fast.support.random_state import drawn
from neurosens_fast.support.userfile import is_user_function

from .attacks import build_attack, check_attack
from .errors import raised_here, users_frame
from .options import AttackOptions, DataOptions, DeviceOptions, ModelOptions, NetworkOptions, RunOptions


@dataclass
class Subject:
    """What a run works on, ready to use, and its descriptions for people and for the report."""

    model: nn.Module
    data: Any
    attack: Callable[[Any, Any], Any]
    device: torch.device
    dtype: torch.dtype
    model_description: str
    data_description: str
    attack_description: str

    def facts(self) -> list[tuple[str, str]]:
        """Labels and values to print before the work begins."""
        where = f"{self.device}, {str(self.dtype).removeprefix('torch.')}"
        if self.device.type == "cpu":
            where += f", {counted(torch.get_num_threads(), 'thread')}"
        if process_count() > 1:
            where += f", in each of {process_count()} processes"
        return [
            ("model", f"{self.model_description}; {parameters(self.model)}"),
            ("data", self.data_description),
            ("attack", self.attack_description),
            ("on", where),
        ]


def prepare(
    model: ModelOptions,
    data: DataOptions,
    attack: AttackOptions,
    computing: RunOptions,
    check: Callable[[nn.Module], object],
) -> Subject:
    """The subject of a run. ``check`` gets the model before any data are read, and may raise.

    Raises ``ValueError`` or ``TypeError`` with one sentence for whatever does not fit.
    """
    from neurosens_fast.data import load_data

    check_attack(attack)
    device = local_device(place(computing))
    network, description = load_network(model.model, model, computing.seed)
    check(network)
    source = load_data(data.data, train=data.split == "train", download=data.download)
    dataset, data_description = source.dataset, source.description
    if not is_user_function(data.data):  # map-style images; a person's own data may be anything
        if source.shape is not None:
            check_fit(network, source.shape, f"samples of {data.data}")
        dataset, data_description = _drawn(dataset, data_description, data.max_samples, computing.seed)
    network = (network.double() if computing.dtype == "float64" else network).to(device)
    callable_attack, attack_description = build_attack(attack, network, computing.seed)
    return Subject(
        network,
        dataset,
        callable_attack,
        device,
        getattr(torch, computing.dtype),
        description,
        data_description,
        attack_description,
    )


def _drawn(dataset: Any, description: str, count: int | None, seed: int) -> tuple[Any, str]:
    """``count`` samples drawn by ``seed``: the first ones of an image folder would all be of the first class."""
    total = len(dataset)
    if count is None or count >= total:
        return dataset, description
    return Subset(
        dataset, drawn(total, count, seed).tolist()
    ), f"{description}, {count:,} of {total:,} drawn by seed {seed}"


def load_network(spec: str, options: NetworkOptions, seed: int = 0) -> tuple[nn.Module, str]:
    """The model of ``spec`` in evaluation mode on the CPU, and its description."""
    from neurosens_fast.models import describe_model, load_model

    description = describe_model(  # first, as it finds missing files in no time
        spec, weights=options.weights, num_classes=options.num_classes, normalize=options.normalize, seed=seed
    )
    network = load_model(
        spec, weights=options.weights, num_classes=options.num_classes, normalize=options.normalize, seed=seed
    )
    return network, description


def check_fit(model: nn.Module, shape: tuple[int, ...], what: str) -> None:
    """``ValueError`` if ``model`` cannot run on random numbers of ``shape``; ``what`` says what they stand for."""
    sample = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    try:
        plain_forward(model, sample)
    except Exception as error:  # whatever a model raises
        if users_frame(error) is not None or raised_here(error):
            raise
        raise ValueError(f"{what}, shape {list(shape)}, do not fit the model: {one_line(error)}") from error


def parameters(model: nn.Module) -> str:
    """``57,594 parameters``."""
    return f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters"


def place(options: DeviceOptions) -> torch.device:
    """The device of the options, with the number of CPU threads set."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return chosen_device(options.device)


def chosen_device(name: str | None) -> torch.device:
    """The device called ``name``, or cuda where there is one. ``ValueError`` if torch does not have it."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name!r} is no device; write cpu, cuda or cuda:1") from error
    if device.type == "cpu":
        return torch.device("cpu")  # cpu:0 is no other place
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: torch sees no CUDA device here; leave --device out to use the CPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from cuda:0")
    try:
        torch.ones(1, device=device).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ValueError(f"--device {name!r} cannot be used here; write cpu, cuda or cuda:1") from error
    return device
