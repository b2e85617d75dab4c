"""The torchmetrics metric against the package's own totals, in every way in which torchmetrics drives a metric."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
import torchmetrics
from torch import Tensor, nn

from neurosens_fast.adapters.torchmetrics import NeuronSensitivity
from neurosens_fast.statistics import METRICS, PairStatistics
from tests.processes import run_processes

NEURONS = 5
Pair = tuple[Tensor, Tensor]


def batches(lengths: tuple[int, ...] = (3, 1, 0, 6), device: str = "cpu") -> list[Pair]:
    """Pairs ``[N, 5, 2, 2]``, the same for the same lengths."""
    numbers = torch.Generator().manual_seed(0)
    pairs = [torch.randn(2, length, NEURONS, 2, 2, generator=numbers).relu().to(device) for length in lengths]
    return [(pair[0], pair[1]) for pair in pairs]


def expected(pairs: list[Pair]) -> PairStatistics:
    totals = PairStatistics(NEURONS, pairs[0][0].device)
    for pair in pairs:
        totals.update(*pair)
    return totals


def check(metric: NeuronSensitivity, totals: PairStatistics) -> None:
    """All metrics of ``metric`` (made for all of them) equal those of ``totals``."""
    values = metric.compute()
    assert isinstance(values, dict)
    assert list(values) == list(METRICS)
    for name in METRICS:
        assert values[name].dtype == torch.float64
        torch.testing.assert_close(values[name], totals.metric(name), rtol=1e-13, atol=1e-14)


def every_metric() -> NeuronSensitivity:
    return NeuronSensitivity(NEURONS, list(METRICS))


def test_equals_the_totals_over_uneven_batches(device: str) -> None:
    metric = every_metric().to(device)
    pairs = batches(device=device)
    for pair in pairs:
        metric.update(*pair)
    check(metric, expected(pairs))
    one = NeuronSensitivity(NEURONS, "relative_l2").to(device)
    for pair in pairs:
        one.update(*pair)
    torch.testing.assert_close(one.compute(), expected(pairs).metric("relative_l2"), rtol=1e-13, atol=0)


def test_channel_axis() -> None:
    pair = batches((4,))[0]
    metric = NeuronSensitivity(NEURONS, channel_dim=-1)
    metric.update(*(half.movedim(1, -1).contiguous() for half in pair))
    torch.testing.assert_close(metric.compute(), expected([pair]).metric("sensitivity"))


def test_forward_gives_the_batch_and_adds_it() -> None:
    pairs = batches((3, 4))
    metric = every_metric()
    for pair in pairs:
        values = metric(*pair)
        torch.testing.assert_close(values["peak_change"], expected([pair]).metric("peak_change"))
        torch.testing.assert_close(values["sensitivity"], expected([pair]).metric("sensitivity"))
    check(metric, expected(pairs))


def test_reset_and_nothing_seen() -> None:
    metric = every_metric()
    metric.update(*batches((2,))[0])
    metric.reset()
    assert int(metric.samples) == 0
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        values = metric.compute()
    assert isinstance(values, dict)
    assert all(bool(value.isnan().all()) for value in values.values())
    pairs = batches((6,))
    metric.update(*pairs[0])
    check(metric, expected(pairs))


def test_merge_pickle_and_state_dict() -> None:
    pairs = batches((3, 4))
    first, second = every_metric(), every_metric()
    first.update(*pairs[0])
    second.update(*pairs[1])
    copy = pickle.loads(pickle.dumps(first))
    first.merge_state(second)
    check(first, expected(pairs))
    copy.update(*pairs[1])
    check(copy, expected(pairs))

    assert not second.state_dict(), "torchmetrics keeps states out of checkpoints unless asked"
    second.persistent(True)
    saved = second.state_dict()
    values = {name: state.clone() for name, state in saved.items()}
    assert values.keys() == {"sums", "maxima", "samples"}
    restored = every_metric()
    restored.load_state_dict(saved)
    restored.update(*pairs[0])
    check(restored, expected(pairs))
    assert all(torch.equal(saved[name], value) for name, value in values.items()), "a loaded dict is only read"


@pytest.mark.parametrize(
    "convert",
    [
        lambda module: module.half(),
        lambda module: module.to(torch.bfloat16),
        lambda module: module[0].set_dtype(torch.float16),
    ],
    ids=["half", "to", "set_dtype"],
)
def test_totals_stay_float64(convert: object) -> None:
    pairs = batches((3, 4))
    metric = every_metric()
    module = nn.ModuleList([metric, nn.Linear(2, 2)])
    metric.update(*pairs[0])
    assert callable(convert)
    convert(module)
    metric.update(*pairs[1])
    assert {metric.sums.dtype, metric.maxima.dtype} == {torch.float64}
    check(metric, expected(pairs))
    metric.reset()
    metric.update(*pairs[1])
    check(metric, expected(pairs[1:]))


def test_other_devices_take_the_states_along() -> None:
    metric = every_metric().to("meta", torch.float16)
    assert (metric.sums.device.type, metric.sums.dtype) == ("meta", torch.float64)
    assert metric.samples.dtype == torch.int64


def test_inference_mode_and_back() -> None:
    """Lightning validates in inference mode, where a reset makes states that nothing may change outside."""
    pairs = batches((3, 4, 2))
    metric = every_metric()
    with torch.inference_mode():
        metric.update(*pairs[0])
        metric.reset()
        metric.update(*pairs[0])
        metric(*pairs[1])
    metric.update(*pairs[2])
    check(metric, expected(pairs))


def test_collection_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics of the same pairs share their states, so all but the first batch are read once."""
    reads: list[int] = []
    plain = PairStatistics.update

    def update(self: PairStatistics, benign: Tensor, adversarial: Tensor, channel_dim: int) -> None:
        reads.append(len(benign))
        plain(self, benign, adversarial, channel_dim)

    collection = torchmetrics.MetricCollection(
        {"mean": NeuronSensitivity(NEURONS), "peak": NeuronSensitivity(NEURONS, "peak_change")}
    )
    pairs = batches((3, 4, 2))
    with monkeypatch.context() as patch:
        patch.setattr(PairStatistics, "update", update)
        for pair in pairs:
            collection.update(*pair)
    assert reads == [3, 3, 4, 2]
    values = collection.compute()
    torch.testing.assert_close(values["mean"], expected(pairs).metric("sensitivity"), rtol=1e-13, atol=0)
    torch.testing.assert_close(values["peak"], expected(pairs).metric("peak_change"), rtol=0, atol=0)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Each process sees some of the batches; both give what one process gives that sees them all."""
    pairs = batches((3, 1, 4, 2))
    torch.save(pairs, tmp_path / "pairs.pt")
    script = """
        from neurosens_fast.adapters.torchmetrics import NeuronSensitivity
        from neurosens_fast.statistics import METRICS

        pairs = torch.load(folder / "pairs.pt", weights_only=True)
        metric = NeuronSensitivity(5, list(METRICS))
        for pair in pairs[:1] if rank == 0 else pairs[1:]:
            metric.update(*pair)
        local = metric.sums.clone()
        torch.save(metric.compute(), folder / f"values{rank}.pt")
        assert torch.equal(metric.sums, local), "the states are the process's own again"
    """
    run_processes(script, tmp_path)
    totals = expected(pairs)
    for rank in range(2):
        values = torch.load(tmp_path / f"values{rank}.pt", weights_only=True)
        for name in METRICS:
            torch.testing.assert_close(values[name], totals.metric(name), rtol=1e-13, atol=1e-14)


def test_non_finite_values_reach_their_neuron_only() -> None:
    pairs = batches((3, 4))
    pairs[0][1][1, 2] = torch.nan
    metric = every_metric()
    for pair in pairs:
        metric(*pair)
    values = metric.compute()
    assert isinstance(values, dict)
    for name in ("sensitivity", "peak_change"):
        assert values[name].isnan().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"neurons": 0}, ValueError, "neurons must be at least 1, got 0"),
        ({"neurons": 2.0}, TypeError, "neurons must be a whole number, got float 2.0"),
        ({"neurons": 2, "metric": "sensitive"}, ValueError, "unknown metric 'sensitive'; choose one of sensitivity, "),
        ({"neurons": 2, "metric": ["cosine", 3]}, ValueError, "unknown metric 3; choose one of sensitivity, "),
        ({"neurons": 2, "metric": []}, ValueError, "metric names none; give at least one"),
        ({"neurons": 2, "metric": 3}, TypeError, "metric must be a name or a list of names, got int"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        NeuronSensitivity(**arguments)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_bad_activations() -> None:
    metric = NeuronSensitivity(NEURONS)
    one, other = torch.zeros(2, 3, 4), torch.zeros(2, NEURONS, 4)
    with pytest.raises(ValueError, match=r"^benign \[2, 3, 4\] has 3 neurons on axis 1, the metric was made for 5; "):
        metric.update(one, one)
    with pytest.raises(ValueError, match=r"^adversarial has shape \[2, 3, 4\] but benign has \[2, 5, 4\]$"):
        metric.update(other, one)
    with pytest.raises(TypeError, match=r"^benign must be a tensor, got list$"):
        metric.update([1.0], other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^benign is on meta, the metric on cpu; move it: metric\.to\('meta'\)$"):
        metric.update(other.to("meta"), other.to("meta"))
    with pytest.raises(ValueError, match=r"^channel_dim 2 is out of range"):
        NeuronSensitivity(NEURONS, channel_dim=2).update(other[..., 0], other[..., 0])
    assert int(metric.samples) == 0


def test_missing_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "neurosens_fast.adapters.torchmetrics")
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    sentence = r"^neurosens_fast\.adapters\.torchmetrics needs torchmetrics; type: pip install torchmetrics$"
    with pytest.raises(ModuleNotFoundError, match=sentence):
        import neurosens_fast.adapters.torchmetrics  # noqa: F401
