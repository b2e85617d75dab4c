"""Reports as documents: what they say, that nothing in them is taken for markup, that they stand alone."""

from __future__ import annotations

import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

from neurosens_fast.audit import AuditReport, ReportError
from neurosens_fast.audit.document import to_html
from neurosens_fast.statistics import METRICS

from .made import made

EVIL = "<script>alert('x')</script>&amp;\"|`*_a_[b](c)"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """An HTML file taken apart; tags that do not match raise."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self.stack.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.stack:
            return
        self.texts.setdefault(self.stack[-1], []).append(data)
        if self.stack[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def rows(markdown: str) -> list[list[str]]:
    """The cells of all tables, without escapes."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    split = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in line] for line in split]


SMALL = made({"first": [1.0, 4.0], "second": [2.0, 0.0, 10.0]}, model="Net, 3 parameters")


def test_markdown_says_what_was_audited_and_found() -> None:
    text = SMALL.to_markdown(top=2)
    for line in (
        "# Neuron sensitivity: Net",
        "- **Model**: Net, 3 parameters",
        "- **Attack**: FGSM(eps=0.1)",
        "- **Data**: tensors \\[1, 3\\]",
        "- **Samples**: 1 pair of a benign and an adversarial input, 1 with labels",
        "- **Clean accuracy**: 100.0%, 1 of 1",
        "- **Adversarial accuracy**: 0.0%, 0 of 1",
        "- **Layers**: activations: 2 layers",
        "- **Dtype**: float32",
        "- **Device**: cpu",
        "- **Seed**: 0",
        "- **Versions**: torch 2.14.1",
        "## Notes",
        "## The 2 neurons with the largest sensitivity",
    ):
        assert line in text.splitlines()
    assert "![" not in text
    cells = rows(text)
    assert ["first", "ReLU", "2 × 2 × 2", "2", "2", "2.5000", "2.5000", "4.0000", "1"] in cells
    assert ["second", "ReLU", "3 × 2 × 2", "3", "3", "4.0000", "2.0000", "10.0000", "2"] in cells
    assert ["1", "second", "2", "1 of 3", "10.0000", "0.000", "0.000", "0.000"] in cells
    assert ["2", "first", "1", "1 of 2", "4.0000", "0.000", "0.000", "0.000"] in cells
    assert [cell[0] for cell in cells].count("2") == 1, "two neurons were asked for"
    for metric in METRICS.values():
        assert [metric.name, metric.description, metric.source] in cells
    assert "|S| positions" in text.replace("\\", "")


def test_another_metric_and_no_neurons(report: AuditReport) -> None:
    text = report.to_markdown("relative_l1", 0)
    assert "## Relative l1 of each layer" in text
    assert "with the largest" not in text
    mean = float(report.metric("relative_l1")["0"].mean())
    assert f"{mean:.4f}" in next(row for row in rows(text) if row[0] == "0")
    assert "NaN" not in text
    with pytest.raises(ValueError, match="unknown metric 'beauty'"):
        report.to_markdown("beauty")


def test_notes_and_unknown_accuracy() -> None:
    odd = made({"x": [math.nan, 1.0]}, labelled=0, correct_benign=0)
    text = odd.to_markdown()
    assert "- NaN or infinite: 1 neuron, x 0" in text
    assert "- **Clean accuracy**: unknown" in text
    assert ["x", "ReLU", "2 × 2 × 2", "2", "2", "nan", "nan", "nan", "0"] in rows(text)
    page = Page(to_html(odd))
    assert "NaN or infinite: 1 neuron, x 0" in page.texts["li"]
    assert page.texts["dd"][:2] == ["unknown", "unknown"]
    alive = made({"x": [1.0]})
    alive.layers["x"].statistics.maxima[:] = 1.0
    assert "## Notes" not in alive.to_markdown()
    assert "notes" not in [attributes.get("id") for _, attributes in Page(to_html(alive)).tags]


