"""Taps on a private copy of the model, where a tapped ReLU writes its output and adds it to the totals in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.capture import (
    Inputs,
    OutputHooks,
    TapRow,
    Taps,
    batch_length,
    evaluation_mode,
    few_pairs,
    logits_of,
    main_tensor,
    pair_inputs,
    paired_forward,
    plain_forward,
    read_flags,
)
from neurosens_fast.capture.selection import row_of
from neurosens_fast.columns import SUMS
from neurosens_fast.support.messages import one_line

from .observers import Observer, Place, fuse_relus
from .private_copy import PrivateCopy
from .shadow import fingerprint
from .trace import NotTraced, Observe, is_special
from .trial import TRIAL_SAMPLES, agreement, suits_channels_last, tolerance

_CHANGED = "the model changed while it was measured"


class FusedTaps:
    """Runs pairs for ``taps`` and fills its rows, on a private copy of the model that is cheaper to run and to tap.

    In the copy batch norm is folded into the layer before it (:class:`PrivateCopy`), images and 2-D convolutions
    lie in channels_last memory as in attacks, convolutions run by Winograd's algorithm as there but with tiles of 2x2,
    which round no more than PyTorch's do, and each tapped ``nn.ReLU`` that may overwrite its input is one operator
    that also adds its output to the totals. All other taps read what their layer puts out, as :class:`Taps` does; a
    layer that is tapped itself is not folded. ``folded`` counts the norms that are gone.

    The copy is tried on a few of ``inputs`` ``[N, ...]`` first: output and every row must agree with those of the model
    (a choice of this package). Where there is no such copy, or it has nothing to gain, ``reason`` says why, and plain
    taps on the model do the work. Construction never raises for what the model or a layer does.

    ``inputs`` and later batches are on the model's device; ``autocast`` is that of ``plain_forward``. Use it as a
    context manager or call :meth:`close`, so that the copy's memory is freed at once.
    """

    def __init__(self, taps: Taps, inputs: Inputs, autocast: torch.dtype | None = None) -> None:
        self.taps = taps
        self._fused: list[str] = []
        self.folded = 0
        self.channels_last = False
        self.reason = ""
        self._autocast = autocast
        self._private: PrivateCopy | None = None
        self._print: tuple[Any, ...] = ()
        self._versions: tuple[Any, ...] = ()
        self._kind = _kind(inputs)
        try:
            with evaluation_mode(taps.model):
                self._prepare(inputs)
        except NotTraced as reason:
            self._give_up(str(reason))
        except torch.OutOfMemoryError:
            self._give_up("there is no memory for a copy of the weights")

    @property
    def fused(self) -> tuple[str, ...]:
        """The rows of the ReLUs that one operator computes and measures."""
        return tuple(row for row in self._fused if row not in self.taps.skipped)

    @property
    def rows(self) -> dict[str, TapRow]:
        """The rows of the taps."""
        return self.taps.rows

    @property
    def pairs(self) -> int | None:
        """The N that every tapped output must have; :meth:`forward` sets it."""
        return self.taps.pairs

    @pairs.setter
    def pairs(self, pairs: int | None) -> None:
        self.taps.pairs = pairs

    def forward(self, benign: Inputs, adversarial: Inputs) -> Any:
        """The model's output for ``[benign, adversarial]`` as one batch of 2N, which is added to the rows.

        Raises what :func:`paired_forward` inside of :class:`Taps` raises.
        """
        self.pairs = batch_length(benign)
        model, private = self.taps.model, self._current()
        if private is None or _kind(benign) != self._kind:
            with self.taps:
                return paired_forward(model, benign, adversarial, self._autocast)
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return plain_forward(model, pair_inputs(benign, adversarial, layout), self._autocast, private.run)

    def close(self) -> None:
        """Free the copy. What it was stays on record; later forwards use plain taps."""
        if self._private is not None:
            self._private.clear()
        self._private, self._print, self._versions = None, (), ()

    def __enter__(self) -> FusedTaps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the copy -----------------------------------------------------------------------------------------

    def _give_up(self, reason: str) -> None:
        self.close()
        self._fused, self.folded, self.channels_last, self.reason = [], 0, False, reason

    def _current(self) -> PrivateCopy | None:
        """The copy with the model's present weights; None where the model is no longer what was traced."""
        if self._private is None:
            return None
        if fingerprint(self.taps.model, is_special) != self._print:
            self._give_up(_CHANGED)
        elif (versions := _versions(self.taps.model)) != self._versions:  # an attack may move running statistics
            self._private.refresh()
            self._versions = versions
        return self._private

    def _prepare(self, inputs: Inputs) -> None:
        few, other = few_pairs(inputs, TRIAL_SAMPLES)
        if not isinstance(few, Tensor) or not isinstance(other, Tensor) or not few.is_floating_point():
            raise NotTraced("the model takes something else than one tensor of numbers")
        places: dict[str, Place] = {}
        plain = self.taps.fresh()
        plain.pairs = len(few)

        def visit(row: str, name: str, module: nn.Module, output: Any, axis: int | None) -> None:
            places[row] = Place(row, name, module, axis)
            plain.reduce(row, name, module, output, axis)

        with OutputHooks(self.taps.model, self.taps.selection, visit, self.taps.channel_dims):
            theirs = _tried(
                "the model or a tap fails", lambda: paired_forward(self.taps.model, few, other, self._autocast)
            )
        for channels_last in (True, False) if suits_channels_last(few) else (False,):
            try:
                return self._build(places, plain, (few, other), theirs, channels_last)
            except NotTraced:
                if not channels_last or self._private is None:
                    raise
                self.close()  # a forward with a view() may want contiguous memory

    def _build(
        self, places: dict[str, Place], plain: Taps, pair: tuple[Tensor, Tensor], theirs: Any, channels_last: bool
    ) -> None:
        model, trial = self.taps.model, self.taps.fresh()
        trial.pairs = plain.pairs
        observers, observe = self._observers(places, trial)
        lowered = None if pair[0].dtype == torch.float64 else self._autocast  # autocast leaves float64 alone
        self._private = private = PrivateCopy(model, True, channels_last, lowered, observe, 2, fast_linear=True)
        if list(observers) != list(places):
            missing = [row for row in (*places, *observers) if (row in places) != (row in observers)]
            raise NotTraced(f"layer {(missing or list(places))[0]!r} does not run in the trace as in the model")
        self._fused, self.folded = fuse_relus(private.module, plain.rows), private.folded
        self.channels_last = private.channels_last
        if not (self._fused or self.folded or self.channels_last):
            raise NotTraced("there is no batch norm to fold, no tapped nn.ReLU and no 2-D convolution on images")
        private.refresh()
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        joined = pair_inputs(*pair, layout)

        def run() -> Any:
            with private.checked():
                return plain_forward(model, joined, self._autocast, private.run)

        ours = _tried("the traced copy fails", run)
        self._compare(ours, theirs, trial, plain)
        for observer in observers.values():
            observer.taps = self.taps
        self._print, self._versions = fingerprint(model, is_special), _versions(model)

    def _observers(self, places: dict[str, Place], taps: Taps) -> tuple[dict[str, Observer], Observe]:
        """Observers by row, filled by the function, which is to be asked during one trace."""
        selection = self.taps.selection
        chosen = {id(module): name for name, module in selection.modules.items()}
        modules = dict(self.taps.model.named_modules(remove_duplicate=False))
        calls: Counter[str] = Counter()
        found: dict[str, Observer] = {}

        def observe(path: str) -> Observer | None:
            name = chosen.get(id(modules[path]))
            if name is None:
                return None
            calls[name] += 1
            if not selection.wants(name, calls[name]):
                return None
            row = row_of(name, calls[name])
            found[row] = Observer(places.get(row, Place(row, name, modules[path], None)), taps)
            return found[row]

        return found, observe

    def _compare(self, ours: Any, theirs: Any, trial: Taps, plain: Taps) -> None:
        """Output and every row of the copy against those of the model; waits for the device once."""
        mine, models = (_numbers(output, 2 * (plain.pairs or 0)) for output in (ours, theirs))
        dtypes = (models.dtype, self._autocast or models.dtype)
        allowed = max(tolerance(dtype) for dtype in dtypes)
        if mine.shape != models.shape:
            raise NotTraced("the traced copy gives an output of another shape")
        pairs = [(mine, models)] if models.numel() else []
        described = [
            [(row, seen.channel_dim, seen.shape) for row, seen in taps.rows.items()] for taps in (trial, plain)
        ]
        if described[0] != described[1] or trial.skipped.keys() != plain.skipped.keys():
            raise NotTraced("tapped layers put out other shapes in the traced copy")
        pairs += [
            (_summary(trial.rows[row]), _summary(seen)) for row, seen in plain.rows.items() if seen.statistics.neurons
        ]
        if not all(read_flags([agreement(*pair, allowed) for pair in pairs])):
            raise NotTraced("the traced copy gives other values: the forward depends on its input, or is random")


