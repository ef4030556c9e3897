"""What the bodies of requests have in common: rows, a model, tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import Response

from taskheads.serve.cache import Row, written
from taskheads.serve.problems import invalid
from taskheads.serve.service import Service
from taskheads.tasks.targets import type_name

ROW = {"anyOf": [{"type": "string"}, {"type": "object"}]}

# Told apart by `rows_of`, which says in one sentence where and what is wrong; a union would say it for each.
Rows = Annotated[
    Any,
    Field(description="A text, an object with the tasks' input columns, or a list of these."),
    WithJsonSchema({"anyOf": [*ROW["anyOf"], {"type": "array", "items": ROW, "minItems": 1}]}),
]
ModelName = Annotated[
    str | None,
    Field(description="NAME for the current version of a model, NAME@VERSION for that one; else the first."),
]


class Body(BaseModel):
    """A body that has no field beside those it names."""

    model_config = ConfigDict(extra="forbid", strict=True)


def rows_of(inputs: Any, field: str = "inputs") -> list[Row]:
    """The rows of a body. Raises Problem for anything that is no row, and for none at all."""
    rows = inputs if isinstance(inputs, list) else [inputs]
    if not rows:
        raise invalid(field, "at least one row is needed")
    for at, row in enumerate(rows):
        if not isinstance(row, (str, dict)):
            place = f"{field}[{at}]" if isinstance(inputs, list) else field
            raise invalid(place, f"a text or an object is needed, this is {type_name(row)}")
    return rows


def texts_of(inputs: Any, field: str) -> list[str]:
    """As `rows_of`, where a row can only be a text."""
    rows = rows_of(inputs, field)
    for at, row in enumerate(rows):
        if not isinstance(row, str):
            place = f"{field}[{at}]" if isinstance(inputs, list) else field
            raise invalid(place, "a text is needed, this is an object")
    return rows  # type: ignore[return-value]


def service_of(request: Request) -> Service:
    return request.app.state.service


def answered(content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response, written at once: what is answered needs no further check."""
    return Response(written(content), media_type="application/json", headers=dict(headers or {}))