def test_html_holds_the_same_tables_and_stands_alone(report: AuditReport, tmp_path: Path) -> None:
    report.save_html(tmp_path / "report.html", top=3)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    without_bars = [[cell for cell in row[:9] if cell != ""] for row in page.cells if row[:1] != [""]]
    expected = [row for row in rows(report.to_markdown(top=3)) if not row[0].startswith("---")]
    assert without_bars == expected
    names = [tag for tag, _ in page.tags]
    assert {"header", "main", "section", "figure", "figcaption", "footer", "thead", "dl"} <= set(names)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(names)
    links = {
        name: value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")
    }
    assert list(links) == ["src"]
    start = "data:image/png;base64,"
    assert (links["src"] or "").startswith(start)
    assert not re.search(r"url\(|@import|https?:|//", text.replace(links["src"] or "", ""))
    (tmp_path / "inside.png").write_bytes(base64.b64decode((links["src"] or "")[len(start) :]))
    report.plot(tmp_path / "sensitivity.png")
    inside, plotted = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("inside", "sensitivity"))
    assert (inside == plotted).all()
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_bars_are_shares_of_the_largest_mean() -> None:
    page = Page(to_html(SMALL))
    widths = [attributes["style"] for tag, attributes in page.tags if tag == "span"]
    assert widths == ["width: 62.5%", "width: 100.0%"]  # means 2.5 and 4
    still = Page(to_html(made({"x": [0.0], "y": [math.nan]})))
    assert [attributes["style"] for tag, attributes in still.tags if tag == "span"] == ["width: 0.0%"] * 2


def test_nothing_is_taken_for_markup() -> None:
    evil = made(
        {EVIL: [1.0, 2.0]},
        model=f"{EVIL}, 3 parameters",
        attack=EVIL,
        data=(EVIL,),
        layer_choice=EVIL,
        device=EVIL,
        dtype=EVIL,
        versions={EVIL: EVIL},
        skipped={f"{EVIL}#2": "is odd"},
    )
    text = to_html(evil)
    assert text.count("<script") == 0
    page = Page(text)
    assert not {"script", "a"} & {tag for tag, _ in page.tags}
    assert page.texts["title"] == [f"Neuron sensitivity: {EVIL}"]
    assert page.texts["dd"].count(EVIL) == 4  # attack, data, dtype, device
    assert any(row[0] == EVIL for row in page.cells)
    assert any(EVIL in note for note in page.texts["li"])

    markdown = evil.to_markdown()
    assert any(row[0] == EVIL and len(row) == 9 for row in rows(markdown))
    assert any(row[1] == EVIL and len(row) == 8 for row in rows(markdown))
    assert not re.search(r"(?<!\\)[<`]|(?<!\\)\[|(?<!\\)&", markdown)
    assert "\n" not in made({"a\nb": [1.0]}).to_markdown().split("| a ")[1][:3]


def test_underscores_inside_words_stay_readable() -> None:
    text = made({"layer_1.bn_2": [1.0], "_hidden_": [1.0]}).to_markdown()
    assert "| layer_1.bn_2 |" in text
    assert "| \\_hidden\\_ |" in text


def test_markdown_file_with_its_picture(report: AuditReport, tmp_path: Path) -> None:
    report.save_markdown(tmp_path / "my report.md", top=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my report.md", "my report.png"]
    text = (tmp_path / "my report.md").read_text(encoding="utf-8")
    assert "(my%20report.png)" in text
    assert re.sub(r"!\[.*\n\n", "", text) == report.to_markdown(top=3)
    assert matplotlib.image.imread(tmp_path / "my report.png").std() > 0.05


def test_a_picture_that_is_there_is_used(report: AuditReport, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    report.plot(tmp_path / "there.png")
    content = (tmp_path / "there.png").read_bytes()
    report.save_markdown(tmp_path / "sub" / "r.md", picture=tmp_path / "there.png")
    report.save_html(tmp_path / "sub" / "r.html", picture=tmp_path / "there.png")
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["r.html", "r.md"]
    assert "(../there.png)" in (tmp_path / "sub" / "r.md").read_text(encoding="utf-8")
    assert base64.b64encode(content).decode() in (tmp_path / "sub" / "r.html").read_text(encoding="utf-8")


def test_refusals_write_nothing(report: AuditReport, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"a.txt is no PNG; give a picture that plot wrote as .png"):
        report.save_html(tmp_path / "a.html", picture=text)
    with pytest.raises(ReportError, match=r"cannot read .*none.png"):
        report.save_html(tmp_path / "a.html", picture=tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"a.PNG would be the picture of the document"):
        report.save_markdown(tmp_path / "a.PNG")
    with pytest.raises(ValueError, match=r"a share k must be above 0.0 and at most 1.0"):
        report.save_markdown(tmp_path / "a.md", top=2.0)
    for write in (report.save_markdown, report.save_html):
        with pytest.raises(ReportError, match="cannot write"):
            write(tmp_path / "none" / "a.md")
    assert list(tmp_path.iterdir()) == [text]
