"""The server of the page without a browser: who may talk to it, and what it answers."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from bokeh.models import ColumnDataSource, Div

from neurosens_fast.explorer.exploration import Exploration
from neurosens_fast.explorer.explorer import Explorer
from neurosens_fast.explorer.server import answered

from .synthetic import exploration


class Fails:
    def field(self, level: int, row: int, neuron: int) -> Mapping[str, Any]:
        raise RuntimeError("")


class Answers:
    def field(self, level: int, row: int, neuron: int) -> Mapping[str, Any]:
        return {"mask": np.eye(3, dtype=bool), "drop": 0.5, "rise": float("nan"), "seen": np.ones((2, 2), np.float32)}


@pytest.fixture(scope="module", autouse=True)
def _few_views() -> Iterator[None]:
    """One view that is a text: those of the page take seconds to make, and are looked at in a browser."""

    def roots(explorations: Sequence[Exploration]) -> list[ColumnDataSource]:
        return [ColumnDataSource(name="views", tags=[Div(name="overview-0", text="a view")])]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neurosens_fast.explorer.server.page_roots", roots)
        yield


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with Explorer([exploration(samples=4, neurons=3)], [Answers()]).served() as url:
        assert url.startswith("http://127.0.0.1:")
        yield int(url.rstrip("/").rpartition(":")[2])


def get(port: int, path: str = "/", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_needs_nothing_from_elsewhere(port: int) -> None:
    status, text = get(port)
    assert status == 200
    assert "<title>SmallCNN: neuron vulnerability</title>" in text
    assert "explorer.ask = " in text
    assert "<script src" not in text.replace('type="text/javascript" ', "")
    assert "cdn.bokeh.org" not in text.partition("<body")[2]
    assert get(port)[1].count("explorer.ask = ") == 1, "a second person gets the same"


def test_answers_this_machine_only(port: int) -> None:
    others = {"127.0.0.2", "::1", *(entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None))}
    others |= {str(address) for address in _addresses()} - {"127.0.0.1"}
    others.discard("127.0.0.1")
    for address in others:
        with pytest.raises(OSError):  # noqa: PT011 - refused, or no such network
            socket.create_connection((str(address), port), timeout=2).close()
    socket.create_connection(("127.0.0.1", port), timeout=2).close()


def _addresses() -> Iterator[str]:
    """Addresses from which this machine would reach others; nothing is sent."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            try:
                sender.connect((target, 9))
            except OSError:
                continue
            yield sender.getsockname()[0]


@pytest.mark.parametrize(("name", "status"), [("127.0.0.1", 200), ("localhost", 200), ("page.example", 403)])
def test_answers_to_its_own_name_only(port: int, name: str, status: int) -> None:
    """A page elsewhere cannot read this one by pointing a name of its own here."""
    assert get(port, Host=f"{name}:{port}")[0] == status


@pytest.mark.parametrize(("origin", "fine"), [("http://127.0.0.1", True), ("http://page.example", False)])
def test_pages_from_elsewhere_cannot_ask(port: int, origin: str, fine: bool) -> None:
    from tornado.httpclient import HTTPClientError, HTTPRequest
    from tornado.websocket import websocket_connect

    token = json.loads('"' + get(port)[1].partition('"token":"')[2].partition('"')[0] + '"')

    async def connect() -> None:
        request = HTTPRequest(f"ws://127.0.0.1:{port}/ws", headers={"Origin": f"{origin}:{port}"})
        connection = await websocket_connect(request, subprotocols=["bokeh", token])
        connection.close()

    with nullcontext() if fine else pytest.raises(HTTPClientError, match="403"):
        asyncio.run(connect())


def test_a_port_in_use(port: int) -> None:
    before = threading.active_count()
    other = Explorer([exploration(samples=4, neurons=3)])
    with pytest.raises(ValueError, match=rf"^port {port} of 127\.0\.0\.1 is in use; choose another, or 0 for any"):
        other.serve(port)
    assert threading.active_count() == before


@pytest.mark.parametrize("port", [-1, 65536, True, "5006", 1.0])
def test_no_port(port: Any) -> None:
    with pytest.raises(ValueError, match="port must be a whole number from 0"), Explorer([exploration()]).served(port):
        pass


def test_ends_whole() -> None:
    before = threading.active_count()
    explorer = Explorer([exploration(samples=4, neurons=3)], [Answers()])
    with explorer.served() as url:
        assert threading.active_count() > before
    assert threading.active_count() == before
    port = int(url.rstrip("/").rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        get(port)
    with explorer.served(port) as again:
        assert again == url
        assert get(port)[0] == 200


def test_serves_until_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    def look(url: str) -> None:
        found.extend([url, get(int(url.rstrip("/").rpartition(":")[2]))[0]])
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    monkeypatch.setattr("webbrowser.open", look)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell in the background ignores it
    Explorer([exploration(samples=4, neurons=3)]).serve(0, show=True)
    url, status = found
    assert status == 200
    assert capsys.readouterr().out == f"The page is at {url} until Ctrl-C.\n"


def ask(question: Any, *on_demand: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        answered(on_demand, question if isinstance(question, str) else json.dumps(question))
    )
    return found


QUESTION = {"kind": "field", "model": 0, "level": 0, "row": 1, "neuron": 2}


def test_answers_are_packed_as_the_page_is() -> None:
    arrays = ask(QUESTION, Answers())["arrays"]
    assert {name: (entry["type"], entry["shape"]) for name, entry in arrays.items()} == {
        "mask": ("bits", [3, 3]),
        "drop": ("Float32Array", []),
        "rise": ("Float32Array", []),
        "seen": ("Float32Array", [2, 2]),
    }


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("{", "Expecting property name"),
        ("[]", "the server answers questions for a receptive field only"),
        ({**QUESTION, "kind": "swap"}, "the server answers questions for a receptive field only"),
        ({**QUESTION, "row": None}, "row must be a whole number of at least 0, got None"),
        ({**QUESTION, "row": 1.5}, "row must be a whole number of at least 0, got 1.5"),
        ({**QUESTION, "level": True}, "level must be a whole number of at least 0, got True"),
        ({**QUESTION, "neuron": -1}, "neuron must be a whole number of at least 0, got -1"),
        ({**QUESTION, "model": 2}, "receptive fields of model 2 cannot be computed"),
        ({**QUESTION, "model": 1}, "receptive fields of model 1 cannot be computed"),
        (QUESTION, "RuntimeError"),
    ],
)
def test_errors_are_one_sentence(question: Any, sentence: str) -> None:
    found = ask(question, Fails(), None)
    assert list(found) == ["error"]
    assert found["error"].startswith(sentence)
