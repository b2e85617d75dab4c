"""Attacks through a single neuron."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from neurosens_fast.capture import main_tensor, select_layers

from .arguments import check_count
from .losses import widened


class NeuronLoss:
    """The mean activation of one neuron, as a loss; made by :func:`neuron_loss`.

    The layer's output is read by a hook that lives only while an attack runs.
    """

    def __init__(self, layer: str, neuron: int, channel_dim: int, sign: float) -> None:
        self.layer, self.neuron, self.channel_dim, self.sign = layer, neuron, channel_dim, sign
        self._activation: Tensor | None = None

    def __repr__(self) -> str:
        axis = "" if self.channel_dim == 1 else f", channel_dim={self.channel_dim}"
        sign = "" if self.sign == 1 else f", sign={self.sign:g}"
        return f"neuron_loss({self.layer!r}, {self.neuron}{axis}{sign})"

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Reads the layer of ``model`` inside; ``ValueError`` if it has no such layer."""
        chosen = select_layers(model, [self.layer]).modules
        if len(chosen) != 1:
            raise ValueError(f"{self.layer!r} chooses {len(chosen)} layers; name the one of the neuron")
        (module,) = chosen.values()
        handle = module.register_forward_hook(self._read)
        try:
            yield
        finally:
            handle.remove()
            self._activation = None

    def _read(self, module: nn.Module, inputs: Any, output: Any) -> None:
        activation = main_tensor(output)
        if not isinstance(activation, Tensor) or activation.dim() < 2:
            raise ValueError(f"layer {self.layer!r} puts out no activation [N, C, ...]; choose another layer")
        self._activation = activation

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The neuron's mean activation per sample, ``[N]``; ``ValueError`` if there is no such neuron."""
        if self._activation is None:
            raise ValueError(f"layer {self.layer!r} did not run in the model's forward; choose another layer")
        activation = self._activation
        if not -activation.dim() <= self.channel_dim < activation.dim():
            raise ValueError(
                f"channel_dim is {self.channel_dim}, layer {self.layer!r} puts out {activation.dim()} axes"
            )
        count = activation.shape[self.channel_dim]
        if self.neuron >= count:
            raise ValueError(f"layer {self.layer!r} has {count} neurons, got neuron {self.neuron}")
        values: Tensor = (
            activation.select(self.channel_dim, self.neuron).flatten(1)
            if activation.dim() > 2
            else (activation.select(self.channel_dim, self.neuron)[:, None])
        )
        return self.sign * widened(values).mean(1)


def neuron_loss(layer: str, neuron: int, channel_dim: int = 1, sign: float = 1.0) -> NeuronLoss:
    """A loss that drives one neuron up (down with ``sign=-1``): the attack goes through that neuron alone.

    ``layer`` is a dotted module name, ``neuron`` the channel, ``channel_dim`` its axis (-1 for tokens ``[N, L, C]``).
    The loss of a sample is the neuron's mean over positions. For ``PGD(model, loss=neuron_loss("relu2", 5))``.

    Raises ``TypeError`` or ``ValueError`` for a neuron that is no whole number of at least 0. A layer that is not
    there, or has fewer neurons, is refused when the attack runs.
    """
    return NeuronLoss(layer, check_count("neuron", neuron), channel_dim, float(sign))
