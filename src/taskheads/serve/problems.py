"""What is told of a request that cannot be answered: application/problem+json (RFC 9457), naming the field.

None of it quotes a text of the request.
"""

from __future__ import annotations

import json
import logging
import traceback
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from taskheads.errors import DataError

log = logging.getLogger("taskheads.serve")

MEDIA_TYPE = "application/problem+json"
_NAMED = 60  # characters of a name that a client made up


class Problem(HTTPException):
    """A request that is answered with a problem.

    field: where in the body it is, as `inputs[3].text`. more: further errors, (field, detail) each.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        more: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.errors = [(field, detail), *more] if field is not None else list(more)

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": self.detail,
        }
        if self.errors:
            told["errors"] = [{"field": field, "detail": detail} for field, detail in self.errors]
        return told

    def response(self) -> Response:
        body = json.dumps(self.to_json(), ensure_ascii=False)
        return Response(body, self.status_code, self.headers, MEDIA_TYPE)


class Gone(Exception):
    """Whoever asked has closed the connection."""


class Busy(Problem):
    """More is waiting than the server takes on; `seconds` until there should be room."""

    def __init__(self, seconds: int) -> None:
        detail = f"too much is waiting to be answered; come again in {seconds} s"
        super().__init__(429, detail, headers={"Retry-After": str(seconds)})


def invalid(field: str, detail: str) -> Problem:
    """A field that cannot be meant."""
    return Problem(422, detail, field=field)


def of_row(error: DataError, field: str) -> Problem:
    """What is wrong with a row of the request, without its value."""
    return invalid(f"{field}.{error.column}" if error.column else field, error.problem)


async def on_problem(_request: Request, error: Exception) -> Response:
    """The answer to a request with a problem, and to what the framework itself rejects."""
    if isinstance(error, Problem):
        return error.response()
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # the framework says no more of a body that cannot be decoded
        detail = "the body cannot be read: it is not UTF-8, nested too deep, or has a number too long"
        return Problem(400, detail, field="body").response()
    return Problem(
        error.status_code, HTTPStatus(error.status_code).description, headers=error.headers
    ).response()


async def on_invalid(_request: Request, error: Exception) -> Response:
    """The answer to a body that has not the form of its schema."""
    assert isinstance(error, RequestValidationError)
    broken = any(each["type"] == "json_invalid" for each in error.errors())
    found = [("body" if broken else _field(each["loc"]), _told(each)) for each in error.errors()]
    (field, detail), *more = found
    return Problem(400 if broken else 422, detail, field=field, more=more).response()


async def on_gone(_request: Request, _error: Exception) -> Response:
    """What nobody will read."""
    return Response(status_code=499)


def on_failure(error: Exception, *, tracebacks: bool) -> Problem:
    """The problem that something broke inside: a reference, under which the log says what and where."""
    reference = uuid.uuid4().hex[:12]
    if tracebacks:
        log.error("failure %s", reference, exc_info=error)
    else:
        last = traceback.extract_tb(error.__traceback__)[-1:]
        place = f"{Path(last[0].filename).name}:{last[0].lineno}" if last else "nowhere"
        log.error("failure %s: %s at %s", reference, type(error).__name__, place)
    return Problem(500, f"something broke inside; the log has it under {reference}")


def _field(place: Sequence[Any]) -> str:
    """body, inputs, 3, text → inputs[3].text"""
    field = ""
    for part in place[1:] if place[:1] in (("body",), ("query",), ("path",)) else place:
        field += f"[{part}]" if isinstance(part, int) else f".{str(part)[:_NAMED]}"
    return field.lstrip(".") or "body"


def _told(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error.get('ctx', {}).get('error', 'it cannot be read')}"
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "missing":
        return "this field is needed"
    if error["type"] == "string_pattern_mismatch":
        return "a name without slashes is needed"
    return str(error["msg"]).removeprefix("Value error, ")
