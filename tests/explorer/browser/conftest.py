"""A real browser for tests of the page: headless Chromium, which reaches nothing but the page itself."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neurosens_fast.explorer.exploration import Exploration
from neurosens_fast.explorer.page import document, layout
from neurosens_fast.explorer.page.document import page_html

if TYPE_CHECKING:  # playwright is not needed to collect these tests, nor to run the others
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route

    OpenPage = Callable[..., Page]

FINDER = Path(__file__).parents[3] / "scripts" / "chromium.sh"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BUDGET = 15_000_000
VIEWPORT = {"width": 1500, "height": 1000}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Headless Chromium; a test that asks for it fails where there is none."""
    found = subprocess.run(["sh", FINDER], capture_output=True, text=True)
    if found.returncode:
        pytest.fail(found.stderr.strip(), pytrace=False)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.fail("tests of the page need playwright; type: pip install 'neurosens-fast[browser]'", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found.stdout.strip(), args=list(ARGUMENTS))
        yield browser
        browser.close()


class Watched:
    """Pages of one test, and what went wrong in them: ``complaints`` that are left at its end fail it."""

    def __init__(self, browser: Browser) -> None:
        self.complaints: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def open(self, address: str, allowed: str, offline: bool, viewport: Mapping[str, int] = VIEWPORT) -> Page:
        """A page at ``address`` once it is ready; requests that do not begin with ``allowed`` are a complaint."""
        from playwright.sync_api import TimeoutError as Late

        size = {"width": viewport["width"], "height": viewport["height"]}
        context = self._browser.new_context(viewport=size, locale="en-US", accept_downloads=True)  # type: ignore[arg-type]
        self._contexts.append(context)
        context.set_offline(offline)
        context.set_default_timeout(60_000)  # milliseconds; how fast the page is has tests of its own

        def pass_or_stop(route: Route) -> None:
            if route.request.url.split("#")[0].startswith(allowed):
                route.continue_()
            else:
                route.abort()

        context.route("**/*", pass_or_stop)
        page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", lambda request: self._request(request.url, allowed))
        page.on("websocket", lambda socket: self._request(socket.url, allowed.replace("http:", "ws:")))
        page.goto(address)
        try:
            page.wait_for_selector("body[data-complete=true]", state="attached")
        except Late:
            said = page.locator("#selected").all_text_contents()
            raise AssertionError("\n".join(["the page did not become ready", *said, *self.complaints])) from None
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.complaints.append(f"console {message.type}: {message.text}")

    def _request(self, url: str, allowed: str) -> None:
        if not url.split("#")[0].startswith((allowed, "data:", "blob:")):
            self.complaints.append(f"request: {url[:200]}")


@pytest.fixture
def watched(chromium: Browser) -> Iterator[Watched]:
    """Where pages are opened; ``watched.complaints.clear()`` is for a test that provokes them."""
    pages = Watched(chromium)
    yield pages
    pages.close()
    assert not pages.complaints, "\n".join(pages.complaints)


@pytest.fixture(scope="session")
def pages() -> dict[bytes, str]:
    """HTML of what was opened before: making it takes seconds, and many tests open the same."""
    return {}


@pytest.fixture
def open_page(
    watched: Watched,
    pages: dict[bytes, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> OpenPage:
    """``open_page(explorations, hash="", viewport=..., budget=...)``: the page of these, from a file, without network.

    The test fails where the page asks for anything but itself, logs an error or a warning, or throws. A module of tests
    with ``SECTIONS`` has only those on its pages, which open in half the time; ``test_page.py`` opens whole ones.
    """
    count = 0
    wanted = getattr(request.module, "SECTIONS", None)
    if wanted is not None:
        few = tuple(section for section in layout.SECTIONS if section.name in wanted)
        monkeypatch.setattr(layout, "SECTIONS", few)
        monkeypatch.setattr(document, "SECTIONS", few)

    def call(
        explorations: Exploration | Sequence[Exploration],
        hash: str = "",
        viewport: Mapping[str, int] = VIEWPORT,
        budget: int = BUDGET,
    ) -> Page:
        nonlocal count
        several = (explorations,) if isinstance(explorations, Exploration) else tuple(explorations)
        path = tmp_path / f"page-{count}.html"
        count += 1
        key = hashlib.sha256(pickle.dumps((several, budget, wanted))).digest()
        if key not in pages:
            pages[key] = page_html(several, budget)
        path.write_text(pages[key], "utf-8")
        address = path.as_uri()
        return watched.open(f"{address}#{hash.removeprefix('#')}" if hash else address, address, True, viewport)

    return call
