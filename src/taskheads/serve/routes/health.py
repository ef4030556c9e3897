"""Whether the server lives, whether it should be asked, what it counts, and what it serves."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from taskheads.serve.problems import Problem
from taskheads.serve.routes.asking import answered, service_of
from taskheads.serve.versions import Version

router = APIRouter(tags=["server"])


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """200 as long as the process can answer; after anything else it has to be started anew."""
    if not service_of(request).batcher.alive:
        raise Problem(500, "a thread that answers has ended")
    return answered({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200 while the server takes requests; 503 when it is being shut down."""
    if service_of(request).closing.is_set():
        raise Problem(503, "the server is being shut down")
    return answered({"status": "ready"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Counters in Prometheus' text form."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """Every version that is served, the current one of each model first; in OpenAI's shape, and with the
    tasks beside."""
    return answered({"object": "list", "data": [_about(v) for v in service_of(request).registry]})


def _about(version: Version) -> dict[str, Any]:
    return {
        "id": str(version),
        "object": "model",
        "owned_by": "taskheads",
        "backbone": version.model.backbone.name,
        "inspected": version.importance is not None,
        "tasks": {
            name: {
                "kind": task.kind,
                "inputs": list(task.inputs),
                "labels": list(task.labels),
                "out_of_scope": version.out_of_scope.get(name),
                "collection": len(version.collections[name].documents)
                if name in version.collections
                else None,
            }
            for name, task in version.model.tasks.items()
        },
    }
