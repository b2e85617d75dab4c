"""``neurosens-fast show``: tables, ranking, exports."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pandas
import pytest

from neurosens_fast.audit import AuditReport
from neurosens_fast.statistics import METRICS

from .conftest import Run


def ranking(text: str) -> list[tuple[str, int, str]]:
    """Layer, neuron and value of each row of the table of neurons."""
    rows = [line.split() for line in text[text.index(" with the largest ") :].splitlines()[3:]]
    return [(cells[0], int(cells[1]), cells[5]) for cells in rows if len(cells) == 9 and cells[3] == "of"]


@pytest.mark.parametrize("file", [False, True])
def test_what_was_audited_and_the_tables(file: bool, run: Run, audited: Path) -> None:
    report = AuditReport.load(audited / "audit.safetensors")
    result = run("show", audited / "audit.safetensors" if file else audited)
    assert (result.status, result.err) == (0, "")
    for text in (
        "model    digits-cnn, random weights (seed 0)",
        "attack   FGSM(eps=0.2)",
        "layers   activations",
        "audit    240 neurons in 4 layers, 40 pairs",
        f"{report.clean_accuracy:.1%} clean, {report.adversarial_accuracy:.1%} adversarial",
        "Sensitivity of each layer",
        "The 15 neurons with the largest sensitivity",
    ):
        assert text in result.out
    assert ranking(result.out) == [(row.layer, row.neuron, f"{row.value:.4f}") for row in report.top(15)]
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "k", "by", "layer"),
    [
        ("--top 4 --by relative_l2", 4, "relative_l2", None),
        ("--top 5% --layer relu4", 0.05, "sensitivity", "relu4"),
        ("--top 0.02 --by max_activation_adversarial", 0.02, "max_activation_adversarial", None),
        ("--layer relu2 --by mean_shift", 15, "mean_shift", "relu2"),
    ],
)
def test_ranking(words: str, k: int | float, by: str, layer: str | None, run: Run, audited: Path) -> None:
    report = AuditReport.load(audited / "audit.safetensors")
    result = run("show", audited, *words.split())
    expected = report.top(k, by=by, layer=layer)
    assert ranking(result.out) == [(row.layer, row.neuron, f"{row.value:.4f}") for row in expected]
    assert f"{by.replace('_', ' ').capitalize()} of {'one' if layer else 'each'} layer" in result.out
    mean = report.metric(by)[layer or "relu3"].mean()
    assert f" {float(mean):.4f} " in result.out
    assert ("relu3" in result.out) == (layer is None)
    assert max(map(len, result.out.splitlines())) <= 80


def test_summary_only(run: Run, audited: Path) -> None:
    for words in (["--layers"], ["--top", "0"]):
        result = run("show", audited, *words)
        assert "Sensitivity of each layer" in result.out
        assert "neurons with the largest" not in result.out


def test_exports(run: Run, audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = AuditReport.load(audited / "audit.safetensors")
    written: list[pandas.DataFrame] = []

    def to_parquet(frame: pandas.DataFrame, path: object, index: bool) -> None:
        written.append(frame)
        path.write(b"PAR1")  # type: ignore[attr-defined]

    monkeypatch.setattr("neurosens_fast.cli.show.find_spec", lambda name: name)
    monkeypatch.setattr(pandas.DataFrame, "to_parquet", to_parquet)
    files = {kind: tmp_path / f"a.{kind}" for kind in ("png", "csv", "parquet")}
    words = [word for option, kind in (("plot", "png"), ("csv", "csv"), ("parquet", "parquet"))
             for word in (f"--{option}", files[kind])]  # fmt: skip
    result = run("show", audited, "--by", "cosine_distance", *words)
    assert (result.status, result.err) == (0, "")
    assert (
        f"written: {', '.join(map(str, files.values()))}".split() == result.out[result.out.index("written:") :].split()
    )
    expected = report.to_pandas("cosine_distance")
    pandas.testing.assert_frame_equal(pandas.read_csv(files["csv"]), expected, check_dtype=False)
    pandas.testing.assert_frame_equal(written[0], expected)
    assert files["parquet"].read_bytes() == b"PAR1"
    assert matplotlib.image.imread(files["png"]).std() > 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files.values())


def test_documents(run: Run, audited: Path, tmp_path: Path) -> None:
    report = AuditReport.load(audited / "audit.safetensors")
    html, markdown = tmp_path / "a.html", tmp_path / "b.md"
    words = ("--by", "relative_l1", "--top", "4", "--html", html, "--markdown", markdown)
    result = run("show", audited, *words)
    assert (result.status, result.err) == (0, "")
    assert f"written: {html}, {markdown}, {tmp_path / 'b.png'}" in result.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.md", "b.png"]
    assert markdown.read_text(encoding="utf-8") == report.to_markdown("relative_l1", 4, "b.png")
    assert "The 4 neurons with the largest relative l1" in html.read_text(encoding="utf-8")
    (tmp_path / "b.png").write_text("mine")
    refused = run("show", audited, "--markdown", tmp_path / "b.markdown")
    assert refused.status == 2
    assert f"{tmp_path / 'b.png'} is there already" in refused.err
    assert (tmp_path / "b.png").read_text() == "mine"
    assert run("show", audited, *words, "--overwrite").status == 0
    assert matplotlib.image.imread(tmp_path / "b.png").std() > 0.05


def test_parquet_without_pyarrow(run: Run, audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurosens_fast.cli.show.find_spec", lambda name: None)
    result = run("show", audited, "--parquet", tmp_path / "a.parquet", "--csv", tmp_path / "a.csv")
    assert result == (1, "", "neurosens-fast: --parquet needs pyarrow; type: pip install pyarrow\n")
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_listed_with_formula_and_source(run: Run) -> None:
    result = run("show", "--metrics")
    assert (result.status, result.err) == (0, "")
    words = " ".join(result.out.split())
    for metric in METRICS.values():
        assert metric.name in words
    assert "mean_i mean_s |d|" in words
    assert "Zhang et al." in words
    assert max(map(len, result.out.splitlines())) <= 80


def test_exports_replace_nothing_unasked(run: Run, audited: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.write_text("mine")
    for words, problem in (
        (["--csv", there], "is there already; choose another name, or add --overwrite"),
        (["--csv", tmp_path / "same.png", "--plot", tmp_path / "same.png"], "is named twice"),
    ):
        result = run("show", audited, *words)
        assert result.status == 2
        assert problem in result.err
    assert there.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [there]
    assert run("show", audited, "--csv", there, "--overwrite").status == 0
    assert there.read_text().startswith("layer,neuron")
