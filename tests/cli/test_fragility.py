"""``neurosens-fast fragility``: the files that Python gives, its table and document, repairs, filters and resuming."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.image
import pandas
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

from neurosens_fast.attacks import BIM, FGSM
from neurosens_fast.cli.fragility_data import cut_in_parts
from neurosens_fast.cli.prepare import Subject
from neurosens_fast.data import digits
from neurosens_fast.fragility import FragilityReport, nodal_dropout, repair_sweep, synaptic_filter, target
from neurosens_fast.models import load_model

from .conftest import Run, undrawn
from .fragility_run import DIGITS, GIVEN, REPAIR, TARGET, fine, names, words
from .tiny import tensors


def read_tables(markdown: str) -> dict[str, list[list[str]]]:
    """Title -> the rows of the table under it, of a report that links pictures and has nothing else."""
    tables: dict[str, list[list[str]]] = {}
    for section in markdown.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line[:1] == "|"]
        assert len({len(row) for row in rows}) == 1, title
        assert all(re.fullmatch(r"---:?", cell) for cell in rows[1])
        tables[title] = rows[:1] + rows[2:]
    return tables


def check_pictures(folder: Path, markdown: str, count: int) -> None:
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", markdown)
    assert len(pictures) == len(set(pictures)) == count
    for name in pictures:
        assert matplotlib.image.imread(folder / name).std() > 0.02


def test_writes_what_python_gives(run: Run, quick: Path) -> None:
    out = quick / "deep" / "run"
    chosen = ("--layer", "0", "--where", "before_norm", "--attack", "bim", "--eps", "1/32,0.02", "--steps", "2")
    result = fine(run(*DIGITS, *chosen, "--seed", "4", "--top", "3", "--batch-size", "16", "--out", out))
    assert names(out) == sorted((*GIVEN, *TARGET))
    report = FragilityReport.load(out / GIVEN[0])
    split, model = digits(), load_model("tiny.py:of_digits", seed=4)
    places = [int((split.test_images == image).flatten(1).all(1).nonzero()[0]) for image, _ in drawn(4)]
    data = split.test_images[places], split.test_labels[places]

    def made(model: torch.nn.Module, eps: float) -> BIM:
        return BIM(model, eps, alpha=2.5 * eps / 2, steps=2, seed=4)

    shared: Any = {"progress": False, "seed": 4, "batch_size": 16, "dtype": torch.float32}
    expected = nodal_dropout(model, data, "0", made, (1 / 32, 0.02), where="before_norm", **shared)
    expected.to_csv(quick / "expected.csv")
    assert (out / "neurons.csv").read_bytes() == (quick / "expected.csv").read_bytes()
    assert len(set(pandas.read_csv(out / "neurons.csv").adversarial)) > 2, "neurons differ"
    hit = target(model, data, made, "0", (1 / 32, 0.02), report=expected, where="before_norm", **shared)
    hit.to_csv(quick / "hits.csv")
    assert (out / "hits.csv").read_bytes() == (quick / "hits.csv").read_bytes()
    correlations = pandas.read_csv(out / "correlations.csv")
    pandas.testing.assert_frame_equal(correlations, hit.correlations_to_pandas(), check_dtype=False)
    assert (report.layer, report.zeroed, report.eps, report.samples) == ("0", "0", (1 / 32, 0.02), 40)
    assert report.attack == "bim, steps 2"
    for text in (
        "model    tiny.py:of_digits (sha256 ",
        "attack   bim, steps 2, eps 0.03125, 0.02",
        "dropped  0, before_norm, fixed",
        "Classes of 6 neurons of 0",
        "The 3 most fragile neurons at eps 0.03125",
        "Where the attack hits",
        "Are the most hit neurons the fragile ones",
        "note     what comes before 0 was computed once",
    ):
        assert text in result.out
    assert result.out.endswith(f"written to {out}: {', '.join((*GIVEN, *TARGET))}\n")
    assert re.findall(r"\]\((.+?)\)", (out / "report.md").read_text()) == ["fragility.png", "targeting.png"]


def drawn(seed: int) -> list[tuple[torch.Tensor, int]]:
    """The samples of the test split that ``--max-samples 40 --seed`` draws."""
    from neurosens_fast.support.random_state import drawn as places

    split = digits()
    return [(split.test_images[place], int(split.test_labels[place])) for place in places(539, 40, seed).tolist()]


def test_everything_at_once_with_functions_of_ones_own(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extras = ("--repair", "--compress", "0.5,1", "--compress", "0.1", "--threshold", "0.1", "--filter", "high,low")
    result = fine(run(*words("load", "tiny.py:attack", *extras)))
    filters = [f"filter-{kind}.{suffix}" for kind in ("high", "low") for suffix in ("csv", "png")]
    assert names(tiny / "out") == sorted((*GIVEN, *TARGET, *REPAIR, *filters))
    assert result.out.splitlines()[-1].count(",") == len(names(tiny / "out")) - 1
    assert "data     tiny.py:load (sha256 " in result.out
    report = FragilityReport.load(tiny / "out" / GIVEN[0])
    assert (report.layer, report.zeroed, report.channels, report.samples) == ("0", "1", 4, 16)
    assert report.classes(threshold=0.1) == ("fragile", "fragile", "robust", "robust")

    # One part of the data for each step; repair.csv is that of repair_sweep on them.
    data = [(image, int(label)) for image, label in zip(*tensors(), strict=True)]
    model = load_model(f"{tiny}/tiny.py:build")
    parts = cut_in_parts(subject_of(data), 0)
    found = repair_sweep(
        *(model, report, parts.validation, parts.test, (0.5, 0.1)), threshold=0.1, batch_size=8, progress=False
    )
    table = pandas.read_csv(tiny / "out" / "repair.csv")
    pandas.testing.assert_frame_equal(table, found.to_pandas(), check_dtype=False)
    assert table.groupby("split").samples.unique().map(list).to_dict() == {"validation": [8], "test": [8]}
    assert found.picked < 1, "a repair that does nothing would not show whether its weights are saved"
    saved, repaired = load_file(tiny / "out" / REPAIR[2]), found.repaired.state_dict()
    assert saved.keys() == repaired.keys()
    assert all(torch.equal(saved[name], repaired[name]) for name in saved)
    assert not torch.equal(saved["1.weight"], model.state_dict()["1.weight"])
    for kind in ("high", "low"):
        curves = synaptic_filter(model, parts.measured, FGSM, (0.02, 0.05), kind, batch_size=8, progress=False)
        csv = pandas.read_csv(tiny / "out" / f"filter-{kind}.csv", dtype={"layer": str})
        pandas.testing.assert_frame_equal(csv, curves.to_pandas(), check_dtype=False)

    markdown = (tiny / "out" / "report.md").read_text()
    check_pictures(tiny / "out", markdown, 5)
    tables = read_tables(markdown)
    assert list(tables) == [
        "Classes of 4 neurons of 0",
        "The 4 most fragile neurons at eps 0.05",
        "Where the attack hits",
        "Are the most hit neurons the fragile ones",
        "Repair",
        "Weights filtered by size: high",
        "Weights filtered by size: low",
    ]
    classes = tables["Classes of 4 neurons of 0"]
    assert [row[2:6] for row in classes[1:]] == [
        ["10.00", *(str(report.classes(score, eps, 0.1).count(kind)) for kind in ("fragile", "robust", "antifragile"))]
        for score, eps in (("clean", None), ("adversarial", 0.02), ("adversarial", 0.05))
    ]
    test = table[table.split == "test"]
    assert [row[1:3] for row in tables["Repair"][1:]] == [
        [f"{before:.1%}", f"{after:.1%}"]
        for before, after in zip(test.accuracy_before, test.accuracy_after, strict=True)
    ]
    assert f"compressing robust neurons to {found.picked:g} was picked" in markdown
    assert "half of it by seed 0; 16 samples" in markdown

    # The weights go back in, as those of any training.
    undrawn(monkeypatch)
    again = ("--weights", "out/repaired.safetensors", "--out", "again", "--no-target")
    fine(run(*words("load", "tiny.py:attack", *again)))
    assert "weights repaired.safetensors" in FragilityReport.load(tiny / "again" / GIVEN[0]).model


def subject_of(data: object) -> Subject:
    """A subject of which only the data count."""
    return Subject(torch.nn.Identity(), data, FGSM, torch.device("cpu"), torch.float32, "model", "data", "attack")  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "most"), [(32, None), (33, None), (35, None), (4, None), (33, 21), (33, 99)])
def test_parts_are_disjoint_and_cover_everything(count: int, most: int | None) -> None:
    data = [(torch.full((1,), float(place)), place) for place in range(count)]
    used = min(count, most or count)
    parts = cut_in_parts(subject_of(data), 5, most)
    labels = [[label for _, label in part] for part in (parts.measured, parts.validation, parts.test)]
    assert sorted(label for part in labels for label in part) == list(range(used))
    assert [len(part) for part in labels[:2]] == [used // 2, used // 4]
    assert labels[0] != list(range(used // 2)), "drawn"
    assert labels[0] == [label for _, label in cut_in_parts(subject_of(data), 5, most).measured]
    assert used < 10 or labels[0] != [label for _, label in cut_in_parts(subject_of(data), 6, most).measured]
    assert parts.description == f"data{f', the first 21 of {count}' if most == 21 else ''}, half of it by seed 5"
    images = torch.stack([image for image, _ in data])
    of_tensors = cut_in_parts(subject_of((images, torch.arange(count))), 5, most)
    assert [int(label) for _, label in of_tensors.test] == labels[2]


def test_repair_takes_max_samples_of_ones_own_data_before_it_cuts_them(run: Run, quick: Path) -> None:
    few = ("--repair", "--compress", "0.5", "--threshold", "0.1", "--max-samples", "20", "--no-target")
    fine(run(*words("tensors", "tiny.py:attack", *few)))
    assert FragilityReport.load(quick / "out" / GIVEN[0]).samples == 10
    assert set(pandas.read_csv(quick / "out" / "repair.csv").samples) == {5}
    assert "the first 20 of 32, half of it by seed 0; 10 samples" in (quick / "out" / "report.md").read_text()


def test_nothing_to_repair_is_a_note(run: Run, quick: Path) -> None:
    extras = ("--repair", "--compress", "0.5", "--no-target")
    fine(run(*words("load", "tiny.py:attack", *extras, "--threshold", "0.1")))
    assert names(quick / "out") == sorted((*GIVEN, *REPAIR))
    again = fine(run(*words("load", "tiny.py:attack", *extras, "--threshold", "0.9", "--overwrite")))
    assert names(quick / "out") == sorted(GIVEN), "a repair of an earlier run is not left beside this report"
    assert again.out.endswith(f"written to out: {', '.join(GIVEN)}\n")
    assert "no repair" in again.out
    assert "nothing to repair: of 4 neurons of '0', 4 are robust, 0 fragile" in " ".join(again.out.split())
    markdown = (quick / "out" / "report.md").read_text()
    assert markdown.count("](") == 1
    assert read_tables(markdown)["Repair"] == [["outcome"], ["no repair"]]


def test_threshold_and_top(run: Run, quick: Path) -> None:
    common = ("--no-target", "--top", "1")
    default = fine(run(*words("load", "tiny.py:attack", *common, "--out", "default")))
    given = fine(run(*words("load", "tiny.py:attack", *common, "--threshold", "9/10")))
    assert (quick / "default" / GIVEN[0]).read_bytes() == (quick / "out" / GIVEN[0]).read_bytes()
    assert set(pandas.read_csv(quick / "out" / "neurons.csv").adversarial_class) == {"robust"}
    assert "fragile" in set(pandas.read_csv(quick / "default" / "neurons.csv").adversarial_class)
    assert "is as it was given" in " ".join(given.out.split())
    assert "is the binomial standard error" in " ".join(default.out.split())
    assert "The most fragile neuron at eps 0.05" in given.out


def test_adaptive_and_plain(run: Run, quick: Path) -> None:
    given = (*DIGITS, "--attack", "fgsm", "--eps", "0.03", "--no-target")
    fine(run(*given, "--protocol", "adaptive", "--plain", "--out", "adaptive"))
    fine(run(*given, "--out", "fixed"))
    found, fixed = (FragilityReport.load(quick / name / GIVEN[0]) for name in ("adaptive", "fixed"))
    data = drawn(0)
    expected = nodal_dropout(load_model("tiny.py:of_digits"), data, None, FGSM, 0.03, "adaptive", progress=False)
    assert (found.protocol, fixed.protocol, found.attack) == ("adaptive", "fixed", "fgsm")
    assert torch.equal(found.counts.lost, expected.counts.lost)
    assert not torch.equal(found.counts.lost, fixed.counts.lost)
    assert found.notes[0] == "the whole model ran for each neuron: as was asked for"
    refused = run(*words("load", "tiny.py:elsewhere", "--protocol", "adaptive", "--no-target"))
    assert refused.status == 2
    assert "the attack did not run layer '1'" in refused.err
    assert not (quick / "out").exists()


def test_many_strengths_fit(run: Run, quick: Path) -> None:
    strengths = ("--eps", "0.00001,0.001,0.02,0.04,0.06,0.08,0.1,0.3")
    result = fine(run(*words("load", "tiny.py:attack", *strengths)))
    assert "eps 1e-05" in " ".join(result.out.split())
    assert "…" not in result.out


def test_wide_tables_wrap_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    from neurosens_fast.audit.document.content import Table
    from neurosens_fast.cli.output import print_table, standard_output

    row = ("layer4.1.shortcut.0", "2,359,296", *["+0.000"] * 3, *["-12.34 antifragile"] * 2)
    headers = ("layer", "weights", "clean", "adversarial", "difference", "clean change", "adversarial change")
    print_table(standard_output(), Table("Title", headers, (row,), frozenset(range(1, 7)), "A note."))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for word in {*" ".join((*row[1:], *headers)).split(), "A note."}:
        assert word in out


def test_a_loader_is_not_cut(run: Run, quick: Path) -> None:
    loader = DataLoader(TensorDataset(torch.zeros(8, 1), torch.zeros(8)), batch_size=2)
    with pytest.raises(ValueError, match="--repair cuts the data into three parts"):
        cut_in_parts(subject_of(loader), 0)
