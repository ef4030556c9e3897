"""What clients do wrong, by accident or on purpose, and that nobody else suffers from it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from taskheads.serve import ways
from tests.serve.conftest import Served, serving, together, until

SECRET = "zebra stripes"
ASKED = {"inputs": "home", "tasks": ["topic"]}


def healthy(served: Served) -> bool:
    return served.post("/v1/predict", {"inputs": f"text {time.monotonic()}"}).status_code == 200


@contextlib.contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    host, _, port = served.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def head(path: str, length: int, kind: str = "application/json") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_what_cannot_wait_is_told_to_come_again(folder: Path, held: threading.Event) -> None:
    """The queue never holds more than its bound; what it took is answered."""
    with serving(folder, waiting_tokens=60, workers=1, linger=0, batch_tokens=10) as served:
        post = partial(served.post, "/v1/predict")
        threading.Timer(0.5, held.set).start()
        answers = together(*(partial(post, {"inputs": f"some more words {at}"}) for at in range(40)))
        busy = [each for each in answers if each.status_code == 429]
        assert {each.status_code for each in answers} == {200, 429}
        assert served.service.batcher.tokens <= 60
        for each in busy:
            assert 1 <= int(each.headers["retry-after"]) <= 60
            assert each.json()["title"] == "Too Many Requests"
        assert healthy(served)
        for inputs in (["some more words"] * 100, [{}] * 100, ["a"] * 5000, "word " * 500):
            too_much = post({"inputs": inputs})
            assert (too_much.status_code, too_much.json()["errors"][0]["field"]) == (413, "inputs")
        lines = served.client.post(
            "/v1/bulk", content=f'"home"\n"{"word " * 500}"\n"fox"\n'
        ).text.splitlines()
        assert [json.loads(each).get("error", {}).get("status") for each in lines] == [None, 413, None]


def test_one_text_need_not_wait_for_all_of_a_large_request(folder: Path, monkeypatch: Any) -> None:
    sizes, plain = [], ways.answer_block
    gate = threading.Event()

    def answer_block(heads: Any, backbone_of: Any, asked: Any, **more: Any) -> Any:
        gate.wait(10)
        sizes.append("alone" in asked)
        return plain(heads, backbone_of, asked, **more)

    with serving(folder, workers=1, batch_tokens=40, linger=0) as served:
        monkeypatch.setattr(ways, "answer_block", answer_block)
        large = {"inputs": [f"a few words {at}" for at in range(200)]}
        one = threading.Thread(target=lambda: served.post("/v1/predict", large))
        one.start()
        until(lambda: served.service.batcher.busy)
        waiting = served.service.batcher.tokens
        two = threading.Thread(target=lambda: served.post("/v1/predict", {"inputs": "alone"}))
        two.start()
        until(lambda: served.service.batcher.tokens > waiting)
        gate.set()
        one.join()
        two.join()
    assert sizes.index(True) <= 2 < len(sizes)


def test_rows_of_a_client_that_has_gone_are_not_answered(folder: Path, monkeypatch: Any) -> None:
    seen: list[Any] = []
    gate, plain = threading.Event(), ways.answer_block

    def answer_block(heads: Any, backbone_of: Any, asked: Any, **more: Any) -> Any:
        gate.wait(10)
        seen.extend(asked)
        return plain(heads, backbone_of, asked, **more)

    with serving(folder, workers=1, linger=0, batch_tokens=8) as served:
        monkeypatch.setattr(ways, "answer_block", answer_block)
        first = threading.Thread(target=lambda: served.post("/v1/predict", {"inputs": "first"}))
        first.start()
        until(lambda: served.service.batcher.busy)
        body = json.dumps({"inputs": ["gone"] * 5}).encode()
        with connected(served) as connection:
            connection.sendall(head("/v1/predict", len(body)) + body)
            until(lambda: served.service.batcher.tokens)
        until(lambda: b'status="499"' in served.service.metrics.text())
        gate.set()
        first.join()
        assert healthy(served)
    assert "gone" not in seen


def test_a_body_that_does_not_come_is_not_waited_for(folder: Path) -> None:
    with serving(folder, patience=0.3) as served:
        with connected(served) as connection:
            connection.sendall(head("/v1/predict", 100) + b'{"inputs"')
            assert all_of(connection).startswith(b"HTTP/1.1 408")
        with connected(served) as connection:
            connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: loc")
            assert all_of(connection) == b""
        with connected(served) as connection:
            assert all_of(connection) == b""
        with connected(served) as connection:  # line by line: what came is answered, then it is told
            connection.sendall(head("/v1/bulk?tasks=topic", 100) + b'"home"\n"fox')
            answered = all_of(connection)
        assert b'"answers":{"topic"' in answered
        assert b'"status":408' in answered
        assert healthy(served)


def test_an_answer_that_is_not_taken_is_not_kept_for_ever(folder: Path) -> None:
    with serving(folder, patience=0.3) as served, connected(served) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        rows = b'{"query": "home"}\n' * 20_000
        connection.settimeout(0.5)
        with contextlib.suppress(TimeoutError, ConnectionError):  # it stops reading when nothing is taken
            connection.sendall(head("/v1/bulk?tasks=find", len(rows)) + rows)
        until(lambda: not served.server.server_state.tasks)
        assert healthy(served)


def test_a_body_beyond_the_limit_is_refused(folder: Path) -> None:
    with serving(folder, most_bytes=2000) as served:
        announced = served.post("/v1/predict", {"inputs": "a" * 3000})
        assert (announced.status_code, "2,000 bytes" in announced.json()["detail"]) == (413, True)
        chunked = served.client.post(
            "/v1/predict",
            content=(b" " * 500 for _ in range(8)),
            headers={"Content-Type": "application/json"},
        )
        assert chunked.status_code == 413
        lines = served.client.post("/v1/bulk?tasks=topic", content=b'"home"\n"' + b"a" * 3000 + b'"\n"fox"\n')
        first, second, third = map(json.loads, lines.text.splitlines())
        assert first["answers"]
        assert third["answers"]
        assert (second["error"]["status"], second["error"]["errors"][0]["field"]) == (413, "line 2")
        endless = served.client.post("/v1/bulk?tasks=topic", content=(b"a" * 1000 for _ in range(9)))
        assert [json.loads(line)["error"]["status"] for line in endless.text.splitlines()] == [413]
        assert healthy(served)


def test_bodies_that_are_held_are_bounded_all_together(folder: Path, held: threading.Event) -> None:
    with serving(folder, most_bytes=1000, workers=1) as served:
        body = {"inputs": ["a" * 900]}
        threading.Timer(1.0, held.set).start()
        statuses = [each.status_code for each in together(*[partial(served.post, "/v1/predict", body)] * 24)]
        assert {200, 429} == set(statuses)
        assert statuses.count(200) <= 17
        assert healthy(served)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b'{"inputs": "\xff"}', 400),
        (b"[" * 100_000, 400),
        (b'{"inputs":' + b"[" * 20_000 + b"]" * 20_000 + b"}", 400),
        (b'{"inputs": ' + b"9" * 5000 + b"}", 400),
        (b'{"inputs": NaN}', 422),
        (b'"text"', 422),
        (b"null", 422),
        (b'{"inputs": {"text": {"text": {}}}}', 422),
        (b'{"inputs": {"": "' + SECRET.encode() + b'"}}', 422),
        (b'{"inputs": "a", "' + SECRET.encode() * 100 + b'": 1}', 422),
    ],
)
def test_a_body_that_is_none(served: Served, body: bytes, status: int) -> None:
    answer = served.client.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["errors"][0]["field"]
    assert len(answer.content) < 1000
    assert healthy(served)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nzz",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 300_000 + b"\r\n",
    ],
)
def test_what_is_no_http(folder: Path, sent: bytes) -> None:
    with serving(folder, patience=0.3) as served:
        with connected(served) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
            answered = all_of(connection)
        assert b" 200 " not in answered.partition(b"\r\n")[0]
        assert healthy(served)


def test_a_repeated_text_is_answered_without_the_model(folder: Path, held: threading.Event) -> None:
    with serving(folder) as served:
        held.set()
        first = served.post("/v1/predict", ASKED).json()
        held.clear()
        assert served.post("/v1/predict", ASKED).json() == first
        assert b'taskheads_rows_total{source="cache"} 1.0' in served.service.metrics.text()
        held.set()


def test_more_connections_than_the_bound_are_turned_away(folder: Path) -> None:
    with serving(folder, most_connections=8) as served, contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connected(served))
        assert served.client.get("/healthz").status_code == 503
        stack.close()
        until(lambda: len(served.server.server_state.connections) < 4)
        assert healthy(served)


def test_an_end_in_order_finishes_what_was_taken(folder: Path, held: threading.Event) -> None:
    """What waits is answered; a bulk request is told from which line on to send again."""
    found: list[Any] = []
    with serving(folder) as served:
        host, _, port = served.address.removeprefix("http://").partition(":")
        asking = threading.Thread(target=lambda: found.append(served.post("/v1/predict", ASKED)))
        asking.start()
        until(lambda: served.service.batcher.busy)
        with connected(served) as connection:
            connection.sendall(head("/v1/bulk?tasks=topic", 100) + b'"fox"\n')
            until(lambda: served.service.batcher.tokens or served.service.batcher.busy > 1)
            served.server.should_exit = True
            until(served.service.closing.is_set)
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((host, int(port)), timeout=5)
            held.set()
            bulk = all_of(connection)
        asking.join()
    assert found[0].status_code == 200
    assert b'"answers":{"topic"' in bulk
    assert b'"status":503' in bulk
    assert b'"field":"line 2"' in bulk
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{host}:{port}/healthz")
