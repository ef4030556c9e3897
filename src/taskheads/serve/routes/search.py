"""Search in the collections that the server was started with."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from taskheads.serve.problems import Problem
from taskheads.serve.routes.asking import Body, ModelName, Rows, answered, service_of, texts_of
from taskheads.serve.routes.openai import embed_head

router = APIRouter(tags=["search"])


class Search(Body):
    """One query or many."""

    query: Rows
    task: Annotated[str | None, Field(description="The embed task; the only one by default.")] = None
    top_k: Annotated[int, Field(ge=1, le=1000)] = 10
    model: ModelName = None


class Hit(BaseModel):
    """A document: its number from 0 on, its cosine with the query, its row."""

    index: int
    score: float
    document: dict[str, Any]


class Found(BaseModel):
    """The hits of each query, best first."""

    model: str
    task: str
    results: list[list[Hit]]


@router.post("/v1/search", response_model=Found)
async def search(request: Request, body: Search) -> Response:
    """The documents nearest to each query, exactly."""
    service = service_of(request)
    version = service.registry.find(body.model)
    head = embed_head(version, body.task, "task")
    task = head.task.name
    collection = version.collections.get(task)
    if collection is None:
        raise Problem(
            409, f"{task!r} has nothing to search: start the server with --collection", field="task"
        )
    queries = [{head.task.inputs[0]: text} for text in texts_of(body.query, "query")]
    answers = await service.answers(request, version, queries, [task], field="query")
    vectors = [answer[task]["embedding"] for answer in answers]
    results = await asyncio.to_thread(lambda: [collection.search(vector, body.top_k) for vector in vectors])
    return answered({"model": str(version), "task": task, "results": results})
