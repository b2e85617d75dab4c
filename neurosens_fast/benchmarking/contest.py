"""One case of a benchmark: both sides agree first, then they are timed in turn, and a row is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .memory import peak_bytes
from .results import OURS, Axis, Row
from .roof import Roof, Work, measure_roof
from .timing import run_interleaved

NOT_RUN = "not run"
COMPILED = "torch.compile"
"""How a compiled rival is called."""
NOT_INSTALLED = "not installed"

Side = Callable[[], Any]
Facts = Mapping[str, str]


def agreement(found: Iterable[Tensor], wanted: Iterable[Tensor], rtol: float, atol: float = 0.0) -> str:
    """Assert that tensors are close, and say how far apart they are at most.

    ``rtol`` and what is returned are relative to the largest absolute value of each wanted tensor.
    """
    worst = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape, f"{tuple(ours.shape)} instead of {tuple(theirs.shape)}"
        ours, theirs = ours.double(), theirs.double()
        scale = float(theirs.abs().max()) if theirs.numel() else 0.0
        apart = float((ours - theirs).abs().max()) if theirs.numel() else 0.0
        assert apart <= rtol * scale + atol, f"{apart:.3g} apart, where {rtol:.3g} of {scale:.3g} is allowed"
        worst = max(worst, apart / scale if scale else 0.0)
    return "same" if worst == 0 else f"to {worst:.0e}"


@dataclass
class Recorder:
    """The rows of a run, and the roof of every device that a case ran on."""

    quick: bool
    rows: list[Row] = field(default_factory=list)
    roofs: dict[str, Roof] = field(default_factory=dict)

    def measure(self, device: str) -> None:
        """Measure the roof of a device, the first time that it is used."""
        if device not in self.roofs:
            self.roofs[device] = measure_roof(device, self.quick)

    def add(self, row: Row) -> Row:
        """Keep a row. Raises ``ValueError`` where another has its title, labels and device."""
        if any(row.key == other.key for other in self.rows):
            raise ValueError(f"two cases are called {row.key}")
        self.rows.append(row)
        return row


@dataclass(frozen=True)
class Contest:
    """Runs one case; what the fixture ``contest`` gives a benchmark."""

    recorder: Recorder
    benchmark: Any
    device: str

    @property
    def quick(self) -> bool:
        """Whether the run is for correctness alone, so that sizes may be small."""
        return self.recorder.quick

    def __call__(
        self,
        title: str,
        labels: Mapping[str, object],
        ours: Side,
        *,
        agreed: str,
        rivals: Mapping[str, Side | str] | None = None,
        floors: Mapping[str, Side] | None = None,
        work: Work | None = None,
        memory: Iterable[str] = (),
        axis: Axis | None = None,
        facts: Facts | Callable[[Row], Facts] | None = None,
        shares: Mapping[str, float] | None = None,
        seconds: float = 4.0,
    ) -> Row:
        """Time ours and all others for about ``seconds``, and keep the row.

        ``agreed`` is what :func:`agreement`, or an own comparison of both sides before, returned. ``rivals`` do the
        same job in another way, ``floors`` less than it; a rival may be a word that says why it does not run. ``work``
        is the least that the case must move and calculate, for the roof. ``memory`` names the sides whose peak is
        taken. ``axis`` is the case's place on a scaling curve. ``facts`` are further columns, or a function of the row
        that gives them. ``shares``: which share of the case's work a call of a side does, where not all of it; its
        times are brought to the whole.
        """
        rivals, floors = dict(rivals or {}), dict(floors or {})
        missing = {name: side for name, side in rivals.items() if isinstance(side, str)}
        racing = {name: side for name, side in rivals.items() if not isinstance(side, str)}
        sides: dict[str, Side] = {OURS: ours, **racing, **floors}
        if COMPILED in racing:
            racing[COMPILED]()  # compiles; what that takes says nothing of a call
        times = run_interleaved(self.benchmark, sides, self.device, seconds, self.quick)
        for name, share in (shares or {}).items():
            times[name] = [taken / share for taken in times[name]]
        peak = {name: peak_bytes(sides[name], self.device) for name in memory if name in sides}
        texts = {name: str(value) for name, value in labels.items()}
        row = Row(
            title, texts, self.device, times, agreed, tuple(racing), tuple(floors), missing, work, peak, axis=axis
        )
        if callable(facts):
            facts = facts(row)
        row.facts.update(facts or {})
        self.benchmark.extra_info.update(title=title, **texts)
        return self.recorder.add(row)


def compiled(function: Callable[..., Any], *, run: bool) -> Callable[..., Any] | None:
    """``torch.compile`` of a reference, from nothing, or None where it is not to run: compiling takes long."""
    if not run:
        return None
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)
