"""Who may ask: this machine by default, others with a token, pages elsewhere not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from taskheads.errors import ConfigError
from taskheads.serve.guard import OPEN
from taskheads.serve.settings import Settings
from tests.serve.conftest import Served, serving

PAGE = "https://elsewhere.example"


def test_the_defaults_are_the_safe_ones() -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert not settings.origins
    assert not settings.tracebacks


def test_other_machines_need_a_token() -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1"):
        with pytest.raises(ConfigError, match="give it a token"):
            Settings(host=host)
        assert Settings(host=host, token="t").host == host


def test_with_a_token_nothing_but_the_page_and_the_probes_is_open(folder: Path) -> None:
    with serving(folder, token="right") as served:
        document = served.client.get("/openapi.json").json()
        shown = {path for path in document["paths"] if "{" not in path} | {"/openapi.json", "/nothing"}
        for token in (None, "Bearer wrong", "right", "Bearer righ", "Bearer right2", "Basic right"):
            headers = {} if token is None else {"Authorization": token}
            for path in shown - OPEN:
                answer = served.client.build_request("GET", path, headers=headers)
                answer.headers.pop("authorization") if token is None else None
                sent = served.client.send(answer)
                assert (sent.status_code, sent.headers["www-authenticate"]) == (401, "Bearer"), path
            for path in OPEN:
                request = served.client.build_request("GET", path, headers=headers)
                assert served.client.send(request).status_code == 200
        assert served.client.get("/v1/models").status_code == 200


def test_a_name_that_only_resolves_here_is_not_answered(served: Served) -> None:
    """What DNS rebinding would send."""
    for host in ("elsewhere.example", "127.0.0.1.elsewhere.example", ""):
        assert served.client.get("/v1/models", headers={"Host": host}).status_code == 421
    for host in ("localhost", "localhost:1", "127.0.0.1", "[::1]:8000"):
        assert served.client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_pages_elsewhere_may_ask_only_where_they_are_named(folder: Path) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    asked |= {"Access-Control-Request-Headers": "content-type,authorization"}
    with serving(folder) as served:
        answer = served.client.options("/v1/predict", headers=asked)
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers
        # A form or a script elsewhere can send a plain text unasked; it is no request.
        plain = served.client.post(
            "/v1/predict", content='{"inputs": "a"}', headers={"Content-Type": "text/plain", "Origin": PAGE}
        )
        assert plain.status_code == 422
    with serving(folder, origins=[PAGE], token="right") as served:
        answer = served.client.options("/v1/predict", headers=asked)
        assert answer.headers["access-control-allow-origin"] == PAGE
        answer = served.client.post("/v1/predict", json={"inputs": "a"}, headers={"Origin": PAGE})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        other = served.client.options("/v1/predict", headers=asked | {"Origin": PAGE + ".example"})
        assert "access-control-allow-origin" not in other.headers


def test_every_answer_forbids_to_load_anything_from_elsewhere(served: Served) -> None:
    for path in ("/", "/page.js", "/v1/models", "/nothing"):
        headers = served.client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"


def test_settings_are_all_described() -> None:
    documented = Settings.__doc__ or ""
    assert all(field.name in documented for field in dataclasses.fields(Settings))
