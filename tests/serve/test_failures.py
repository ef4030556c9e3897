"""What the server says of a request, to its client and to its log: nothing that was in it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from taskheads.serve import ways
from tests.serve.conftest import serving
from tests.serve.test_stress import SECRET, healthy


def test_what_breaks_inside_is_told_by_a_reference(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the answer nor the log quotes the request, a path or a line of code; on demand the log does."""

    def broken(*args: Any, **more: Any) -> Any:
        raise RuntimeError(f"{SECRET} {folder}")

    for tracebacks in (False, True):
        caplog.clear()
        with serving(folder, tracebacks=tracebacks) as served, monkeypatch.context() as patch:
            patch.setattr(ways, "answer_block", broken)
            answer = served.post("/v1/predict", {"inputs": SECRET})
            assert answer.status_code == 500
            assert answer.headers["content-type"] == "application/problem+json"
            (line,) = served.client.post("/v1/bulk", content=f'"{SECRET}"').text.splitlines()
            assert json.loads(line)["error"]["status"] == 500
            for each in (answer.text, line):
                assert SECRET not in each
                assert str(folder) not in each
            reference = answer.json()["detail"].split()[-1]
            patch.undo()
            assert healthy(served)
        logged = caplog.text
        assert reference in logged
        assert "RuntimeError" in logged
        assert (SECRET in logged, "Traceback" in logged) == (tracebacks, tracebacks)


def test_nothing_of_a_request_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), serving(folder) as served:
        served.post(f"/v1/predict?{SECRET[:5]}=1", {"inputs": SECRET})
        served.post("/v1/predict", {"inputs": {"text": SECRET, "other": 3}})
        served.client.post("/v1/bulk", content=f'"{SECRET}"\n{{"{SECRET}'.encode())
        served.client.get(f"/{SECRET}")
    mine = [
        record.getMessage() for record in caplog.records if not record.name.startswith(("http", "asyncio"))
    ]
    assert not [each for each in mine if "zebra" in each]
