"""The pass of an audit in pure PyTorch, by hooks that store: the baseline of the benchmarks.

Written as a good user of PyTorch would: one forward for benign and adversarial inputs, inference mode, no copy that is
not needed, activations let go as soon as they are reduced. It holds every chosen activation at the end of the forward,
and reads each several times; that is what ``capture.Taps`` does without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .columns import MAXIMA, SUMS
from .reference import accumulate_pair_statistics_, neuron_sensitivity


@torch.inference_mode()
def audit_pass(
    model: nn.Module,
    benign: Tensor,
    adversarial: Tensor,
    layers: Sequence[str],
    channel_dims: Mapping[str, int] | None = None,
    overwritten: Collection[str] | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Totals ``(sums [C, 14], maxima [C, 3])``, float64, of every row.

    ``model``, in evaluation mode, runs on one batch of 2N, benign ``[N, ...]`` first; what the modules ``layers`` put
    out is kept until the end, then reduced and let go one by one. Rows are named per call: ``relu``, ``relu#2``.
    ``channel_dims`` maps rows to their channel axis, 1 by default. Rows ``overwritten`` are cloned (see
    :func:`overwritten_rows`); by default all of them if the model has an in-place module.
    """
    stored = _stored_outputs(model, torch.cat((benign, adversarial)), layers, overwritten)
    totals: dict[str, tuple[Tensor, Tensor]] = {}
    for row in list(stored):
        values, axis = stored.pop(row), (channel_dims or {}).get(row, 1)
        sums = torch.zeros(values.shape[axis], len(SUMS), dtype=torch.float64, device=values.device)
        maxima = torch.full((values.shape[axis], len(MAXIMA)), -torch.inf, dtype=torch.float64, device=values.device)
        accumulate_pair_statistics_(sums, maxima, values[: len(benign)], values[len(benign) :], axis)
        totals[row] = sums, maxima
    return totals


@torch.inference_mode()
def sensitivity_pass(
    model: nn.Module,
    benign: Tensor,
    adversarial: Tensor,
    layers: Sequence[str],
    channel_dims: Mapping[str, int] | None = None,
    overwritten: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """The sensitivity ``[C]`` of every row and nothing else, otherwise as :func:`audit_pass`."""
    stored = _stored_outputs(model, torch.cat((benign, adversarial)), layers, overwritten)
    found: dict[str, Tensor] = {}
    for row in list(stored):
        values, axis = stored.pop(row), (channel_dims or {}).get(row, 1)
        found[row] = neuron_sensitivity(values[: len(benign)], values[len(benign) :], channel_dim=axis)
    return found


def _stored_outputs(
    model: nn.Module, pair: Tensor, layers: Sequence[str], overwritten: Collection[str] | None
) -> dict[str, Tensor]:
    if overwritten is None:
        in_place = any(getattr(module, "inplace", False) for module in model.modules())
    stored: dict[str, Tensor] = {}

    def keep(row: str, output: Tensor) -> None:
        spoilt = in_place if overwritten is None else row in overwritten
        stored[row] = output.detach().clone() if spoilt else output.detach()

    with _hooked(model, layers, keep):
        model(pair)
    return stored


@torch.no_grad()
def overwritten_rows(model: nn.Module, inputs: Tensor, layers: Sequence[str]) -> set[str]:
    """Rows of :func:`audit_pass` whose output is changed in place later in the forward, found by one forward."""
    seen: dict[str, tuple[Tensor, int]] = {}
    with _hooked(model, layers, lambda row, output: seen.update({row: (output, output._version)})):
        model(inputs)
    return {row for row, (output, version) in seen.items() if output._version != version}


@contextmanager
def _hooked(model: nn.Module, layers: Sequence[str], keep: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Calls ``keep(row, output)`` for every output of ``layers`` in one forward."""
    calls: Counter[str] = Counter()

    def hook(name: str) -> Callable[..., None]:
        def seen(module: nn.Module, inputs: object, output: Tensor) -> None:
            calls[name] += 1
            keep(name if calls[name] == 1 else f"{name}#{calls[name]}", output)

        return seen

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
