"""A case: both sides agree, then they are timed in turn."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from neurosens_fast.benchmarking import timing
from neurosens_fast.benchmarking.contest import NOT_INSTALLED, Contest, Recorder, agreement
from neurosens_fast.benchmarking.inputs import copies, rotating
from neurosens_fast.benchmarking.results import Row
from neurosens_fast.benchmarking.timing import ratio


class Pedantic:
    """What pytest-benchmark does with a case."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, function: Any, args: tuple[Any, ...], setup: Any, rounds: int, iterations: int) -> None:
        for _ in range(rounds):
            setup()
            function(*args)


@pytest.fixture
def contest() -> Contest:
    return Contest(Recorder(quick=False), Pedantic(), "cpu")


def test_sides_run_in_turn_and_the_quotient_is_theirs(contest: Contest) -> None:
    order = []

    def side(name: str, seconds: float) -> Any:
        def run() -> None:
            order.append(name)
            time.sleep(seconds)

        return run

    row = contest(
        "Sleeping",
        {"n": 1},
        side("ours", 0.002),
        rivals={"eager": side("eager", 0.008), "peer": NOT_INSTALLED},
        floors={"floor": side("floor", 0.001)},
        agreed="same",
        seconds=0.1,
    )
    rounds = [order[place : place + 3] for place in range(len(order) - 6, len(order), 3)]
    assert sorted(rounds) == [["eager", "floor", "ours"], ["floor", "eager", "ours"]]
    assert (row.rivals, row.floors, row.missing) == (("eager",), ("floor",), {"peer": NOT_INSTALLED})
    assert {len(times) for times in row.seconds.values()} == {len(row.seconds["ours"])}
    assert len(row.seconds["ours"]) >= 5
    assert row.gain("eager").median > 1  # a sleep is never shorter than asked for, by a factor of four here
    assert row.labels == {"n": "1"}


def test_two_cases_of_one_name_are_refused(contest: Contest) -> None:
    contest("A", {"n": 1}, lambda: None, agreed="same", seconds=0.01)
    with pytest.raises(ValueError, match="two cases are called"):
        contest("A", {"n": 1}, lambda: None, agreed="same", seconds=0.01)
    contest("A", {"n": 2}, lambda: None, agreed="same", seconds=0.01)


def test_times_are_those_of_the_whole_work(contest: Contest) -> None:
    def run(title: str, **options: Any) -> Row:
        def sleep() -> None:
            time.sleep(0.001)

        return contest(title, {}, sleep, rivals={"eager": sleep}, agreed="same", seconds=0.01, **options)

    whole, part = run("Whole"), run("Part", shares={"ours": 0.01})
    assert part.median() > 10 * whole.median()
    assert part.gain("eager").median < 0.1 * whole.gain("eager").median


def test_peaks_are_taken_and_facts_may_look_at_the_row(contest: Contest) -> None:
    row = contest(
        "Memory",
        {},
        lambda: torch.ones(1_000_000).sum(),
        rivals={"two": lambda: (torch.ones(1_000_000) + 1).sum()},
        agreed="same",
        memory=("ours", "two"),
        facts=lambda row: {"rounds": str(len(row.seconds["ours"]))},
        seconds=0.01,
    )
    assert 4_000_000 <= row.peak["ours"] < 4_100_000
    assert 8_000_000 <= row.peak["two"] < 8_100_000
    assert row.facts == {"rounds": str(len(row.seconds["ours"]))}


def test_agreement_is_relative_to_the_largest_value_of_each_tensor() -> None:
    wanted = [torch.tensor([100.0, 1.0]), torch.zeros(2)]
    assert agreement(wanted, wanted, rtol=0.0) == "same"
    assert agreement([torch.tensor([100.0, 1.001]), torch.zeros(2)], wanted, rtol=1e-4) == "to 1e-05"
    with pytest.raises(AssertionError, match="apart"):
        agreement([torch.tensor([100.0, 1.1]), torch.zeros(2)], wanted, rtol=1e-4)
    with pytest.raises(AssertionError, match="apart"):
        agreement([wanted[0], torch.tensor([0.0, 1e-9])], wanted, rtol=1e-4)


@pytest.mark.parametrize("bad", [torch.tensor([torch.nan, 1.0]), torch.tensor([[100.0, 1.0]])])
def test_agreement_fails_for_nan_and_for_another_shape(bad: torch.Tensor) -> None:
    with pytest.raises(AssertionError):
        agreement([bad], [torch.tensor([100.0, 1.0])], rtol=1e-2)


def test_agreement_fails_for_a_missing_tensor() -> None:
    with pytest.raises(ValueError, match="zip"):
        agreement([], [torch.ones(1)], rtol=1.0)


def test_quotients_are_of_the_same_round() -> None:
    found = ratio([2.0, 40.0, 6.0], [1.0, 20.0, 2.0])
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.5)
    assert ratio([3.0], [2.0]).median == 1.5


@pytest.mark.parametrize(("seconds", "calls"), [(2.0, 1), (1e-3, 1), (1e-4, 2), (1.1e-5, 19), (0.0, 1000)])
def test_a_short_function_is_called_often_enough_for_the_clock(
    seconds: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Mock(return_value=seconds)
    monkeypatch.setattr(timing, "timed", clock)
    assert timing.warm_up(lambda: None, "cpu") == (seconds, calls)
    assert clock.call_count == (1 if seconds > 1 else 2)


def test_inputs_of_the_cpu_are_the_tensors_themselves_and_turns_go_round() -> None:
    tensors = torch.ones(2, requires_grad=True), torch.zeros(2)
    (only,) = copies(tensors, "cpu")
    assert only[0] is tensors[0]
    turn = rotating(lambda number: number, [(1,), (2,)])
    assert [turn() for _ in range(5)] == [1, 2, 1, 2, 1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_of_a_gpu_fill_its_cache_several_times() -> None:
    tensors = (torch.ones(1024, 256, device="cuda", requires_grad=True).mT,)
    inputs = copies(tensors, "cuda")
    cache = torch.cuda.get_device_properties("cuda").L2_cache_size
    assert sum(pair[0].nbytes for pair in inputs) > 2 * cache
    assert all(pair[0].stride() == tensors[0].stride() and pair[0].requires_grad for pair in inputs)
