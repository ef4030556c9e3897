"""`taskheads serve` as a process: what it prints, what signals do to it, and what it does not start with."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from taskheads.serve.running import Server
from taskheads.serve.settings import Settings
from tests.cli.conftest import Run
from tests.conftest import Write
from tests.small_models import tiny_backbone, tiny_model

ASKED = {"inputs": "home", "tasks": ["topic"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(["topic", "find"]).save(tmp_path / "first")
    return tmp_path / "first"


@contextmanager
def started(folder: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process, once it answers, and its address."""
    command = [sys.executable, "-m", "taskheads", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.endswith(" answers; Ctrl-C ends it\n"), process.stderr and process.stderr.read()
            yield process, line.split()[0]
        finally:
            process.kill()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_signals_reload_it_and_end_it_in_order(folder: Path) -> None:
    """SIGHUP reads the folder again while it is asked, a folder that is broken changes nothing, and SIGTERM
    ends it with nothing lost; it says nothing but where it is."""
    with started(folder) as (process, address), httpx.Client(base_url=address, timeout=30) as client:
        old = client.post("/v1/predict", json=ASKED).json()
        new = tiny_model(["topic", "size"], tiny_backbone(1))
        new.save(folder)
        done, failed = threading.Event(), []

        def ask() -> None:
            while not done.is_set():
                answer = httpx.post(f"{address}/v1/predict", json=ASKED)
                if answer.status_code != 200:
                    failed.append(answer.text)

        asking = threading.Thread(target=ask)
        asking.start()
        process.send_signal(signal.SIGHUP)
        while client.post("/v1/predict", json=ASKED).json()["model"] == old["model"]:
            pass
        done.set()
        asking.join()
        assert not failed
        assert client.post("/v1/predict", json=ASKED | {"model": old["model"]}).json() == old
        (folder / "taskheads.json").write_text("{")
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        told = process.stderr.readline()
        assert told == (
            "ERROR taskheads.serve: first is served as it was: first/taskheads.json is damaged and cannot be "
            "read; fit the model again, or copy the folder again from where it is whole\n"
        )
        assert client.post("/v1/predict", json=ASKED).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_a_kill_in_the_middle_is_not_taken_for_an_end(folder: Path) -> None:
    """A client that streams sees that its answers were cut off; the address is free again."""
    with started(folder) as (process, address):
        host, port = address.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.putrequest("POST", "/v1/bulk?tasks=topic")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(b'7\r\n"home"\n\r\n')
        response = connection.getresponse()
        assert "answers" in json.loads(response.readline())
        process.kill()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
        connection.close()
        process.wait(10)
    Server([folder], Settings(port=int(port))).listening.close()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--host", "0.0.0.0"], "give it a token (--token-file), or bind it to 127.0.0.1"),
        (["--collection", "find"], "--collection find: write NAME=VALUE"),
        (["--collection", "topic=rows.jsonl"], "no model has an embed task 'topic'"),
        (["--collection", "find=nothing.jsonl"], "nothing.jsonl"),
        (["--out-of-scope", "topic=oos"], "no model has a classify task 'topic' with a label 'oos'"),
        (["--token-file", "nothing"], "--token-file nothing cannot be read"),
    ],
)
def test_what_it_does_not_start_with(run: Run, folder: Path, more: list[str], says: str) -> None:
    done = run("serve", folder, "--port", 0, *more)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert says in done.err


def test_a_folder_that_holds_no_model(run: Run, tmp_path: Path) -> None:
    assert (
        run("serve", tmp_path / "nothing", "--port", 0).err
        == f"error: there is no model folder {tmp_path}/nothing\n"
    )


def test_two_folders_of_one_name(run: Run, folder: Path, tmp_path: Path) -> None:
    done = run("serve", folder, tmp_path / "again" / "first")
    assert "two of the folders have the same name" in done.err


def test_an_address_that_is_taken(run: Run, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", folder, "--port", port)
    assert done.err == f"error: 127.0.0.1:{port} cannot be listened on: Address already in use\n"


@pytest.mark.parametrize("content", ["", "two tokens", "é", b"\xff"])
def test_a_token_that_is_none(run: Run, folder: Path, write: Write, content: str | bytes) -> None:
    done = run("serve", folder, "--token-file", write("token", content))
    assert done.code == 2
    assert "--token-file" in done.err
