"""The receptive field of a neuron in a browser: what is drawn is recomputed here from the exploration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neurosens_fast.explorer.exploration import Exploration
from tests.explorer.synthetic import exploration

from .pointing import canvas_is_blank, click, settle, source

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
SECTIONS = ("fields", "table")
OpenPage = Callable[..., "Page"]
FIGURES = ("benign", "benign-bars", "adversarial", "swapped", "drop-map", "rise-map", "occlusion")


def property_of(page: Page, name: str, what: str) -> Any:
    """A property of the Bokeh model called ``name``."""
    return page.evaluate(
        "([name, what]) => Bokeh.documents[0].get_model_by_name(name)[what]", [f"field-{name}-0", what]
    )


def is_shown(page: Page, name: str) -> bool:
    """Whether a part of the view has any height and can be seen."""
    shown: bool = page.evaluate(
        """(name) => {
          const {el} = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name));
          return el.getBoundingClientRect().height > 0 && getComputedStyle(el).visibility === "visible";
        }""",
        f"field-{name}-0",
    )
    return shown


def picture(page: Page, name: str) -> np.ndarray[Any, Any]:
    """The colours ``[H, W, 3]`` that an image glyph is given, or the numbers ``[H, W]`` of a map."""
    flat, shape = page.evaluate(
        """(name) => {
          const [image] = Bokeh.documents[0].get_model_by_name(name).data.image;
          return [Array.from(image), image.shape];
        }""",
        f"field-{name}-source-0",
    )
    if "values" in name:
        return np.array([np.nan if value is None else value for value in flat], float).reshape(shape)
    whole = np.array(flat, np.uint32).reshape(shape)
    return np.stack([whole & 255, (whole >> 8) & 255, (whole >> 16) & 255], -1).astype(int)


def faded(pixels: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], visibility: float) -> np.ndarray[Any, Any]:
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(float)
    return np.where(mask[..., None], pixels, visibility * pixels + (1 - visibility) * 128)


def press(page: Page, label: str) -> None:
    page.locator("#fields").get_by_role("button", name=label, exact=True).click()
    settle(page)


@pytest.mark.parametrize("bands", [1, 3])
def test_pictures_are_masked(open_page: OpenPage, bands: int) -> None:
    made = exploration(bands=bands)
    page = open_page(made, hash="level=0&neuron0=2")
    fields, images = made.fields, made.images
    assert fields is not None
    assert images.benign is not None
    assert images.adversarial is not None
    place = fields.neurons.tolist().index(2)
    mask, benign, adversarial = fields.masks[0, 0, place], images.benign[0], images.adversarial[0, 0]
    np.testing.assert_allclose(picture(page, "benign"), faded(benign, mask, 0.25), atol=0.51)
    np.testing.assert_allclose(picture(page, "adversarial"), faded(adversarial, mask, 0.25), atol=0.51)
    mixed = np.where(mask[..., None], adversarial, benign)
    np.testing.assert_array_equal(picture(page, "swapped"), faded(mixed, mask, 1))
    page.locator("#fields").get_by_role("slider").first.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    settle(page)
    assert property_of(page, "visibility", "value") == 0
    np.testing.assert_array_equal(picture(page, "benign"), faded(benign, mask, 0))
    assert not [name for name in FIGURES if canvas_is_blank(page, f"field-{name}-0")]


def test_bars_and_numbers(open_page: OpenPage) -> None:
    made = exploration()
    page = open_page(made, hash="level=1&neuron0=3")
    assert made.fields is not None
    fields, p, place = made.fields, made.images.probabilities, made.fields.neurons.tolist().index(3)
    truth, turned = int(made.images.labels[0]), int(made.images.adversarial_classes[1, 0])
    seen = fields.seen[1, 0, place]
    drop, rise = fields.drop[1, 0, place], fields.rise[1, 0, place]
    both = [truth, turned]
    wanted = {
        "benign": [p[0, 0, truth], seen[0, 0], p[0, 0, turned], seen[0, 1]],
        "adversarial": [p[2, 0, truth], seen[1, 0], p[2, 0, turned], seen[1, 1]],
        "swapped": [p[0, 0, truth], p[0, 0, truth] - drop, p[0, 0, turned], p[0, 0, turned] + rise],
    }
    for name, values in wanted.items():
        columns = source(page, f"field-{name}-bars-source-0")
        np.testing.assert_allclose(columns["p"], values, atol=1e-4)
        assert columns["of"] == [made.classes[k] for k in both for _ in range(2)]
    text = property_of(page, "swap", "text")
    assert f"−{drop:.3f}</b>" in text
    assert f"{fields.masks[1, 0, place].sum()} of 144 pixels" in text


def test_an_attack_that_turns_nothing_is_said(open_page: OpenPage) -> None:
    made = exploration()
    images = made.images
    right = int((images.probabilities[1].argmax(-1) == images.labels)[:4].argmax())
    wrong = int((images.probabilities[1].argmax(-1) != images.labels)[:4].argmax())
    page = open_page(made, hash="level=0&neuron0=3")
    for row, said in ((right, True), (wrong, False)):
        page.evaluate("(row) => explorer.selectImages([row])", row)
        settle(page)
        assert f"in image {row}:" in property_of(page, "swap", "text")
        assert ("The attack leaves the prediction of this image right" in property_of(page, "swap", "text")) == said


def test_one_class(open_page: OpenPage) -> None:
    page = open_page(exploration(classes=1), hash="level=0&neuron0=3")
    assert property_of(page, "swap", "text").endswith("There is no other class.")


def means(made: Exploration, row: int, level: int, neurons: list[int]) -> tuple[np.ndarray[Any, Any], ...]:
    """Both maps by the definition."""
    fields = made.fields
    assert fields is not None
    found = []
    chosen = [place for place, neuron in enumerate(fields.neurons) if neuron in neurons]
    masks = fields.masks[level, row, chosen]
    for numbers in (fields.drop, fields.rise):
        total = np.multiply(masks, numbers[level, row, chosen][:, None, None]).sum(0)
        count = masks.sum(0)
        found.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    return tuple(found)


def test_vulnerability_maps(open_page: OpenPage) -> None:
    made = exploration()
    page = open_page(made, hash="level=0&neuron0=3")
    for neurons in ([0, 1, 2, 3, 4], [1, 3], [3, 20]):
        page.evaluate("(all) => explorer.selectNeurons(explorer.page.models[0], all)", neurons)
        settle(page)
        drop, rise = means(made, 0, 0, neurons)
        np.testing.assert_allclose(picture(page, "drop-values"), drop, atol=1e-6)
        np.testing.assert_allclose(picture(page, "rise-values"), rise, atol=1e-6)
        assert property_of(page, "drop-colours", "high") == pytest.approx(np.nanmax([drop, rise]))
        assert property_of(page, "drop-colours", "low") == 0
    page.evaluate("explorer.selectNeurons(explorer.page.models[0], [20])")
    settle(page)
    assert np.isnan(picture(page, "drop-values")).all()
    assert "none of the selected neurons has a receptive field in this image" in property_of(page, "maps-note", "text")
    page.locator("#fields").get_by_role("slider").nth(1).focus()
    for _ in range(14):
        page.keyboard.press("ArrowLeft")
    settle(page)
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('field-rise-renderer-0').glyph.global_alpha.value") == 0


def test_images_are_walked_through(open_page: OpenPage) -> None:
    made = exploration()
    page = open_page(made, hash="level=0&neuron0=3")
    assert "4 images (0, 1, 2, 3) and the 5 most vulnerable neurons" in property_of(page, "note", "text")
    seen = []
    for _ in range(5):
        seen.append(property_of(page, "image", "text").split("</b>")[0].removeprefix("<b>"))
        press(page, "Next image ›")
    assert seen == ["image 0", "image 1", "image 2", "image 3", "image 0"]
    page.evaluate("explorer.selectImages([2, 3, 30])")
    settle(page)
    press(page, "‹ Previous image")
    assert "<b>image 3</b> (2 of 2)" in property_of(page, "image", "text")
    assert made.images.benign is not None
    np.testing.assert_array_equal(picture(page, "drop-map"), made.images.benign[3])


def test_no_field_says_where_some_are(open_page: OpenPage) -> None:
    made = exploration()
    page = open_page(made, hash="level=0&neuron0=20")
    assert "No receptive field of neuron 20 is in the page; neurons 4, 3, 2, 1, 0 have" in property_of(
        page, "problem", "text"
    )
    assert not is_shown(page, "pictures")
    assert is_shown(page, "without")
    assert not canvas_is_blank(page, "field-drop-map-0")  # maps are over all neurons
    press(page, "Go to neuron 4")
    assert page.evaluate("explorer.page.models[0].focus") == 4
    assert is_shown(page, "pictures")
    assert not canvas_is_blank(page, "field-benign-0")
    page.evaluate("explorer.selectImages([10, 11])")
    settle(page)
    assert "No selected image has a receptive field in the page; images 0, 1, 2, 3 have." in property_of(
        page, "problem", "text"
    )
    press(page, "Select the images with receptive fields")
    assert page.evaluate("explorer.imageRows()") == [0, 1, 2, 3]
    assert is_shown(page, "pictures")


def test_neurons_are_chosen_from_the_list_and_the_plot(open_page: OpenPage) -> None:
    made = exploration()
    page = open_page(made, hash="level=0&neuron0=3")
    choice = page.locator("#fields").get_by_label("Neuron, most vulnerable first")
    assert choice.locator("option").all_inner_texts() == [f"{n + 1}. neuron {4 - n}" for n in range(5)]
    choice.select_option(label="5. neuron 0")
    settle(page)
    assert page.evaluate("explorer.page.models[0].focus") == 0
    assert made.fields is not None
    place = made.fields.neurons.tolist().index(1)
    click(page, "field-occlusion-0", float(made.fields.control[place]), float(made.fields.own[place]))
    assert page.evaluate("explorer.page.models[0].focus") == 1
    text = property_of(page, "occlusion-said", "text")
    assert f"<b>{100 * made.fields.own[place]:.0f} %</b>" in text
    assert f"<b>{np.greater(made.fields.own, made.fields.control).sum()} of 5</b>" in text


def test_features(open_page: OpenPage) -> None:
    made = exploration()
    features = made.features
    assert features is not None
    features.patches[7, 1] = [0, 0, 12, 12]
    page = open_page(made, hash="level=0&neuron0=7")
    columns = source(page, "features-tiles-0")
    assert columns["sample"] == features.samples[7].tolist()
    np.testing.assert_allclose(columns["value"], features.values[7], rtol=1e-6)
    assert columns["of"] == [made.classes[made.images.labels[row]] for row in features.rows[7]]
    space = columns["frame_left"][1]
    assert columns["left"][:2] == [3, space]
    assert columns["right"][:2] == [10, space + 12]
    assert columns["top"][:2] == [12 - 2, 12]
    assert columns["bottom"][:2] == [12 - 9, 0]
    assert columns["patch"][:2] == ["rows 2 to 8, columns 3 to 9", "the whole image"]
    assert "1 of these patches are the whole image" in property_of(page, "features-note", "text")
    assert not canvas_is_blank(page, "features-0")


def test_features_beside_the_images_of_the_page(open_page: OpenPage) -> None:
    made = exploration(samples=8)
    features = made.features
    assert features is not None
    extra = np.full((2, 12, 12, 3), 7, np.uint8)
    rows, samples = features.rows.copy(), features.samples.copy()
    rows[3, :3], samples[3, :3] = [8, 9, -1], [100, 101, 102]
    changed = replace(features, rows=rows, samples=samples, extra=extra)
    page = open_page(replace(made, features=changed), hash="level=0&neuron0=3")
    images = source(page, "features-source-0")["image"]
    assert len(images) == 5
    assert set(images[0]) == {0xFF070707}
    assert "1 of them have no picture in the page" in property_of(page, "features-note", "text")
    assert source(page, "features-tiles-0")["of"][0].startswith("not known")


def test_features_without_fields(open_page: OpenPage) -> None:
    made = replace(exploration(), fields=None, missing={"fields": "No fields, because <swaps> were left out."})
    page = open_page(made)
    assert property_of(page, "note", "text") == "No fields, because &lt;swaps> were left out."
    assert not is_shown(page, "maps")
    assert not canvas_is_blank(page, "features-0")


def test_a_server_is_asked_for_what_is_not_precomputed(open_page: OpenPage) -> None:
    """Against a stand-in for the server's answers."""
    page = open_page(exploration(), hash="level=0&neuron0=4")
    page.evaluate(
        """() => {
          explorer.page.served = true;
          window.asked = [];
          explorer.ask = async (kind, what) => {
            window.asked.push([kind, what]);
            if (what.neuron === 21) throw new Error("The server is gone.");
            await new Promise((resolve) => setTimeout(resolve, 100));
            const mask = new Uint8Array(144).fill(1, 0, 12);
            const of = (values, ...shape) => ({data: Float32Array.from(values), shape});
            return {arrays: {mask: {data: mask, shape: [12, 12]}, drop: of([0.25], 1), rise: of([0.125], 1),
                             seen: of([0.5, 0.25, 0.125, 0.0625], 2, 2)}};
          };
          for (const neuron of [18, 19, 20]) explorer.focusNeuron(explorer.page.models[0], neuron);
        }"""
    )
    settle(page)
    assert property_of(page, "problem", "text") == "Computing the receptive field of neuron 20 in image 0 …"
    page.wait_for_function("Bokeh.documents[0].get_model_by_name('field-swap-0').text.includes('Neuron 20')")
    assert is_shown(page, "pictures")
    # those that were only passed by are not computed
    assert page.evaluate("asked") == [["field", {"model": 0, "level": 0, "row": 0, "neuron": 20}]]
    assert "12 of 144 pixels" in property_of(page, "swap", "text")
    assert source(page, "field-adversarial-bars-source-0")["p"][1::2] == [0.125, 0.0625]
    page.evaluate("explorer.focusNeuron(explorer.page.models[0], 4)")
    page.evaluate("explorer.focusNeuron(explorer.page.models[0], 20)")
    settle(page)
    assert is_shown(page, "pictures")
    assert len(page.evaluate("asked")) == 1
    page.evaluate("explorer.focusNeuron(explorer.page.models[0], 21)")
    page.wait_for_function(
        "Bokeh.documents[0].get_model_by_name('field-problem-0').text.endsWith('computed: The server is gone.')"
    )
    press(page, "Try again")
    page.wait_for_function("asked.length === 3")


def test_two_models_show_the_same_image(open_page: OpenPage) -> None:
    page = open_page([exploration(), exploration(seed=1, name="Other")], hash="level=0&neuron0=3&neuron1=3")
    page.locator("#fields-model-0").get_by_role("button", name="Next image ›").click()
    settle(page)
    for index in range(2):
        text = page.evaluate(f"Bokeh.documents[0].get_model_by_name('field-image-{index}').text")
        assert text.startswith("<b>image 1</b>")
