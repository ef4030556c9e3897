"""Embeddings in the shape of OpenAI's API, so that its clients work unchanged."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from taskheads.heads import EmbedHead
from taskheads.serve.problems import Problem, invalid
from taskheads.serve.routes.asking import Body, Rows, answered, service_of, texts_of
from taskheads.serve.versions import Version
from taskheads.tasks.suggest import listed

router = APIRouter(tags=["embeddings"])


class Embeddings(Body):
    """As OpenAI has it, and the side of the search that the texts are on."""

    input: Rows
    model: Annotated[
        str, Field(description="NAME or NAME@VERSION; then /TASK, if the model has several embed tasks.")
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
    input_type: Literal["query", "document"] = "query"


class Embedded(BaseModel):
    """As OpenAI has it."""

    object: str
    data: list[dict[str, Any]]
    model: str
    usage: dict[str, int]


@router.post("/v1/embeddings", response_model=Embedded)
async def embeddings(request: Request, body: Embeddings) -> Response:
    """The unit vectors of texts by an embed task, as queries or as documents."""
    service = service_of(request)
    name, _, task = body.model.partition("/")
    version = service.registry.find(name)
    head = embed_head(version, task or None, "model")
    texts = texts_of(body.input, "input")
    width = len(head.weight)
    if body.dimensions not in (None, width):
        raise invalid("dimensions", f"this task's vectors have {width} numbers, and are not cut")
    column = head.task.inputs[body.input_type == "document"]
    answers = await service.answers(
        request, version, [{column: text} for text in texts], [head.task.name], field="input"
    )
    vectors = [answer[head.task.name]["embedding"] for answer in answers]
    tokens = await asyncio.to_thread(_count, version, texts)
    data = [
        {"object": "embedding", "index": at, "embedding": _encoded(vector, body.encoding_format)}
        for at, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return answered({"object": "list", "data": data, "model": body.model, "usage": usage})


def embed_head(version: Version, task: str | None, field: str) -> EmbedHead:
    """The head of this embed task; of the only one there is, by default."""
    embedding = {name: head for name, head in version.model.heads.items() if isinstance(head, EmbedHead)}
    if not embedding:
        raise Problem(409, f"the model {version.name!r} has no embed task", field=field)
    if task is None and len(embedding) > 1:
        raise invalid(field, f"say which embed task is meant: {listed(embedding)}")
    if task is not None and task not in embedding:
        raise invalid(field, f"no such embed task; there are {listed(embedding)}")
    return next(iter(embedding.values())) if task is None else embedding[task]


def _count(version: Version, texts: list[str]) -> int:
    tokens = version.model.backbone.tokens
    assert tokens is not None
    return sum(map(len, tokens.texts(texts)))


def _encoded(vector: list[float], form: str) -> Any:
    if form == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
