"""``torch.compile`` of hooked and tapped models in one graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from neurosens_fast.nn import SNSLoss

from .networks import KINDS, Shared, batch, small
from .test_sns_loss import close, step

WAYS: dict[str, Callable[..., Any]] = {
    "torch.compile(model)": lambda model, **settings: torch.compile(model, **settings),
    "model.compile()": lambda model, **settings: model.compile(**settings) or model,
    "a function around it": lambda model, **settings: torch.compile(lambda x: model(x), **settings),
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def steps(run: Any, sns: SNSLoss, joint: bool = True) -> list[Any]:
    """Two training steps with a forward outside in between."""
    found = []
    for seed in range(2):
        found.append(step(run, sns, joint, seed))
        found.append(run(batch(seed=seed + 5)[0]).detach())
    return found


@pytest.mark.parametrize(
    ("kind", "joint"), [*((kind, True) for kind in KINDS), ("hook", False), ("TappedReLU, in place", False)]
)
def test_a_compiled_model_gives_the_same_step(kind: str, joint: bool) -> None:
    results = []
    for compiled in (False, True):
        model = small(kind)
        sns = SNSLoss(model, norm="l2")
        sns.prepare(batch()[0])
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        results.append(steps(run, sns, joint))
        assert len(sns.sensitivity) == 3
    close(results[0], results[1])


@pytest.mark.parametrize("way", WAYS)
def test_opening_pairs_costs_one_graph(way: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    model = Shared().double()
    sns = SNSLoss(model, k=2)
    x = torch.randn(6, 4, dtype=torch.float64)
    sns.prepare(x)
    run = WAYS[way](model, fullgraph=True, backend=counter)
    for _ in range(3):
        run(x)
        with sns.pairs():
            run(x)
        sns.loss().backward()
        assert len(sns.sensitivity) == 2
    assert counter.frame_count == 2


def test_a_compiled_part_of_a_model_prepares_itself() -> None:
    results = []
    for compiled in (False, True):
        model = small("TappedReLU")
        if compiled:
            for name in ("bn1", "act1", "conv2"):
                model.get_submodule(name).compile(fullgraph=True, backend="aot_eager")
            model.act2 = torch.compile(model.act2, fullgraph=True, backend="aot_eager")  # type: ignore[assignment]
        sns = SNSLoss(model, ["act1", "act2._orig_mod" if compiled else "act2", "act3"])
        results.append(steps(model, sns))
    close(results[0], results[1])


def test_batches_of_several_sizes() -> None:
    model = small("TappedReLU")
    sns = SNSLoss(model)
    sns.prepare(batch()[0])
    run = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for samples in (5, 3, 4):
        x, x_adv, _ = batch(samples)
        losses = []
        for call in (run, model):
            with sns.pairs():
                call(torch.cat((x, x_adv)))
            assert sns._collection.current().samples == (samples,) * 3
            losses.append(sns.loss())
        close(losses[0], losses[1])


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
def test_a_layer_before_an_in_place_module(joint: bool) -> None:
    model = small("hook, in place")
    sns = SNSLoss(model, ["bn1"])
    sns.prepare(batch()[0])
    compiled = step(torch.compile(model, fullgraph=True, backend="aot_eager"), sns, joint)
    other = small()
    close(compiled, step(other, SNSLoss(other, ["bn1"]), joint))


def test_the_loss_can_be_made_from_the_compiled_model() -> None:
    model = small()
    run: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    sns = SNSLoss(run)
    assert sns.layers == ["act1", "act2", "act3"]
    with sns.pairs():
        run(batch()[0][:4])
    with pytest.raises(RuntimeError, match=r"channel axes were not known .* call sns.prepare\(x\) before the first"):
        sns.loss()
    sns.prepare(batch()[0])
    with sns.pairs():
        run(batch()[0][:4])
    assert sns.loss() > 0


def test_a_model_compiled_and_run_before_is_named() -> None:
    model = small()
    run = torch.compile(model, fullgraph=True, backend="aot_eager")
    x: Tensor = batch()[0][:4]
    run(x)
    sns = SNSLoss(model)
    sns.prepare(x)
    with sns.pairs():
        run(x)
    with pytest.raises(RuntimeError, match=r"none of the chosen layers ran .* torch.compiler.reset\(\) if the"):
        sns.loss()
    torch.compiler.reset()
    with sns.pairs():
        run(x)
    assert sns.loss() > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_inductor_gives_the_same_step(kind: str) -> None:
    results = []
    for compiled in (False, True):
        model = small(kind)
        sns = SNSLoss(model)
        sns.prepare(batch()[0])
        run = torch.compile(model, fullgraph=True) if compiled else model
        results.append(steps(run, sns))
    close(results[0], results[1])
