"""Two reports side by side, with values worked out by hand."""

from __future__ import annotations

import io
import math
from pathlib import Path

import matplotlib.image
import pandas
import pytest
import torch
from rich.console import Console

from neurosens_fast.audit import AuditReport, Comparison, ReportError, compare
from neurosens_fast.audit.tables import comparison_notes, moved_table

from .made import made

A = made({"first": [4.0, 3.0, 2.0, 1.0], "second": [30.0, 10.0, 20.0]})
B = made({"first": [8.0, 2.0, 6.0, 4.0], "second": [60.0, 20.0, 40.0]}, attack="PGD(eps=0.2)", correct_adversarial=1)


def shown(comparison: Comparison) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80, highlight=False, markup=False)
    console.print(comparison.table())
    console.print(moved_table(comparison, 2))
    return stream.getvalue()


def test_each_layer() -> None:
    first, second = compare(A, B, k=0.5).layers
    # ranks 1 2 3 4 and 1 4 2 3: 1 - 6 (0 + 4 + 1 + 1) / (4 * 15)
    assert first.spearman == pytest.approx(0.4, abs=1e-15)
    assert (first.layer, first.neurons, first.left_out) == ("first", 4, 0)
    assert (first.mean_a, first.mean_b, first.change, first.ratio) == (2.5, 5.0, 2.5, 2.0)
    # the top halves are {0, 1} and {0, 2}
    assert (first.top, first.overlap, first.jaccard) == (2, 0.5, 1 / 3)
    assert (second.spearman, second.ratio, second.change) == (1.0, 2.0, 20.0)
    assert (second.top, second.overlap, second.jaccard) == (2, 1.0, 1.0)


def test_all_together() -> None:
    comparison = compare(A, B, k=4)
    # ascending ranks 4 3 2 1 7 5 6 and, of 8 2 6 4 60 20 40, 4 1 3 2 7 5 6
    assert comparison.overall.spearman == pytest.approx(1 - 6 * (0 + 4 + 1 + 1) / (7 * 48), abs=1e-15)
    assert comparison.overall.layer == "all"
    assert comparison.overall.mean_a == 10.0
    assert (comparison.overall.top, comparison.overall.overlap) == (4, 1.0)
    assert (comparison.a.adversarial_accuracy, comparison.b.adversarial_accuracy) == (0.0, 1.0)
    assert repr(comparison) == (
        "Comparison(sensitivity of 7 neurons in 2 layers; rank correlation 0.893, 100.0% of the top 4 in common; "
        "A: Net, 3 parameters, FGSM(eps=0.1); B: Net, 3 parameters, PGD(eps=0.2))"
    )


def test_ties_share_their_rank() -> None:
    comparison = compare(made({"x": [1.0, 1.0, 0.0]}), made({"x": [2.0, 1.0, 0.0]}))
    # centred ranks .5 .5 -1 and 1 0 -1
    assert comparison.layers[0].spearman == pytest.approx(1.5 / math.sqrt(1.5 * 2), abs=1e-15)
    assert comparison.neurons()["rank_a"].tolist() == [1.5, 1.5, 3.0]
    assert comparison.neurons()["places"].tolist() == [0.5, -0.5, 0.0]
    same = compare(made({"x": [1.0, 1.0]}), made({"x": [2.0, 1.0]}))
    assert math.isnan(same.layers[0].spearman)


def test_rank_correlation_is_that_of_pandas() -> None:
    torch.manual_seed(0)
    first, second = torch.randint(0, 40, (2, 200)).double()
    row = compare(made({"x": first.tolist()}), made({"x": (first + second).tolist()})).layers[0]
    frame = pandas.DataFrame({"a": first.numpy(), "b": (first + second).numpy()})
    assert row.spearman == pytest.approx(frame.corr(method="spearman").loc["a", "b"], abs=1e-12)
    assert 0.3 < row.spearman < 0.95


