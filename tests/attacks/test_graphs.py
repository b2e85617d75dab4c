"""CUDA graphs: on a GPU themselves, elsewhere what attacks must keep to so that replaying is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast.attacks import APGD, APGDT, CW, MIFGSM, PGD
from neurosens_fast.attacks.engine import engine

from .networks import convolutional, images
from .test_engine import STEPS, change_weights, close, used


def test_a_graph_gives_the_results_of_the_model(device: str) -> None:
    model = convolutional(torch.float64).to(device)
    x, y = (tensor.to(device) for tensor in images(dtype=torch.float64))
    attack = PGD(model, **STEPS)
    for _ in range(2):
        close(attack, x, y)
        close(attack, x[:4], y[:4])
        change_weights(model)
    assert ("graph" in used(attack)) == (device == "cuda")
    settings: dict[str, Any] = {"eps": 0.3, "steps": 10, "seed": 1, "norm": "l2"}
    with_graph, without = (APGD(model, graph=graph, **settings)(x, y) for graph in (True, False))
    torch.testing.assert_close(with_graph, without, rtol=0, atol=1e-9)


class Replayed:
    """Stands for a CUDA graph: what it gives out is overwritten by the next call, on the tensors of the first one."""

    made = 0

    def __init__(self, compute: Any, x: Tensor, tensors: tuple[Tensor, ...]) -> None:
        Replayed.made += 1
        self.compute, self.x, self.tensors = compute, x.clone(), tuple(tensor.clone() for tensor in tensors)
        self.results = tuple(part.clone() for part in compute(self.x, self.tensors))

    def __call__(self, x: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.x.copy_(x)
        for own, tensor in zip(self.tensors, tensors, strict=True):
            own.copy_(tensor)
        for result, value in zip(self.results, self.compute(self.x, self.tensors), strict=True):
            result.copy_(value)
        return self.results


@pytest.mark.parametrize(
    "make",
    [
        lambda model, **options: PGD(model, 0.3, 0.05, 6, norm="l2", **options),
        lambda model, **options: PGD(model, 0.3, 0.05, 6, norm="l2", compaction=True, **options),
        lambda model, **options: MIFGSM(model, 0.05, 0.01, 6, **options),
        lambda model, **options: APGD(model, 0.3, 10, "l2", restarts=2, **options),
        lambda model, **options: APGDT(model, 0.05, 6, target_classes=3, compaction=True, **options),
        lambda model, **options: CW(model, 1.0, steps=30, lr=0.05, binary_search_steps=3, **options),
    ],
)
def test_attacks_keep_nothing_that_the_next_replay_overwrites(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = convolutional(torch.float64), images(24, torch.float64)
    expected = make(model, seed=1)(x, y)
    monkeypatch.setattr(engine, "EvaluationGraph", Replayed)
    monkeypatch.setattr(engine, "_MOST_GRAPHS", 2)
    choose = engine.Engine._choose_graph

    def force(self: engine.Engine, *arguments: Any) -> None:
        choose(self, *arguments)
        self._use_graph = True

    monkeypatch.setattr(engine.Engine, "_choose_graph", force)
    Replayed.made = 0
    attack = make(model, seed=1)
    torch.testing.assert_close(attack(x, y), expected, rtol=0, atol=1e-12)
    assert Replayed.made > 0
    assert attack._engine is not None
    assert len(attack._engine._graphs) <= 2


def test_a_model_that_cannot_be_captured_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    model, (x, y) = convolutional(torch.float64), images(dtype=torch.float64)
    monkeypatch.setattr(engine, "EvaluationGraph", fail)
    choose = engine.Engine._choose_graph

    def force(self: engine.Engine, *arguments: Any) -> None:
        choose(self, *arguments)
        self._use_graph = not self.switches["exact"]

    monkeypatch.setattr(engine.Engine, "_choose_graph", force)
    attack = PGD(model, **STEPS)
    close(attack, x, y)
    assert attack.explain().splitlines()[-1] == (
        "graph: no, the model cannot be captured (operation not permitted when stream is capturing)"
    )
