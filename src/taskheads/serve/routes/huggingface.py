"""Classification in the shape of Hugging Face's inference endpoints, so that its clients work unchanged.

InferenceClient("http://127.0.0.1:8000/v1/huggingface/intent").text_classification("a text")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from taskheads.serve.cache import Row
from taskheads.serve.problems import Problem, invalid
from taskheads.serve.routes.asking import Body, Rows, answered, rows_of, service_of
from taskheads.serve.versions import Version
from taskheads.serve.ways import SCORED
from taskheads.tasks.task import Task

router = APIRouter(tags=["classification"])

# The kinds whose answer is about the whole row, and what makes their scores.
_APPLIED = {
    "classify": "softmax",
    "multilabel": "sigmoid",
    "regress": "none",
    "ordinal": None,
    "pair": "softmax",
}


class Parameters(Body):
    """As the endpoints have it."""

    top_k: Annotated[int | None, Field(ge=1)] = None
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None


class Classify(Body):
    """As the endpoints have it; two texts are {"text": …, "text_pair": …}."""

    inputs: Rows
    parameters: Parameters = Parameters()
    options: Annotated[dict[str, Any] | None, Field(description="Taken, and of no effect.")] = None


class Label(BaseModel):
    """A label and its probability."""

    label: str
    score: float


@router.post("/v1/huggingface/{task}", response_model=list[list[Label]])
async def classify(request: Request, task: str, body: Classify, model: str | None = None) -> Response:
    """The labels of a task for each text, likeliest first; a number is the score of a label of its task's
    name."""
    service = service_of(request)
    version = service.registry.find(model)
    about = _task(version, task)
    applied = _APPLIED[about.kind] if about.labels else "none"
    if body.parameters.function_to_apply not in (None, applied):
        raise invalid(
            "parameters.function_to_apply",
            f"the scores of this task are made by {applied or 'no such function'}",
        )
    rows = [_row(about, row, at) for at, row in enumerate(rows_of(body.inputs))]
    answers = await service.answers(request, version, rows, [task], way=SCORED)
    return answered([_labels(about, answer[task])[: body.parameters.top_k] for answer in answers])  # type: ignore[arg-type]


def _task(version: Version, name: str) -> Task:
    if name not in version.model.heads:
        raise Problem(404, "no such task")
    about = version.model.heads[name].task
    if about.kind not in _APPLIED:
        raise Problem(
            409, f"a task of the kind {about.kind} gives no label to a whole text; /v1/predict has it"
        )
    return about


def _row(task: Task, row: Row, at: int) -> Row:
    if isinstance(row, str):
        return row
    given = [row.get("text"), row.get("text_pair")]
    if row.keys() - {"text", "text_pair"} or None in given[: len(task.inputs)]:
        needed = ("text", "text_pair")[: len(task.inputs)]
        raise invalid(f"inputs[{at}]", f"an object with {' and '.join(needed)} is needed")
    return dict(zip(task.inputs, given, strict=False))


def _labels(task: Task, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "scores" not in answer:
        return [{"label": task.name, "score": answer["value"]}]
    return [{"label": label, "score": score} for label, score in answer["scores"].items()]
