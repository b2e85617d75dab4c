"""Where things of a Bokeh figure are on the screen, and the mouse that goes there.

Figures are called as in :func:`neurosens_fast.explorer.page.document.page_roots`' models: ``name="something-0"``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from playwright.sync_api import Page

DOUBLE_CLICK = 310
"""Milliseconds after which Bokeh no longer takes a second click, wherever it is, for a double one."""

FIND = """
function viewOf(name) {
  const model = Bokeh.documents[0].get_model_by_name(name);
  if (model === null) throw new Error(`there is no Bokeh model called ${name}`);
  const view = Bokeh.index.find_one(model);
  if (view === null) throw new Error(`${name} is not drawn`);
  return view;
}
"""


Data: TypeAlias = tuple[float | str, float | str]
"""Coordinates of a figure: numbers, or names of categories."""


class Place(NamedTuple):
    """Pixels from the top left of the window."""

    x: float
    y: float


def settle(page: Page) -> None:
    """Wait until Bokeh has drawn what the last step changed."""
    page.evaluate(
        """async () => {
          const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
          await frame();
          await frame();
          while (!Bokeh.documents[0].is_idle) await frame();
        }"""
    )


def point(page: Page, figure: str, x: float | str, y: float | str, scroll: bool = True) -> Place:
    """Where ``(x, y)`` in the data coordinates of ``figure`` is in the window; names of categories are coordinates too.

    Scrolls the figure to the middle of the window first. ``AssertionError`` where the point is outside of the frame.
    """
    return points(page, figure, [(x, y)], scroll)[0]


def points(
    page: Page, figure: str, places: Iterable[tuple[float | str, float | str]], scroll: bool = True
) -> list[Place]:
    """:func:`point` for several."""
    wanted = [list(place) for place in places]
    if scroll:
        page.evaluate(
            f"""(name) => {{ {FIND} viewOf(name).el.scrollIntoView({{block: "center", inline: "center"}}); }}""", figure
        )
    settle(page)
    found = page.evaluate(
        f"""([name, places]) => {{ {FIND}
          const view = viewOf(name);
          const {{x_scale, y_scale, bbox}} = view.frame;
          const corner = view.canvas_view.el.getBoundingClientRect();
          return places.map(([x, y]) => {{
            const [sx, sy] = [x_scale.compute(x), y_scale.compute(y)];
            const inside = bbox.x0 <= sx && sx <= bbox.x1 && bbox.y0 <= sy && sy <= bbox.y1;
            return [corner.x + sx, corner.y + sy, inside];
          }});
        }}""",
        [figure, wanted],
    )
    for place, (_, _, inside) in zip(wanted, found, strict=True):
        assert inside, f"{place} is outside of what {figure} shows"
    return [Place(x, y) for x, y, _ in found]


def click(page: Page, figure: str, x: float | str, y: float | str, modifiers: Iterable[str] = ()) -> None:
    """A click on a point of a figure, with keys such as ``"Shift"`` held down."""
    place = point(page, figure, x, y)
    page.wait_for_timeout(DOUBLE_CLICK)
    for key in modifiers:
        page.keyboard.down(key)
    page.mouse.click(*place)
    for key in modifiers:
        page.keyboard.up(key)
    settle(page)


def hover(page: Page, figure: str, x: float | str, y: float | str) -> None:
    """The mouse over a point of a figure, so that its tooltip shows."""
    place = point(page, figure, x, y)
    page.mouse.move(place.x - 3, place.y - 3)
    page.mouse.move(*place)
    settle(page)


def drag(page: Page, figure: str, places: Iterable[Data], steps: int = 5) -> None:
    """The mouse pressed at the first point, moved over the others, and released at the last."""
    first, *others = points(page, figure, places)
    page.mouse.move(*first)
    page.mouse.down()
    for place in others:
        page.mouse.move(*place, steps=steps)
    page.mouse.up()
    settle(page)


def lasso(page: Page, figure: str, places: Iterable[Data]) -> None:
    """A closed lasso around the polygon of ``places``, with whatever tool of the figure takes a drag."""
    corners = list(places)
    drag(page, figure, [*corners, corners[0]])


def lasso_all(page: Page, figure: str) -> None:
    """A lasso around everything that a figure shows."""
    x0, x1, y0, y1 = frame_range(page, figure)
    dx, dy = (x1 - x0) / 200, (y1 - y0) / 200
    lasso(page, figure, [(x0 + dx, y0 + dy), (x1 - dx, y0 + dy), (x1 - dx, y1 - dy), (x0 + dx, y1 - dy)])


def frame_range(page: Page, figure: str) -> tuple[float, float, float, float]:
    """``x0, x1, y0, y1`` of what a figure shows, numbers also where its axes have categories."""
    settle(page)
    found: list[float] = page.evaluate(
        f"""(name) => {{ {FIND}
          const {{x_scale, y_scale}} = viewOf(name).frame;
          return [x_scale.source_range.start, x_scale.source_range.end,
                  y_scale.source_range.start, y_scale.source_range.end];
        }}""",
        figure,
    )
    return (found[0], found[1], found[2], found[3])


def source(page: Page, name: str) -> dict[str, list[Any]]:
    """The columns of the ``ColumnDataSource`` called ``name``."""
    columns: dict[str, list[Any]] = page.evaluate(
        """(name) => {
          const model = Bokeh.documents[0].get_model_by_name(name);
          if (model === null) throw new Error(`there is no Bokeh model called ${name}`);
          const plain = (value) => ArrayBuffer.isView(value) || Array.isArray(value) ? Array.from(value, plain) : value;
          const data = model.data instanceof Map ? Object.fromEntries(model.data) : model.data;
          return Object.fromEntries(Object.entries(data).map(([key, value]) => [key, plain(value)]));
        }""",
        name,
    )
    return columns


def marks(page: Page, figure: str) -> int:
    """How many pixels inside of the frame of ``figure`` are neither white nor as light a grey as grid lines."""
    settle(page)
    count: int = page.evaluate(
        f"""(name) => {{ {FIND}
          const view = viewOf(name);
          const edge = 4; // where axes and ticks are drawn
          const box = view.frame.bbox;
          const [x0, y0, x1, y1] = [box.x0 + edge, box.y0 + edge, box.x1 - edge, box.y1 - edge];
          const ratio = view.canvas_view.primary.pixel_ratio;
          const [width, height] = [Math.round((x1 - x0) * ratio), Math.round((y1 - y0) * ratio)];
          if (!(width > 0 && height > 0)) throw new Error(`${{name}} is hidden, or too small to show anything`);
          // a copy, so that the canvas of the page is never read back, which browsers warn of
          const copy = new OffscreenCanvas(width, height).getContext("2d", {{willReadFrequently: true}});
          copy.fillStyle = "white";
          copy.fillRect(0, 0, width, height);
          for (const canvas of view.canvas_view.shadow_el.querySelectorAll("canvas")) {{
            copy.drawImage(canvas, x0 * ratio, y0 * ratio, width, height, 0, 0, width, height);
          }}
          const {{data}} = copy.getImageData(0, 0, width, height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4) {{
            const [red, green, blue] = [data[i], data[i + 1], data[i + 2]];
            const light = Math.min(red, green, blue);
            if (light < 0xd8 || Math.max(red, green, blue) - light > 12) count++;
          }}
          return count;
        }}""",
        figure,
    )
    return count


def canvas_is_blank(page: Page, figure: str) -> bool:
    """Whether a figure shows nothing inside of its frame but background and grid lines."""
    return marks(page, figure) == 0


def figures(page: Page) -> list[str]:
    """The names of all figures that are visible, in order of appearance; figures without a name are an error."""
    settle(page)
    names: list[str | None] = page.evaluate(
        """() => [...Bokeh.index.all_views()]
          .filter((view) => view.frame && view.canvas_view && view.el.checkVisibility() && view.frame.bbox.width > 0)
          .map((view) => view.model.name)"""
    )
    assert None not in names, f"{names.count(None)} figures have no name"
    return [name for name in names if name is not None]


def selected(page: Page) -> str:
    """What the page says is selected: ``60 of 60 images · 24 of 24 neurons selected``."""
    return page.locator("#selected").text_content() or ""