def test_neurons_that_are_not_finite_are_left_out() -> None:
    nan, inf = math.nan, math.inf
    a, b = made({"x": [nan, 4.0, 3.0, 2.0, 1.0], "y": [nan]}), made({"x": [9.0, 8.0, 2.0, inf, 4.0], "y": [1.0]})
    comparison = compare(a, b, k=1)
    row, empty = comparison.layers
    assert (row.neurons, row.left_out) == (5, 2)
    # 4 3 1 and 8 2 4: ranks 1 2 3 and 1 3 2
    assert row.spearman == pytest.approx(0.5, abs=1e-15)
    assert (row.mean_a, row.top, row.overlap) == (8 / 3, 1, 1.0)
    assert (empty.left_out, empty.top) == (1, 0)
    assert all(math.isnan(value) for value in (empty.mean_a, empty.ratio, empty.spearman, empty.overlap, empty.jaccard))
    assert comparison.neurons()["rank_b"].isna().tolist() == [True, False, False, True, False, True]
    assert "left out, NaN or infinite in A or B: 3 neurons, x 2, y 1" in comparison_notes(comparison)
    text = shown(comparison)
    assert "nan" in text


def test_ratio_where_a_layer_did_not_move() -> None:
    still, moving = made({"x": [0.0, 0.0]}), made({"x": [0.0, 1.0]})
    assert compare(still, moving).layers[0].ratio == math.inf
    assert math.isnan(compare(still, still).layers[0].ratio)
    assert compare(moving, still).layers[0].ratio == 0


