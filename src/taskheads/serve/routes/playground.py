"""The page, as it lies in this package."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from taskheads.serve.page import FILES

router = APIRouter(include_in_schema=False)


async def page(request: Request) -> Response:
    name, media_type = FILES[request.url.path]
    return Response((files("taskheads.serve.page") / name).read_bytes(), media_type=media_type)


for path in FILES:
    router.add_api_route(path, page)
