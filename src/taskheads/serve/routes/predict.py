"""Every task's answers for one row or many."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.responses import Response

from taskheads.serve.dressing import dressed, thresholds
from taskheads.serve.routes.asking import Body, ModelName, Rows, answered, rows_of, service_of
from taskheads.serve.ways import PLAIN, SCORED

router = APIRouter(tags=["predict"])
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}


class Predict(Body):
    """Rows, and what is wanted of them."""

    inputs: Rows
    tasks: Annotated[list[str] | None, Field(min_length=1, description="All by default.")] = None
    model: ModelName = None
    scores: Annotated[bool, Field(description="The probability of every label too.")] = False
    abstain_below: Annotated[
        Any,
        Field(description="The score below which tasks give no answer; one for all, or by task."),
        WithJsonSchema({"anyOf": [_SHARE, {"type": "object", "additionalProperties": _SHARE}]}),
    ] = None


class Predicted(BaseModel):
    """{task: answer} for each row, and the version that said so."""

    model: str
    answers: list[dict[str, dict[str, Any] | None]]


@router.post("/v1/predict", response_model=Predicted)
async def predict(request: Request, body: Predict) -> Response:
    """Answer all tasks, or some, for one row or many; null where a row has not the inputs of a task.

    An answer is as `taskheads predict` gives it: `label` and `score`, `labels`, `value`, `tags` and `spans`,
    or `embedding`. `out_of_scope` is added where a task has a label for that, `abstained` where there is a
    threshold; then `label` or `value` is null.
    """
    start = time.perf_counter()
    service = service_of(request)
    version = service.registry.find(body.model)
    tasks = list(version.heads(body.tasks))
    below = thresholds(version, body.abstain_below)
    way = SCORED if body.scores else PLAIN
    answers = await service.answers(request, version, rows_of(body.inputs), tasks, way=way)
    found = [dressed(answer, version.out_of_scope, below) for answer in answers]
    took = f"answer;dur={(time.perf_counter() - start) * 1000:.1f}"
    return answered({"model": str(version), "answers": found}, {"Server-Timing": took})
