"""The page from a local server: the same page, to this machine only, and it answers what the page asks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neurosens_fast.explorer.explorer import Explorer
from tests.explorer.synthetic import exploration

from .conftest import Watched
from .pointing import canvas_is_blank, figures, selected, settle

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


class OneRow:
    """Receptive fields that are one row of pixels; neuron 5 has none, and neuron 6 takes its time."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def field(self, level: int, row: int, neuron: int) -> Mapping[str, Any]:
        self.asked.append((level, row, neuron))
        if neuron == 5:
            raise RuntimeError("the hook of layer conv1\nwas never called")
        if neuron == 6:
            time.sleep(0.5)
        mask = np.zeros((12, 12), bool)
        mask[neuron % 12] = True
        return {"mask": mask, "drop": 0.25, "rise": np.float32(0.5), "seen": np.arange(4.0).reshape(2, 2) / 8}


ASK = """(asked) => explorer.ask("field", asked).then(
  ({arrays: {mask, drop, rise, seen}}) => ({
    shape: mask.shape, first: Array.from(mask.data).indexOf(1), drop: drop.data[0], rise: rise.data[0],
    seen: Array.from(seen.data), seenShape: seen.shape,
  }),
  (error) => error.message,
)"""
FOCUS = """() => {
  const [model] = explorer.page.models;
  explorer.focusNeuron(model, model.data.fields_neurons.data[0]);
}"""
ASK_SEVERAL = """(neurons) => Promise.all(neurons.map((neuron) => {
  const answer = explorer.ask("field", {model: 0, level: 0, row: 1, neuron});
  return answer.then(({arrays}) => arrays.mask.data.indexOf(1));
}))"""
ASK_LATE = """() => {
  const answer = explorer.ask("field", {model: 0, level: 0, row: 7, neuron: 6});
  window.late = answer.catch((error) => error.message);
}"""
COUNT_SENT = """() => {
  window.sent = 0;
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (data) {
    window.sent += 1;
    return send.call(this, data);
  };
}"""


@pytest.fixture
def fields() -> OneRow:
    return OneRow()


@pytest.fixture
def address(fields: OneRow) -> Iterator[str]:
    with Explorer([exploration()], [fields]).served() as url:
        yield url


@pytest.fixture
def page(watched: Watched, address: str) -> Page:
    return watched.open(address, address, offline=False)


def test_is_the_same_page(page: Page, open_page: Any) -> None:
    saved = open_page(exploration())
    assert selected(page) == selected(saved)
    for one in (page, saved):  # a neuron whose receptive fields are in the file too
        one.evaluate(FOCUS)
    names = figures(page)
    assert names == figures(saved)
    assert all(canvas_is_blank(page, name) == canvas_is_blank(saved, name) for name in names)
    assert page.title() == saved.title()
    texts = [[text.strip() for text in one.locator("h2, .help, dd").all_text_contents()] for one in (page, saved)]
    assert texts[0] == texts[1]
    assert (page.evaluate("explorer.page.served"), saved.evaluate("explorer.page.served")) == (True, False)
    assert saved.evaluate("explorer.ask === undefined")


def test_answers_questions(page: Page, fields: OneRow) -> None:
    place = {"model": 0, "level": 1, "row": 7}
    expected = {
        "shape": [12, 12],
        "first": 36,
        "drop": 0.25,
        "rise": 0.5,
        "seen": [0, 0.125, 0.25, 0.375],
        "seenShape": [2, 2],
    }
    assert page.evaluate(ASK, {**place, "neuron": 3}) == expected
    assert fields.asked[-1] == (1, 7, 3)
    assert page.evaluate(ASK_SEVERAL, [6, 2, 9, 0]) == [72, 24, 108, 0], "each question has its own answer"
    # or says why there is none
    assert page.evaluate(ASK, {**place, "neuron": 5}) == "the hook of layer conv1 was never called"
    assert page.evaluate(ASK, {**place, "neuron": -1}) == "neuron must be a whole number of at least 0, got -1"
    assert page.evaluate(ASK, {**place, "neuron": 1, "model": 1}) == "receptive fields of model 1 cannot be computed"
    assert "for a receptive field only" in page.evaluate("explorer.ask('weather', {}).catch((error) => error.message)")


def test_choices_stay_in_the_browser(page: Page, fields: OneRow) -> None:
    """The page sends questions and nothing else, however much is redrawn."""
    settle(page)
    page.evaluate(COUNT_SENT)
    before = len(fields.asked)
    page.evaluate("explorer.selectImages([1, 2, 3])")
    page.evaluate("explorer.selectNeurons(explorer.page.models[0], [1, 2])")
    page.evaluate("explorer.setLevel(1)")
    settle(page)
    page.wait_for_timeout(300)
    assert selected(page) == "3 of 60 images · 2 of 24 neurons selected"
    assert page.evaluate("window.sent") == 3 * (len(fields.asked) - before), "a message has three parts"
    assert isinstance(page.evaluate(ASK, {"model": 0, "level": 0, "row": 9, "neuron": 1}), dict)
    assert page.evaluate("window.sent") == 3 * (len(fields.asked) - before) > 0


def test_a_server_that_ended(watched: Watched) -> None:
    with Explorer([exploration()], [OneRow()]).served() as url:
        page = watched.open(url, url, offline=False)
        assert isinstance(page.evaluate(ASK, {"model": 0, "level": 0, "row": 7, "neuron": 1}), dict)
        page.evaluate(ASK_LATE)
    assert page.evaluate("window.late").startswith("The server that sent this page has ended.")
    page.evaluate("explorer.selectImages([4])")
    assert selected(page).startswith("1 of 60 images")
    assert page.evaluate(ASK, {"model": 0, "level": 0, "row": 7, "neuron": 2}).startswith("The server that sent")


def test_two_models_ask_their_own(watched: Watched) -> None:
    models = OneRow(), OneRow()
    with Explorer([exploration(), exploration(seed=1, name="Other")], models).served() as url:
        page = watched.open(url, url, offline=False)
        for model in range(2):
            assert isinstance(page.evaluate(ASK, {"model": model, "level": 0, "row": 20 + model, "neuron": 1}), dict)
    assert [[one for one in fields.asked if one[1] >= 20] for fields in models] == [[(0, 20, 1)], [(0, 21, 1)]]


def test_without_questions(watched: Watched) -> None:
    with Explorer([exploration()]).served() as url:
        page = watched.open(url, url, offline=False)
        assert page.evaluate("[explorer.page.served, explorer.ask === undefined]") == [False, True]
