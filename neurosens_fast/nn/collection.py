"""What the forwards of a training step yielded, from the opening of its context to the loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from .attachment import Attachment
from .records import Collected, Mode, collect


class Collection:
    """Opens an attachment for forwards and holds what they yielded until its loss is taken."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._recorder = attachment.recorder
        self._collected: Collected | None = None
        self._taken = self._waiting = self._benign_gradients = False
        self.forget()

    def forget(self) -> None:
        """Forget what was measured: the rows are no longer the same."""
        self._sensitivity: dict[str, Tensor] = {}
        self._nonfinite: Tensor | None = None

    @contextmanager
    def open(self, mode: Mode) -> Iterator[None]:
        """Collect one forward of this mode."""
        recorder, attachment = self._recorder, self._attachment
        if recorder.mode is not None:
            raise RuntimeError(f"{mode}() was opened inside {recorder.mode}() of the same SNSLoss; leave that first")
        if not attachment.attached:
            raise RuntimeError("this SNSLoss was detached from its model; make a new one")
        attachment.check_present()
        if mode == "adversarial" and not self._waiting:
            raise RuntimeError("adversarial() needs a benign() before it, with a forward of the benign samples")
        if mode != "adversarial":
            attachment.clear()
        self._collected, self._taken, self._waiting = None, False, False
        attachment.begin()
        recorder.mode = mode
        if mode == "pairs":
            recorder.open_span()
        try:
            yield
            self._gather()
        except BaseException:
            attachment.clear()
            attachment.begin()
            self._collected, self._waiting = None, False
            raise
        finally:
            recorder.mode = None
            if mode == "pairs":
                recorder.close_span()

    def _gather(self) -> None:
        """Take over what the hooks noted in the forward under way."""
        recorder, rows = self._recorder, self._attachment.rows
        if recorder.mode == "benign":
            self._benign_gradients = recorder.gradients
            self._waiting = recorder.forwards > 0 or any(row.kept for row in rows)
            return
        if recorder.mode == "adversarial":
            if recorder.gradients and not self._benign_gradients and not recorder.detach_benign:
                raise RuntimeError(
                    "the benign forward ran without gradients, so none can reach it; set detach_benign=True or let it "
                    "run with gradients"
                )
            for row in rows:
                row.reduce_kept(recorder.norm, recorder.detach_benign)
        collected = collect(rows)
        if collected is None:
            return
        self._collected = collected
        parts = collected.sensitivity.split([row.channels for row in rows])
        self._sensitivity = {
            row.name: part for row, part, count in zip(rows, parts, collected.samples, strict=True) if count
        }
        wrong = ~collected.sensitivity.isfinite()
        self._nonfinite = wrong if self._nonfinite is None else wrong | self._nonfinite.to(wrong.device)

    def current(self) -> Collected:
        """What the last forward yielded.

        Raises ``RuntimeError`` where that is nothing, ``ValueError`` where a named layer never ran.
        """
        if self._recorder.mode is not None:
            self._gather()
        if self._collected is None:
            raise RuntimeError(self._why_nothing())
        silent = self._attachment.found.silent
        if silent:
            raise ValueError(f"layer {silent[0]!r} never ran in a paired forward; leave it out of layers")
        return self._collected

    def finish(self) -> None:
        """The loss was taken."""
        self._collected, self._taken = None, True

    def _why_nothing(self) -> str:
        recorder = self._recorder
        if self._taken:
            return "the loss of this forward was already taken; run the model inside pairs() again"
        if self._waiting:
            return "benign() is still without its adversarial(); run the adversarial samples before loss()"
        if recorder.ran_unprepared:
            return (
                "the channel axes were not known in that forward; call sns.prepare(x) before the first forward of a "
                "compiled model, or of one that is not called as a whole"
            )
        compiled = "; torch.compiler.reset() if the model was compiled and run before the SNSLoss was made"
        if recorder.forwards:
            return f"none of the chosen layers ran in that forward, choose others{compiled}"
        return f"there was no paired forward, call the model inside sns.pairs() before sns.loss(){compiled}"

    @property
    def sensitivity(self) -> dict[str, Tensor]:
        """Row -> sensitivity ``[C]`` in the last paired forward."""
        return dict(self._sensitivity)

    def nonfinite(self) -> dict[str, list[int]]:
        """Row -> neurons whose sensitivity was not finite since the last call; waits for the device."""
        if self._nonfinite is None:
            return {}
        rows = self._attachment.rows
        flags, self._nonfinite = self._nonfinite.cpu().split([row.channels for row in rows]), None
        found = {row.name: wrong.nonzero().flatten().tolist() for row, wrong in zip(rows, flags, strict=True)}
        return {name: neurons for name, neurons in found.items() if neurons}
