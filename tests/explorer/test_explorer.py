"""Explorer without a browser: the file, the frame in a notebook, what is refused."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from neurosens_fast.explorer.explorer import Explorer

from .synthetic import exploration


@pytest.fixture(scope="module")
def small() -> Explorer:
    return Explorer([exploration(samples=4, neurons=3)])


def without_ids(text: str) -> str:
    """Bokeh numbers what it draws anew for each page."""
    return re.sub(r"\bp\d{4,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", text)


@pytest.fixture(scope="module")
def page(small: Explorer) -> str:
    return small.html()


def test_is_a_page(page: str) -> None:
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert 'id="content"' in page
    assert len(page) > 500_000, "with the scripts of Bokeh"


def test_saves_the_page(small: Explorer, page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    path.write_text("what was there before")
    assert small.save(str(path)) == path.stat().st_size
    assert without_ids(path.read_text("utf-8")) == without_ids(page)
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    assert capsys.readouterr() == ("", "")


def test_shows_itself_in_a_notebook(small: Explorer, page: str) -> None:
    shown = small._repr_html_()
    frame = re.fullmatch(r'<iframe title="([^"]*)" style="[^"]*height: \d+px[^"]*" srcdoc="([^"]*)"></iframe>', shown)
    assert frame is not None
    assert without_ids(html.unescape(frame[2])) == without_ids(page)
    assert html.unescape(frame[1]) == repr(small)


@pytest.fixture
def quick(small: Explorer, monkeypatch: pytest.MonkeyPatch) -> Explorer:
    """Its page only says for how many bytes it was made."""
    monkeypatch.setattr(
        "neurosens_fast.explorer.explorer.page_html", lambda explorations, budget, tell: f"äöü {budget}"
    )
    return small


def test_tells_what_the_page_does_not_show_in_full(small: Explorer) -> None:
    told: list[list[str]] = []
    small.html(tell=told.append)
    small.html(1000, told.append)
    assert told[0] == []
    assert told[1][-1] == "The page is larger than 0.0 MB: what is left cannot be made smaller."


def test_counts_bytes(quick: Explorer, tmp_path: Path) -> None:
    assert (quick.html(), quick.html(7)) == ("äöü 15000000", "äöü 7")
    assert quick.save(tmp_path / "page.html", budget=123) == 10
    assert (tmp_path / "page.html").read_bytes() == "äöü 123".encode()


def test_a_file_that_cannot_be_written(quick: Explorer, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot write .*missing/page\.html: No such file or directory"):
        quick.save(tmp_path / "missing" / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_says_what_it_is() -> None:
    two = Explorer([exploration(samples=4, levels=1), exploration(samples=4, levels=1, name="Other")], [None, None])
    neurons = "24 neurons of logits (its input)"
    assert repr(two) == f"Explorer of SmallCNN ({neurons}) and Other ({neurons}): 4 images, PGD, eps 0.05"


@pytest.mark.parametrize(
    ("count", "on_demand", "sentence"),
    [
        (0, [], "a page shows one model, or two side by side, got 0"),
        (3, [], "a page shows one model, or two side by side, got 3"),
        (1, [None, None], "on_demand must have 1 entries or none, got 2"),
    ],
)
def test_how_many(count: int, on_demand: list[Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Explorer([exploration(samples=4)] * count, on_demand)


def test_two_of_other_data() -> None:
    with pytest.raises(ValueError, match="images"):
        Explorer([exploration(samples=4), exploration(samples=5)])


@pytest.mark.parametrize("budget", [0, -1, True, 1.5, None])
def test_no_budget(small: Explorer, budget: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="budget must be a whole number of bytes of at least 1, got"):
        small.save(tmp_path / "page.html", budget=budget)
    with pytest.raises(ValueError, match="budget must be"), small.served(budget=budget):
        pass
