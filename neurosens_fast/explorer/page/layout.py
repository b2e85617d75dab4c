"""Which views the page has, in which order, and what says why one is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neurosens_fast.explorer.exploration import Exploration

from .clusters import cluster_view
from .fields import field_view
from .grid import grid_view
from .neurons import neuron_view
from .overview import overview_view
from .table import table_view

if TYPE_CHECKING:
    from bokeh.models import UIElement


@dataclass(frozen=True)
class Section:
    """A part of the page: its views stand in ``roots``, its heading is ``title``, ``help`` says what to do there."""

    name: str
    title: str
    help: str
    make: Callable[[Exploration, int], UIElement | None]
    needs: str = ""

    def missing(self, exploration: Exploration) -> str:
        """Why the view is not there."""
        return exploration.missing.get(self.needs, "There is nothing to show here.")


SECTIONS = (
    Section(
        "overview",
        "Data overview",
        "Every point is an image. Draw a lasso to select images, or click a cell of the matrix (with Shift to add it, "
        "once more to release it); Escape selects all.",
        overview_view,
    ),
    Section(
        "grid",
        "Images",
        "Benign image above its adversarial one; borders have the colour of the predicted class. "
        "Click a pair to select that image alone.",
        grid_view,
        "images",
    ),
    Section(
        "neurons",
        "Neuron vulnerability",
        "What each neuron adds to a class before and after the attack, and below it the chosen measure. Drag over "
        "neurons to select them, click one to focus it; the tools at the right zoom.",
        neuron_view,
    ),
    Section(
        "fields",
        "Receptive field",
        "The pixels of one image that the focused neuron depends on most, and what the attack does there. Click a "
        "neuron in any view, or choose one here, to focus it.",
        field_view,
        "fields",
    ),
    Section(
        "clusters",
        "Neuron clusters",
        "The lower the link that joins neurons, the more alike is what they add to the classes. Click a link to select "
        "the neurons below it; dark marks below the tree are selected neurons.",
        cluster_view,
        "clusters",
    ),
    Section(
        "table",
        "All neurons",
        "Click a row to focus its neuron, with Ctrl or Shift to pick several; click a heading to sort by it, rest on "
        "it for its definition.",
        table_view,
    ),
)


def views(exploration: Exploration, index: int) -> dict[str, UIElement]:
    """The views of one model by the name of their section; those that cannot be shown are left out."""
    made = {section.name: section.make(exploration, index) for section in SECTIONS}
    return {name: view for name, view in made.items() if view is not None}
