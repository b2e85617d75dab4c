"""The page as one file: it names no other one, is no larger than asked for, and takes names for what they are."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from neurosens_fast.explorer.exploration import Array
from neurosens_fast.explorer.page.colours import ADVERSARIAL, BENIGN, class_colours, class_markers
from neurosens_fast.explorer.page.document import SCRIPTS, file_text, page_html
from neurosens_fast.explorer.page.text import plain, short
from tests.explorer.synthetic import exploration

BUDGET = 15_000_000
NASTY = "</script><script>alert(1)</script><!--<script>"


@pytest.fixture(scope="module")
def ordinary() -> str:
    return page_html([exploration()], BUDGET)


class Elements(HTMLParser):
    """The elements of a page as a browser finds them, and what is in those of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            name = self.found[-1][1].get("id")
            self.scripts[name] = self.scripts.get(name, "") + data


def test_names_no_other_file(ordinary: str) -> None:
    elements = Elements(ordinary).found
    outside = [(tag, value) for tag, given in elements for key, value in given.items() if key in ("src", "href")]
    assert outside == [("link", "data:,")]


def test_names_do_not_end_scripts(ordinary: str) -> None:
    shown = exploration(classes=1)
    shown = replace(
        shown, classes=(NASTY,), name=NASTY, facts=((NASTY, NASTY),), notes=(NASTY,), missing={NASTY: NASTY}
    )
    text = page_html([shown], BUDGET)
    elements, others = Elements(text), Elements(ordinary)
    assert [tag for tag, _ in elements.found if tag == "script"] == [tag for tag, _ in others.found if tag == "script"]
    assert "<script>alert" not in text
    assert "<!--<script>" not in text
    packed = json.loads(elements.scripts["content"])
    assert packed["page"]["classes"] == [NASTY]


def test_all_scripts_are_on_the_page(ordinary: str) -> None:
    for name in SCRIPTS:
        assert file_text(f"scripts/{name}") in ordinary


def test_is_no_larger_than_its_budget() -> None:
    shown = exploration(side=96)
    text = page_html([shown], 4_000_000)
    assert len(text.encode()) <= 4_000_000
    assert "Pictures are shown at half of their size so that the page stays below 4.0 MB." in text


def test_two_models_have_every_view_twice() -> None:
    elements = Elements(page_html([exploration(), exploration(seed=1, name="Other")], BUDGET)).found
    ids = {given.get("id") for _, given in elements}
    assert {"overview-model-0", "overview-model-1", "grid-controls-0", "grid-controls-1"} <= ids


def test_models_of_other_data_are_refused() -> None:
    with pytest.raises(ValueError, match="different classes"):
        page_html([exploration(), exploration(classes=3)], BUDGET)


def test_a_missing_view_says_why() -> None:
    shown = exploration()
    images = replace(shown.images, benign=None, adversarial=None)
    shown = replace(shown, images=images, fields=None, features=None, missing={"images": "Inputs are <no> images."})
    assert "Inputs are &lt;no&gt; images." in page_html([shown], BUDGET)


def test_scripts_fetch_nothing() -> None:
    for name in SCRIPTS:
        assert not re.search(r"^\s*import |https?://(?!www\.w3\.org/2000/svg)", file_text(f"scripts/{name}"), re.M)


# --- colours --------------------------------------------------------------------------------------------------


def seen(colour: str, matrix: Array | None = None) -> Array:
    """CIE L*a*b* of ``#rrggbb``, after ``matrix`` on linear RGB, which stands for a colour blindness."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if matrix is not None:
        linear = np.clip(matrix.astype(float) @ linear, 0, 1)
    white = np.array([0.9505, 1, 1.089])
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear / white
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colours: list[str], matrix: Array | None = None) -> float:
    points = np.array([seen(colour, matrix) for colour in colours])
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return float(distances[~np.eye(len(colours), dtype=bool)].min())


# Machado, Oliveira, Fernandes (2009), severity 1
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)


@pytest.mark.parametrize("matrix", [None, DEUTERANOPIA, PROTANOPIA])
def test_eight_classes_are_told_apart_by_the_colour_blind(matrix: Array | None) -> None:
    assert nearest(class_colours(8), matrix) > 15
    assert nearest([BENIGN, ADVERSARIAL], matrix) > 40


def test_twenty_classes_differ_and_then_repeat() -> None:
    assert nearest(class_colours(20)) > 12
    colours, markers = class_colours(140), class_markers(140)
    assert colours[20:40] == colours[:20]
    assert len(set(zip(colours, markers, strict=True))) == 140


def test_scripts_know_the_same_two_colours() -> None:
    core = file_text("scripts/core.js")
    assert f'BENIGN: "{BENIGN}"' in core
    assert f'ADVERSARIAL: "{ADVERSARIAL}"' in core


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["$$x$$", r"\(x\)", r"\[x\]", "$$$"])
def test_names_begin_no_formula(name: str) -> None:
    assert not re.search(r"\$\$|\\\(|\\\[", plain(name))
    assert plain(name).replace("\u200b", "") == name


def test_ordinary_names_stay() -> None:
    assert plain("5 $ (about) [one] C:\\x") == "5 $ (about) [one] C:\\x"


def test_long_names_keep_both_ends() -> None:
    assert short("class number 12", 9) == "clas…r 12"
    assert short("class", 5) == "class"
