"""A backbone of the Hub that cannot be had: one question, one sentence, and soon."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskheads.backbone import pretrained
from taskheads.backbone.backbone import Backbone
from taskheads.errors import BackboneError
from tests.cli.conftest import Run
from tests.conftest import Write
from tests.small_models import tiny_backbone


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[float]]:
    """A Hub that takes every question and never answers: when it was asked; with an empty cache here."""
    times: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def listen() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return
                times.append(time.monotonic())

        threading.Thread(target=listen, daemon=True).start()
        monkeypatch.setattr(
            "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}"
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield times
        for each in held:
            each.close()


def test_a_hub_that_does_not_answer_is_asked_once(
    asked: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    name = "no-such-owner/no-such-model"
    begun = time.monotonic()
    with pytest.raises(BackboneError, match=f"the backbone '{name}' is neither a folder here, nor") as error:
        Backbone.load(name)
    assert time.monotonic() - begun < 3
    assert len(asked) == 1
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_PATIENCE", 0.2)


def test_a_misspelt_name_is_one_line(
    run: Run, write: Write, tmp_path: Path, asked: list[float], impatient: None
) -> None:
    data = write("a.csv", "text,label\n" + "".join(f"some text {i},{'ab'[i % 2]}\n" for i in range(40)))
    done = run("fit", data, "--backbone", "bert-base-uncasd", "--out", tmp_path / "m")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert "'bert-base-uncasd'" in done.err


def test_a_copy_here_serves_where_the_hub_does_not_answer(
    asked: list[float], impatient: None, tmp_path: Path
) -> None:
    model = tmp_path / "hub" / "models--owner--tiny"
    tiny_backbone().save(model / "snapshots" / ("a" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    loaded = Backbone.load("owner/tiny", limit=32)
    assert loaded.name == "owner/tiny"
    assert loaded.fingerprint == tiny_backbone().fingerprint
    assert len(asked) == 1
