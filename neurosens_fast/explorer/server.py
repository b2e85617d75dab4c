"""The page from a server on this machine, which computes receptive fields that a person asks for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neurosens_fast.support.messages import one_line

from .exploration import Array, Exploration
from .page.document import file_text, page_roots, page_template, page_title, page_variables
from .page.packing import all_packed

if TYPE_CHECKING:
    from bokeh.document import Document
    from bokeh.server.tornado import BokehTornado

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
_DAY = 24 * 3600


class OnDemand(Protocol):
    """What computes the receptive field of one neuron in one of the images of a model."""

    def field(self, level: int, row: int, neuron: int) -> Mapping[str, Any]:
        """``mask`` ``[H, W]`` bool, ``drop``, ``rise`` and ``seen`` ``[2, 2]``, as in :class:`.exploration.Fields`."""


@contextlib.contextmanager
def serving(
    explorations: Sequence[Exploration], on_demand: Sequence[OnDemand | None], port: int, budget: int
) -> Iterator[str]:
    """The address of the page as long as the block runs; the server works in a thread of its own.

    Raises ``ValueError`` where the port cannot be had.
    """
    with contextlib.ExitStack() as cleanup:
        sockets = bound(port)
        for one in sockets:
            cleanup.callback(one.close)
        # The model is shared by all who look, so that one question is answered at a time.
        worker = ThreadPoolExecutor(1, "neurosens-fast-explorer")
        cleanup.callback(worker.shutdown, wait=True, cancel_futures=True)  # then the model is as it was
        port = sockets[0].getsockname()[1]
        application = _application(_make_document(explorations, on_demand, budget, worker), port)
        cleanup.callback(_started(application, sockets))
        yield f"http://{HOST}:{port}/"


def bound(port: int) -> list[socket.socket]:
    """Sockets that listen at ``port`` of this machine, to itself only. ``ValueError`` where it cannot be had."""
    from tornado.netutil import bind_sockets

    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65536:
        raise ValueError(f"port must be a whole number from 0 (any free port) to 65535, got {port!r}")
    try:
        return bind_sockets(port, HOST)  # type: ignore[no-any-return]
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror or error}"
        raise ValueError(f"port {port} of {HOST} {why}; choose another, or 0 for any that is free") from error


def _started(application: BokehTornado, sockets: list[socket.socket]) -> Callable[[], None]:
    """Answer requests in a thread with a loop of its own, whatever loop runs here; returns what ends that."""
    ready: Future[Callable[[], object]] = Future()

    async def run() -> None:
        from bokeh.server.server import BaseServer
        from tornado.httpserver import HTTPServer
        from tornado.ioloop import IOLoop

        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        http = HTTPServer(application)
        http.add_sockets(sockets)
        server = BaseServer(IOLoop.current(), application, http)
        server.start()
        ready.set_result(lambda: loop.call_soon_threadsafe(ended.set))
        await ended.wait()
        server.stop(wait=False)
        await http.close_all_connections()

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=work, name="neurosens-fast-server", daemon=True)
    thread.start()
    end = ready.result()

    def stop() -> None:
        end()
        thread.join()

    return stop


def _application(make: Callable[[Document], None], port: int) -> BokehTornado:
    """What answers requests: with scripts inlined as in the file, and only to those who call the server by its name.

    The name of another host that is made to point here is how a page of somebody else would reach this one.
    """
    from bokeh.resources import Resources
    from bokeh.server.tornado import BokehTornado
    from tornado.web import ErrorHandler

    class Application(BokehTornado):
        def resources(self, absolute_url: str | bool | None = None) -> Resources:
            return Resources(mode="inline", components=["bokeh", "bokeh-widgets", "bokeh-tables"])

        def find_handler(self, request: Any, **others: Any) -> Any:
            if request.host_name not in NAMES:
                return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
            return super().find_handler(request, **others)

    return Application(
        make,
        extra_websocket_origins=[f"{name}:{port}" for name in NAMES],
        # A page that was sent to sleep for an hour can still ask.
        unused_session_lifetime_milliseconds=1000 * _DAY,
        session_token_expiration=_DAY,
    )


def _make_document(
    explorations: Sequence[Exploration], on_demand: Sequence[OnDemand | None], budget: int, worker: ThreadPoolExecutor
) -> Callable[[Document], None]:
    """What fills the document of each person who opens the page."""
    answers = any(fields is not None for fields in on_demand)
    # Packing takes long and gives the same every time, while views belong to one document each.
    variables = page_variables(explorations, page_roots(explorations), budget, served=answers)
    if answers:
        variables["scripts"] += "\n" + file_text("scripts/served.js")

    def fill(document: Document) -> None:
        roots = page_roots(explorations)
        document.title = page_title(explorations)
        document.template = page_template()
        document.template_variables.update(variables)
        # The page lives in the browser: nothing that changes there is sent here, and after a pause nothing is replaced.
        document.config.reconnect_session = False
        document.config.notify_connection_status = False
        for root in roots:
            for model in root.references():
                model.syncable = False
        if answers:
            roots[0].tags = [*roots[0].tags, *_questions(document, on_demand, worker)]
        with document.models.freeze():
            for root in roots:
                document.add_root(root)

    return fill


def _questions(document: Document, on_demand: Sequence[OnDemand | None], worker: ThreadPoolExecutor) -> list[Any]:
    """Two sources of data: what the page puts into the first is answered in the second, with the same number."""
    from bokeh.models import ColumnDataSource

    question = ColumnDataSource(name="question", data={"number": [], "text": []})
    answer = ColumnDataSource(name="answer", data={"number": [], "text": []})

    def put(number: int, text: str) -> None:
        answer.data = {"number": [number], "text": [text]}

    def asked(name: str, old: object, new: Mapping[str, Sequence[Any]]) -> None:
        for number, text in zip(new["number"], new["text"], strict=True):

            def work(number: int = number, text: str = text) -> None:
                found = answered(on_demand, text)
                document.add_next_tick_callback(lambda: put(number, found))

            worker.submit(work)

    question.on_change("data", asked)
    return [question, answer]


def answered(on_demand: Sequence[OnDemand | None], question: str) -> str:
    """The answer to a question, both as JSON: ``{"arrays": ...}`` as packed in a page, or ``{"error": sentence}``.

    A question is ``{"kind": "field", "model": 0, "level": 0, "row": 3, "neuron": 7}``.
    """
    try:
        asked = json.loads(question)
        if not isinstance(asked, dict) or asked.get("kind") != "field":
            raise ValueError("the server answers questions for a receptive field only")
        model, level, row, neuron = (_place(asked, name) for name in ("model", "level", "row", "neuron"))
        fields = on_demand[model] if model < len(on_demand) else None
        if fields is None:
            raise ValueError(f"receptive fields of model {model} cannot be computed")
        field = fields.field(level, row, neuron)
        arrays: dict[str, Array] = {name: np.asarray(value) for name, value in field.items()}
        return json.dumps({"arrays": all_packed(arrays)}, allow_nan=False)
    except Exception as error:  # whatever a model raises: the page shows it where it asked
        return json.dumps({"error": one_line(error)})


def _place(asked: Mapping[str, Any], name: str) -> int:
    place = asked.get(name)
    if isinstance(place, bool) or not isinstance(place, int) or place < 0:
        raise ValueError(f"{name} must be a whole number of at least 0, got {place!r}")
    return place
