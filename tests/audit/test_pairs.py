"""Pairs that the data hold, and two models on the same inputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from neurosens_fast.audit import AuditReport, audit, audit_pairs
from neurosens_fast.audit.pair_data import join_pair, split_pair

from .conftest import build

GENERATOR = torch.Generator().manual_seed(4)
X = torch.rand(11, 1, 6, 6, generator=GENERATOR)
OTHER = (X + 0.1 * torch.randn(11, 1, 6, 6, generator=GENERATOR)).clamp(0, 1)
Y = torch.randint(0, 4, (11,), generator=GENERATOR)


class Samples(Dataset[Any]):
    def __init__(self, labelled: bool) -> None:
        self.labelled = labelled

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Any:
        pair = X[index], OTHER[index]
        return (*pair, int(Y[index])) if self.labelled else pair


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter((X[at : at + 4], OTHER[at : at + 4], Y[at : at + 4]) for at in range(0, 11, 4))


SOURCES: dict[str, tuple[Any, bool]] = {
    "tensors": ((X, OTHER), False),
    "labelled tensors": ((X, OTHER, Y), True),
    "samples": (Samples(False), False),
    "labelled samples": (Samples(True), True),
    "loader": (DataLoader(Samples(False), batch_size=4), False),
    "labelled loader": (DataLoader(Samples(True), batch_size=4), True),
    "batches": ([(X[:5], OTHER[:5]), [X[5:], OTHER[5:]]], False),
    "labelled batches": ([(X[:5], OTHER[:5], Y[:5]), (X[5:], OTHER[5:], Y[5:])], True),
    "stream": (Stream(), True),
}


def same_totals(found: AuditReport, wanted: AuditReport) -> None:
    assert list(found.layers) == list(wanted.layers)
    for name, row in wanted.layers.items():
        torch.testing.assert_close(found.layers[name].statistics.sums, row.statistics.sums, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.layers[name].statistics.maxima, row.statistics.maxima, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def attacked() -> AuditReport:
    """What an attack that returns the other inputs gives."""

    def attack(x: Tensor, y: Tensor) -> Tensor:
        return OTHER

    return audit(build(), (X, Y), attack, "all")


@pytest.mark.parametrize("kind", SOURCES)
def test_pairs_in_the_data(kind: str, attacked: AuditReport, tmp_path: Path) -> None:
    data, labelled = SOURCES[kind]
    report = audit(build(), data, None, "all", batch_size=4, checkpoint=tmp_path)
    same_totals(report, attacked)
    assert report.attack == "pairs in the data"
    assert report.samples == 11
    assert report.labelled == (11 if labelled else 0)
    if labelled:
        counts = (report.correct_benign, report.correct_adversarial)
        assert counts == (attacked.correct_benign, attacked.correct_adversarial)


def test_inputs_of_several_parts() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build()

        def forward(self, image: Tensor, scale: Tensor) -> Tensor:
            return self.net(image * scale[:, None, None, None])  # type: ignore[no-any-return]

    ones = torch.ones(11)
    wanted = audit(build(), (X, OTHER), None)
    data: Any
    for data in (
        [((X, ones), (OTHER, ones), Y)],
        [({"image": X, "scale": ones}, {"scale": ones, "image": OTHER})],
    ):
        found = audit(Two(), data, None)
        assert list(found.layers) == ["net.2"]
        torch.testing.assert_close(
            found.layers["net.2"].statistics.sums, wanted.layers["2"].statistics.sums, rtol=1e-5, atol=1e-6
        )


def test_joined_and_split() -> None:
    for benign, other in ((X, OTHER), ((X, Y), (OTHER, Y)), ({"a": X, "b": Y}, {"a": OTHER, "b": Y})):
        found: Any = split_pair(join_pair(benign, other))
        assert str(found) == str((benign, other))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            [X],
            TypeError,
            r"data of pairs must give batches \(benign, other\) or \(benign, other, labels\), got a Tensor",
        ),
        ([(X, OTHER, Y, Y)], TypeError, "got a tuple of 4"),
        ((X, OTHER[:3]), ValueError, r"the tensors of pairs differ in length: \[11, 1, 6, 6\], \[3, 1, 6, 6\]"),
        ([({"a": X}, {"b": X})], ValueError, "must be dicts with the same keys"),
        ([((X, Y), (X,))], ValueError, "benign inputs of a pair have 2 tensors, the other ones 1"),
        ([(X, OTHER[..., :4])], ValueError, "benign and adversarial inputs differ in shape"),
        (5, TypeError, "got a int"),
        ([], ValueError, "data gave no sample"),
    ],
)
def test_refused(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        audit(build(), data, None)


def test_two_models(tmp_path: Path) -> None:
    first, second = build(), build()
    with torch.no_grad():
        second[0].weight[1] += 0.25
        second[4].bias += torch.arange(4.0)
    before = copy.deepcopy(second.state_dict())
    report = audit_pairs(first, second, (X, Y), "all", batch_size=4, by_class=True, scores=tmp_path / "scores")
    assert report.model.startswith("Sequential")
    assert " and Sequential" in report.model
    assert report.samples == report.labelled == 11
    with torch.no_grad():
        values: dict[str, list[Tensor]] = {}
        for model in (first, second):
            net = copy.deepcopy(model).eval()
            x = X
            for name, module in net.named_children():
                x = module(x)
                values.setdefault(name, []).append(x.double())
    for name, (a, b) in values.items():
        change = (b - a).abs()
        wanted = change.transpose(0, 1).flatten(1).mean(1)
        torch.testing.assert_close(report.sensitivity[name], wanted, rtol=1e-5, atol=1e-7)
    assert int(report.sensitivity["0"].argmax()) == 1
    assert report.correct_benign == int((values["4"][0].argmax(1) == Y).sum())
    assert report.correct_adversarial == int((values["4"][1].argmax(1) == Y).sum())
    assert first.training
    assert second.training
    assert all(torch.equal(value, before[name]) for name, value in second.state_dict().items())


def test_two_models_that_are_resumed(tmp_path: Path) -> None:
    first, second = build(), nn.Sequential(build().eval(), nn.Identity())
    names = {str(number): f"0.{number}" for number in range(5)}
    whole = audit_pairs(first, second, (X, Y), "all", layers_b=names, batch_size=4)
    assert all(float(value.max()) == 0 for value in whole.sensitivity.values())
    data = Samples(True)

    class Broken(Dataset[Any]):
        fault = True

        def __len__(self) -> int:
            return 11

        def __getitem__(self, index: int) -> Any:
            if self.fault and index == 9:
                raise OSError("gone")
            return data[index][1], data[index][2]

    broken = Broken()
    arguments: Any = (first, second, broken, "all")
    options: Any = {"layers_b": names, "batch_size": 4, "checkpoint": tmp_path}
    with pytest.raises(OSError, match="gone"):
        audit_pairs(*arguments, **options)
    broken.fault = False
    report = audit_pairs(*arguments, **options, resume=True)
    same_totals(report, audit_pairs(first, second, (OTHER, Y), "all", layers_b=names, batch_size=4))


def test_two_models_refused() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        audit_pairs(build(), "other", (X, Y))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model_b has no layer '2'; map it in layers_b"):
        audit_pairs(build(), nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), (X, Y))
    bad = build()
    with torch.no_grad():
        bad[0].bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"'0\.bias' holds NaN"):
        audit_pairs(build(), bad, (X, Y))
    with pytest.raises(ValueError, match="data gave no sample"):
        audit_pairs(build(), build(), [])


def test_a_mask_is_that_of_its_own_batch() -> None:
    class Words(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale
            self.act = nn.ReLU()

        def forward(self, values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.act(values * self.scale).mean(1)  # type: ignore[no-any-return]

    values = torch.ones(2, 3, 4)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0]])
    data: Any = [
        ({"values": values, "attention_mask": mask}, torch.zeros(2, dtype=torch.int64)),
        ({"values": torch.cat((values[:, :1], 3 * values[:, 1:]), 1)}, torch.zeros(2, dtype=torch.int64)),
    ]
    report = audit_pairs(Words(1), Words(2), data, channel_dims={"act": -1}, verify=False)
    # Ones where the mask leaves them, then 1, 3, 3 whole: the change of each sample is its mean.
    assert report.sensitivity["act"].tolist() == pytest.approx([(2 * 1 + 2 * 7 / 3) / 4] * 4)
