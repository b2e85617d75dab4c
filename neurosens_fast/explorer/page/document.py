"""One HTML file of one or two explorations: Bokeh's own scripts, ours, and all data, inlined."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from neurosens_fast.explorer.exploration import Exploration

from .content import check_same, content
from .layout import SECTIONS, views
from .text import without_formulas

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource
    from jinja2 import Template

SCRIPTS = (
    "core.js",
    "shared.js",
    "words.js",
    "pictures.js",
    "header.js",
    "overview.js",
    "grid.js",
    "columns.js",
    "contributions.js",
    "neurons.js",
    "agreement.js",
    "field_store.js",
    "field_maps.js",
    "fields.js",
    "features.js",
    "clusters.js",
    "search.js",
    "table.js",
)
"""In the order in which the page runs them."""

# Each has an element of its own, so that an error in one does not keep the others from running.
_NEXT_SCRIPT = "\n    </script>\n    <script>\n"

# What the template gets for the numbers while it is not known how many fit.
_PLACE = '"where the numbers of the page go"'


def page_roots(explorations: Sequence[Exploration]) -> list[ColumnDataSource]:
    """The root of the document, called ``views``: its tags are the Bokeh models of every view.

    They are named ``view-0`` for the first model and ``view-1`` for the second. As tags they are known to the page, but
    not drawn before a script asks for it, which fills each with its data first.
    """
    from bokeh.models import ColumnDataSource

    found = []
    for index, exploration in enumerate(explorations):
        for name, view in views(without_formulas(exploration), index).items():
            view.name = f"{name}-{index}"
            found.append(view)
    return [ColumnDataSource(name="views", tags=found)]


def page_variables(
    explorations: Sequence[Exploration],
    roots: Sequence[ColumnDataSource],
    budget: int,
    served: bool = False,
    taken: int = 0,
) -> dict[str, Any]:
    """What the template needs besides Bokeh's own variables; sizes are those of :func:`.content.content`."""
    return _variables(explorations, roots, _as_text(content(explorations, budget, served, taken)))


def page_title(explorations: Sequence[Exploration]) -> str:
    """The title of the page's window."""
    return f"{_names(explorations)}: neuron vulnerability"


def _names(explorations: Sequence[Exploration]) -> str:
    return " and ".join(exploration.name for exploration in explorations)


def _variables(explorations: Sequence[Exploration], roots: Sequence[ColumnDataSource], text: str) -> dict[str, Any]:
    return {
        "title_text": _names(explorations),
        "explorations": explorations,
        "view_names": [view.name for root in roots for view in root.tags],
        "sections": SECTIONS,
        "content": text,
        "scripts": _NEXT_SCRIPT.join(file_text(f"scripts/{name}") for name in SCRIPTS),
        "styles": file_text("explorer.css"),
    }


def _as_text(packed: Mapping[str, Any]) -> str:
    """JSON in which no "</script" or "<!--" of a name ends the script element that holds it, or hides its end."""
    return json.dumps(packed, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def page_template() -> Template:
    """The template of the page."""
    from bokeh.core.templates import get_env

    return get_env().from_string(file_text("template.html"))


def file_text(name: str) -> str:
    """What a file beside this one holds."""
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def page_html(explorations: Sequence[Exploration], budget: int, tell: Callable[[list[str]], None] | None = None) -> str:
    """The whole page as HTML that needs no other file and fetches nothing, of at most ``budget`` bytes if that can be.

    ``tell`` is called with the sentences that say what the page does not show in full.

    Raises ``ValueError`` for models that were not explored with the same images and attacks.
    """
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    check_same(explorations)
    roots = page_roots(explorations)
    variables = _variables(explorations, roots, _PLACE)
    # Bokeh's part takes long, so it is made once, and the numbers are put in when it is known how many fit.
    html: str = file_html(
        roots, INLINE, page_title(explorations), template=page_template(), template_variables=variables
    )
    before, after = html.split(_PLACE)
    packed = content(explorations, budget, taken=len(before.encode()) + len(after.encode()))
    if tell is not None:
        tell(packed["page"]["notes"])
    return before + _as_text(packed) + after
