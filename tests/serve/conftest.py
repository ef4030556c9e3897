"""Servers on loopback, in a thread of the test's process, with models that are made in a moment."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from taskheads.model.model import Model
from taskheads.serve import ways
from taskheads.serve.running import Server
from taskheads.serve.settings import Settings
from taskheads.serve.versions import Version
from tests.small_models import tiny_model

if TYPE_CHECKING:
    from tests.serve.browser import Browser

TASKS = ("topic", "labels", "size", "stars", "names", "same", "like", "find", "other")


class Served:
    """A running server and a client of it."""

    def __init__(self, server: Server, token: str | None) -> None:
        self.server, self.service, self.address = server, server.service, server.address
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=server.address, headers=headers, timeout=30)

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        # As ASCII, so that a body can spell what is no Unicode.
        headers = {"Content-Type": "application/json"} | more.pop("headers", {})
        return self.client.post(path, content=json.dumps(body), headers=headers, **more)

    @property
    def version(self) -> Version:
        return self.service.registry.current()[0]


@contextmanager
def serving(*folders: Path, **settings: Any) -> Iterator[Served]:
    """A server of these folders on a free port, ended in order."""
    ready = threading.Event()
    server = Server(folders, Settings(port=0, **settings), ready.set)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(30)
    served = Served(server, settings.get("token"))
    try:
        yield served
    finally:
        served.client.close()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def model() -> Model:
    """The model that most servers serve; read it, do not change it."""
    return tiny_model(TASKS)


@pytest.fixture(scope="session")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is saved."""
    folder = tmp_path_factory.mktemp("served") / "first"
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    """It, served with the defaults."""
    with serving(folder) as served:
        yield served


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from tests.serve.browser import browser, missing

    if lacking := missing():
        if os.environ.get("CI"):
            pytest.fail(f"the page is not tested: {lacking}")
        pytest.skip(f"the page is not tested: {lacking}")
    with browser(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """From now on no batch is answered until this is set."""
    released, plain = threading.Event(), ways.answer_block

    def answer_block(*args: Any, **kwargs: Any) -> Any:
        assert released.wait(30)
        return plain(*args, **kwargs)

    monkeypatch.setattr(ways, "answer_block", answer_block)
    yield released
    released.set()


def together(*work: Callable[[], Any]) -> list[Any]:
    """What each piece of work returns, all done at the same time."""
    with ThreadPoolExecutor(len(work)) as pool:
        return [each.result() for each in [pool.submit(each) for each in work]]


def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)
