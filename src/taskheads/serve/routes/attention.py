"""Which attention heads an answer leaned on, where the model was inspected."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.responses import Response

from taskheads.serve.batcher import tokens_of
from taskheads.serve.problems import Problem, invalid
from taskheads.serve.routes.asking import ROW, Body, ModelName, answered, rows_of, service_of
from taskheads.serve.versions import ByHead
from taskheads.serve.ways import LEANING

router = APIRouter(tags=["attention"])

# Of a row: a pass back needs all that the pass forward made.
_MOST_TOKENS = 1024


class Lean(Body):
    """One row."""

    inputs: Annotated[
        Any,
        Field(description="A text, or an object with the tasks' input columns."),
        WithJsonSchema(ROW),
    ]
    tasks: Annotated[list[str] | None, Field(min_length=1, description="All by default.")] = None
    model: ModelName = None


class Leaning(BaseModel):
    """What one answer leaned on; numbers by layer and attention head, null for those that are not there.

    strength: how strongly the answer says what it says, on the `scale`: "log-odds" of its label or level,
    log p / (1 - p), summed over labels, averaged over tags; a "value" itself; the "cosine" of two texts.
    leaning: by how much, to first order, the strength would fall without the attention head: its derivative
    by a gate on the attention head's output. Above 0 it spoke for the answer, below 0 against it.
    importance: the mean |derivative| of the task's loss by the same gate, over the data that the model was
    inspected on; null for a task that has changed since.
    """

    strength: float | None
    scale: str
    leaning: ByHead
    importance: ByHead | None


class Leanings(BaseModel):
    """By task; null where the row has not the inputs of a task."""

    model: str
    answers: dict[str, Leaning | None]


@router.post("/v1/attention", response_model=Leanings)
async def attention(request: Request, body: Lean) -> Response:
    """Which attention heads each task's answer to one row leaned on, if the model was inspected.

    It costs about three passes for each task: ask for those that somebody looks at.
    """
    service = service_of(request)
    version = service.registry.find(body.model)
    if version.importance is None:
        raise Problem(
            409,
            f"the model {version.name!r} was not inspected: run `taskheads inspect` on its folder, and have "
            "the server read it again",
            field="model",
        )
    tasks = list(version.heads(body.tasks))
    if isinstance(body.inputs, list):
        raise invalid("inputs", "one row at a time: a text or an object is needed, this is a list")
    (row,) = rows_of(body.inputs)
    if tokens_of(row, version.model.backbone.limit or math.inf) > _MOST_TOKENS:
        raise Problem(413, f"at most about {_MOST_TOKENS:,} tokens are looked into", field="inputs")
    (answer,) = await service.answers(request, version, [row], tasks, way=LEANING)
    found = {
        task: each and {**each, "importance": version.importance.get(task)} for task, each in answer.items()
    }
    return answered({"model": str(version), "answers": found})
