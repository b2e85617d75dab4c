"""The model of a run, where and in which dtype it computes, and what can be wrong with that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neurosens_fast.attacks import Attack, Worst
from neurosens_fast.capture import (
    Inputs,
    batch_length,
    devices_of,
    failing_layer,
    hookable,
    leaves,
    mapped,
    pair_inputs,
    read_flags,
)

from .batches import moved

AttackCallable = Callable[[Any, Tensor], Any]

_AUTOCAST = (torch.bfloat16, torch.float16)
_DTYPES = (torch.float32, torch.float64, *_AUTOCAST)


class Setting:
    """``model`` (of a compiled one, what was compiled), its ``device``, and the dtype of the measured forward.

    bfloat16 and float16 mean autocast, float32 and float64 that inputs are cast. Raises ``TypeError`` or
    ``ValueError`` with the mend for what is no model or attack, a model on several devices, a device that is not the
    model's, another dtype.
    """

    def __init__(
        self,
        model: nn.Module,
        attack: AttackCallable | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if attack is not None and not callable(attack):
            raise TypeError(f"attack must be a callable (x, y) -> x_adv, got {type(attack).__name__}")
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(str(kind) for kind in _DTYPES)}, got {dtype}")
        self.model = hookable(model)
        self.device = _place(self.model, device)
        self.dtype = dtype
        self.autocast = dtype if dtype in _AUTOCAST else None
        self.others: tuple[nn.Module, ...] = ()  # that run on the same inputs
        self.model_inputs: Callable[[Inputs], Inputs] = lambda inputs: inputs  # of a batch, what the model takes

    @property
    def on_cuda(self) -> bool:
        """Whether the model computes on a CUDA device."""
        return self.device is not None and self.device.type == "cuda"

    def batch(self, inputs: Inputs, labels: Tensor) -> tuple[Inputs, Tensor]:
        """The batch on the device, inputs cast; ``ValueError`` if there is not one label for each input."""
        pairs = batch_length(inputs)
        if labels.shape != (pairs,):
            raise ValueError(f"a batch has {pairs} inputs and labels of shape {list(labels.shape)}; labels must be [N]")
        cast = None if self.autocast is not None else self.dtype
        if labels.is_floating_point() and bool((labels != labels.round()).any()):
            raise ValueError("labels must be whole class numbers, got fractions among them")
        labels = labels.to(self.device or labels.device, torch.int64, non_blocking=self.on_cuda)
        return moved(inputs, self.device, cast), labels

    @contextmanager
    def explained(self, inputs: Inputs) -> Iterator[None]:
        """Turns an error of the model on such ``inputs`` into one sentence; an attack's own passes as it is."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            pairs = batch_length(inputs)
            raise MemoryError(f"out of memory with {pairs} pairs at once; give a smaller batch_size") from error
        except (RuntimeError, IndexError) as error:
            # With N and with 2N samples: a model may be made for one number of them.
            inputs = self.model_inputs(inputs)
            trials = (inputs, pair_inputs(inputs, inputs))
            runs = ((model, trial) for model in (self.model, *self.others) for trial in trials)
            layer = next(filter(None, (failing_layer(model, trial, self.autocast) for model, trial in runs)), None)
            if layer is None:
                raise
            shapes = ", ".join(f"{list(leaf.shape)} {str(leaf.dtype)[6:]} on {leaf.device}" for leaf in leaves(inputs))
            raise ValueError(
                f"the model fails on inputs {shapes} in layer {layer}; all samples must have the size, dtype and "
                "device that the model wants (model.double() for float64), and any number of them must do"
            ) from error

    def attacked(self, attack: AttackCallable, inputs: Inputs, labels: Tensor, first: int) -> Inputs:
        """What ``attack`` makes of copies of a batch, without gradients; ``TypeError`` if that is no such batch.

        ``first`` is the number of the batch's first sample within the data, which decides its random numbers.
        """
        copies = mapped(inputs, lambda leaf: leaf.detach().clone())
        if isinstance(attack, Attack | Worst) and isinstance(copies, Tensor):
            adversarial: Any = attack(copies, labels.clone(), torch.arange(first, first + len(labels)))
        else:
            adversarial = attack(copies, labels.clone())
        try:
            result = mapped(adversarial, Tensor.detach)
        except TypeError as error:
            got = type(adversarial).__name__
            raise TypeError(f"the attack returned a {got}; it must return inputs like those it got") from error
        shapes = [[list(leaf.shape) for leaf in leaves(given)] for given in (inputs, result)]
        if shapes[0] != shapes[1]:
            ours, theirs = (", ".join(map(str, side)) for side in shapes)
            raise ValueError(f"what the attack got and what it returned differ in shape: {ours} and {theirs}")
        return result

    def check_weights(self) -> None:
        """``ValueError`` if a weight is not finite. A buffer may hold -inf on purpose, as attention masks do."""
        names, finite = [], []
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if is_lazy(tensor):
                raise ValueError(f"the model's {name!r} is not initialised yet; run one forward of it first")
            if tensor.is_floating_point():
                names.append(name)
                values = tensor.detach()
                finite.append(values.isfinite().all() if isinstance(tensor, nn.Parameter) else ~values.isnan().any())
        broken = [name for name, flag in zip(names, read_flags(finite), strict=True) if not flag]
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise ValueError(
                f"the model's {broken[0]!r}{more} holds NaN or infinite values, so every activation after it would "
                "too; load weights of a training that did not diverge"
            )


def check_count(name: str, value: int | None) -> None:
    """``ValueError`` if ``value`` is neither None nor a whole number of at least 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_counts(**counts: int | None) -> None:
    """:func:`check_count` of each of ``counts``, which are called as the arguments they come from."""
    for name, value in counts.items():
        check_count(name, value)


def _place(model: nn.Module, device: torch.device | str | None) -> torch.device | None:
    places = devices_of(model)
    if len(places) > 1:
        raise ValueError(
            f"the model is spread over {', '.join(sorted(map(str, places)))}; it is measured on one device, so load it "
            "on one, or move it there with model.to(...)"
        )
    own = next(iter(places), None)
    if device is None:
        return own
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is none that torch knows; give 'cpu', 'cuda' or 'cuda:1'") from error
    if str(place) == "cuda" and own is not None and own.type == "cuda":
        place = own
    if own is not None and place != own:
        raise ValueError(
            f"device={str(place)!r} was asked for and the model is on {own}; move it: model.to({str(place)!r})"
        )
    return place
