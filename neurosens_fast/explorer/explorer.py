"""What ``explore()`` returns: the page, as a file, from a local server, or in a notebook."""

from __future__ import annotations

import contextlib
import html
import threading
from collections.abc import Callable, Iterator, Sequence
from os import PathLike

from neurosens_fast.support.files import write_whole

from .exploration import Exploration
from .page.document import check_same, page_html
from .server import OnDemand, serving

BUDGET = 15_000_000
"""Bytes of a page above which its pictures are made smaller (a choice of this package)."""


class Explorer:
    """The interactive page of one model, or of two side by side.

    ``explorations`` hold its numbers. ``on_demand`` has, for each of them, what computes further receptive fields while
    the page is served, or None; without it, a served page shows what a saved one does.

    Raises ``ValueError`` where there is not one exploration or two, or where two are of other images or attacks.
    """

    def __init__(self, explorations: Sequence[Exploration], on_demand: Sequence[OnDemand | None] = ()) -> None:
        self.explorations = tuple(explorations)
        self._on_demand = tuple(on_demand)
        if len(self.explorations) not in (1, 2):
            raise ValueError(f"a page shows one model, or two side by side, got {len(self.explorations)}")
        if len(self._on_demand) not in (0, len(self.explorations)):
            raise ValueError(
                f"on_demand must have {len(self.explorations)} entries or none, got {len(self._on_demand)}"
            )
        check_same(self.explorations)

    def html(self, budget: int = BUDGET, tell: Callable[[list[str]], None] | None = None) -> str:
        """The page as HTML with everything in it: scripts, numbers and pictures; it fetches nothing.

        Where it would take more than ``budget`` bytes, pictures are made smaller, and the page says so; ``tell`` is
        called with these sentences, none where it shows everything.
        """
        return page_html(self.explorations, _checked(budget), tell)

    def save(
        self, path: str | PathLike[str], budget: int = BUDGET, tell: Callable[[list[str]], None] | None = None
    ) -> int:
        """Write the page of :meth:`html` as one file, whole or not at all; returns its size in bytes.

        Raises ``OSError`` where the file cannot be written; what was there before is then still there.
        """
        content = self.html(budget, tell).encode()
        write_whole(path, content)
        return len(content)

    @contextlib.contextmanager
    def served(self, port: int = 0, budget: int = BUDGET) -> Iterator[str]:
        """The address under which the page is served while the block runs, to this machine only.

        ``port`` 0 is any that is free. The page is that of :meth:`html`, and asks for receptive fields that are not in
        it. Raises ``ValueError`` where the port is in use or no port.
        """
        with serving(self.explorations, self._on_demand, port, _checked(budget)) as url:
            yield url

    def serve(self, port: int = 5006, show: bool = False, budget: int = BUDGET) -> None:
        """Serve the page as in :meth:`served` until Ctrl-C, and print its address; ``show`` opens it in a browser."""
        with self.served(port, budget) as url:
            print(f"The page is at {url} until Ctrl-C.", flush=True)
            if show:
                import webbrowser

                webbrowser.open(url)
            wait_for_interrupt()

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that neither its styles nor its scripts meet those of a notebook."""
        style = "width: 100%; height: 900px; border: 1px solid #d0d4da"
        return (
            f'<iframe title="{html.escape(repr(self))}" style="{style}" srcdoc="{html.escape(self.html())}"></iframe>'
        )

    def __repr__(self) -> str:
        first = self.explorations[0]
        names = " and ".join(f"{one.name} ({one.neurons:,} neurons of {one.layer})" for one in self.explorations)
        return f"Explorer of {names}: {len(first.images.labels):,} images, {', '.join(map(str, first.levels))}"


def wait_for_interrupt() -> None:
    """Return at Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def _checked(budget: int) -> int:
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise ValueError(f"budget must be a whole number of bytes of at least 1, got {budget!r}")
    return budget