def _tried(what: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except NotTraced:
        raise
    except Exception as error:  # whatever a model raises
        raise NotTraced(f"{what} ({one_line(error, 90)})") from error


def _numbers(output: Any, samples: int) -> Tensor:
    """What of a model's output is compared: the logits, or its main tensor, or nothing."""
    logits = logits_of(output, samples)
    found = main_tensor(output) if logits is None else logits
    return found if isinstance(found, Tensor) and found.is_floating_point() else torch.empty(0)


def _summary(row: TapRow) -> Tensor:
    """Means and maxima of both branches, ``[C, 5]``: what a layer that puts out something else would change."""
    means = [SUMS.index(name) for name in ("benign_mean", "adversarial_mean")]
    return torch.cat((row.statistics.sums[:, means] / row.statistics.samples, row.statistics.maxima), 1)


def _kind(inputs: Inputs) -> tuple[Any, ...] | None:
    """What a copy depends on: of other inputs it would have to be made anew."""
    return (inputs.dim(), inputs.dtype, inputs.device) if isinstance(inputs, Tensor) else None


def _versions(model: nn.Module) -> tuple[Any, ...]:
    """Equal while no tensor of ``model`` was written to; batch norm in training mode counts its batches in one."""
    return tuple(
        None if tensor.is_inference() else tensor._version for tensor in (*model.parameters(), *model.buffers())
    )