def test_neurons_table_and_moves() -> None:
    frame = compare(A, B).neurons()
    assert frame["layer"].tolist() == ["first"] * 4 + ["second"] * 3
    assert frame["neuron"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert frame["value_b"].tolist() == [8.0, 2.0, 6.0, 4.0, 60.0, 20.0, 40.0]
    assert frame["rank_a"].tolist() == [4.0, 5.0, 6.0, 7.0, 1.0, 3.0, 2.0]
    assert frame["rank_b"].tolist() == [4.0, 7.0, 5.0, 6.0, 1.0, 3.0, 2.0]
    assert frame["places"].tolist() == [0.0, -2.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert frame["rank_in_layer_b"].tolist() == [1.0, 4.0, 2.0, 3.0, 1.0, 3.0, 2.0]
    up, down = compare(A, B).moved(1)
    assert [tuple(row) for row in up] == [("first", 2, 1.0, 6.0, 5.0, 2.0, 6.0)]
    assert [tuple(row) for row in down] == [("first", 1, -2.0, 5.0, 7.0, 3.0, 2.0)]
    assert [row.neuron for row in compare(A, B).moved().up] == [2, 3]
    assert compare(A, A).moved() == ([], [])
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        compare(A, B).moved(-1)


def test_layers_that_do_not_fit_are_named() -> None:
    other = made({"second": [1.0, 2.0, 3.0], "first": [1.0], "third": [1.0]}, samples=2000, dtype="bfloat16")
    comparison = compare(made({"zero": [1.0], "first": [1.0, 2.0], "second": [3.0, 2.0, 1.0]}), other)
    assert [row.layer for row in comparison.layers] == ["second"]
    assert comparison.layers[0].spearman == -1
    assert (comparison.only_a, comparison.only_b) == (("zero",), ("third",))
    assert comparison.incomparable == {"first": "2 neurons in A and 1 in B"}
    assert comparison_notes(comparison) == [
        "not comparable: first, 2 neurons in A and 1 in B",
        "only in A: zero",
        "only in B: third",
        "measured on 1 samples in A, on 2,000 in B",
        "computed in float32 in A, in bfloat16 in B",
    ]
    assert comparison_notes(compare(A, B)) == []
    assert comparison_notes(compare(A, made({"first": [1.0] * 4}, data=("others",))))[-1] == (
        "measured on different data: tensors [1, 3] in A, others in B"
    )


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"no layer in common \(A has first, second, B has x\); audit both with"):
        compare(A, made({"x": [1.0]}))
    with pytest.raises(ValueError, match=r"no layer in common \(A has none, B has first, second\)"):
        compare(made({}), B)
    with pytest.raises(ValueError, match=r"no layer can be compared \(first: 4 neurons in A and 1 in B\)"):
        compare(A, made({"first": [1.0]}))
    with pytest.raises(ValueError, match="unknown metric 'beauty'; choose one of sensitivity"):
        compare(A, B, by="beauty")
    with pytest.raises(ValueError, match=r"a share k must be above 0.0 and at most 1.0, got 1.5"):
        compare(A, B, k=1.5)
    with pytest.raises(TypeError, match="k must be a count"):
        compare(A, B, k="all")  # type: ignore[arg-type]


def test_printed_table_says_what_is_compared() -> None:
    text = shown(compare(A, B, k=0.5))
    assert "Sensitivity of each layer in A and in B" in text
    cells = [line.split() for line in text.splitlines()]
    assert ["first", "4", "2.5000", "5.0000", "2.000", "0.400", "2", "50%", "0.33"] in cells
    assert ["all", "7", "10.0000", "20.0000", "2.000", "0.893", "4", "100%", "1.00"] in cells
    joined = " ".join(text.split())
    assert "A: Net, 3 parameters; FGSM(eps=0.1); accuracy 100.0% clean, 0.0% adversarial" in joined
    assert "B: Net, 3 parameters; PGD(eps=0.2); accuracy 100.0% clean, 100.0% adversarial" in joined
    assert ["first", "1", "-2", "5", "7", "3.0000", "2.0000"] in cells
    assert max(map(len, text.splitlines())) <= 80
    assert "-" in shown(compare(A, B, k=0))


def test_csv_reads_back(tmp_path: Path) -> None:
    comparison = compare(A, B, by="sensitivity", k=2)
    comparison.to_csv(tmp_path / "c.csv")
    pandas.testing.assert_frame_equal(pandas.read_csv(tmp_path / "c.csv"), comparison.to_pandas())
    assert comparison.to_pandas()["layer"].tolist() == ["first", "second"]
    with pytest.raises(ReportError, match="cannot write"):
        comparison.to_csv(tmp_path / "none" / "c.csv")


def test_a_report_and_itself(report: AuditReport) -> None:
    comparison = compare(report, report)
    assert comparison.only_a == comparison.only_b == ()
    for row in (*comparison.layers, comparison.overall):
        assert (row.spearman, row.overlap, row.jaccard, row.change) == (1.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (A, B),
        (made({"x": [0.0, 1e-4, 1.0], "y": [0.0, 0.0, 0.0]}), made({"x": [1.0, 1e-3, 2.0], "y": [1.0, 2.0, 3.0]})),
        (made({"x": [-1.0, 2.0]}), made({"x": [3.0, -4.0]})),
        (made({"x": [1.0]}), made({"x": [1.0]})),
        (made({"x": [math.nan, 0.5]}), made({"x": [1.0, 0.25]})),
        (made({f"layer{i}": [1.0, 2.0 + i] for i in range(30)}), made({f"layer{i}": [2.0, 2.5] for i in range(30)})),
    ],
)
def test_picture(a: AuditReport, b: AuditReport, tmp_path: Path) -> None:
    compare(a, b).plot(tmp_path / "c.png")
    pixels = matplotlib.image.imread(tmp_path / "c.png")
    for half in (pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]):
        colourful = (half[..., :3].max(2) - half[..., :3].min(2)) > 0.15  # purple, not quite opaque
        assert colourful.sum() > 50, "nothing drawn in this half"


def test_picture_of_nothing(tmp_path: Path) -> None:
    nothing = compare(made({"x": [math.nan]}), made({"x": [1.0]}))
    nothing.plot(tmp_path / "c.svg")
    assert "no neuron with a value to draw" in (tmp_path / "c.svg").read_text()
    with pytest.raises(ValueError, match=r"cannot draw a .txt file; the suffix of 'c.txt'"):
        nothing.plot(tmp_path / "c.txt")
