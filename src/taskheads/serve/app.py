"""The application: routes behind a guard, and what happens when it starts and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from taskheads.serve.guard import Guard
from taskheads.serve.metrics import Counted
from taskheads.serve.problems import Gone, on_gone, on_invalid, on_problem
from taskheads.serve.routes import (
    admin,
    attention,
    bulk,
    health,
    huggingface,
    openai,
    playground,
    predict,
    search,
)
from taskheads.serve.service import Service
from taskheads.serve.settings import Settings

_ROUTES = (predict, bulk, openai, huggingface, search, attention, admin, health, playground)


def application(folders: Sequence[Path], settings: Settings | None = None) -> FastAPI:
    """An ASGI application that serves the models of these folders.

    They are loaded when it starts, if they are not yet; then it is ready. Raises ConfigError for settings
    that cannot be meant.
    """
    settings = settings or Settings()
    service = Service(folders, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not service.registry.current():
            await asyncio.to_thread(service.load)
        service.batcher.start()
        yield
        service.closing.set()
        await service.batcher.close()

    app = FastAPI(
        title="taskheads",
        version=version("taskheads"),
        description="One shared transformer, many task heads: every task's answer in one pass.",
        lifespan=lifespan,
        docs_url=None,  # these pages load their script from elsewhere
        redoc_url=None,
        # What it tells of a request that is at fault quotes it.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={
            HTTPException: on_problem,
            RequestValidationError: on_invalid,
            Gone: on_gone,
        },
    )
    app.state.service = service
    for routes in _ROUTES:
        app.router.routes.extend(routes.router.routes)  # a router inside another is asked twice
    app.add_middleware(
        Guard,
        token=settings.token,
        local=settings.local,
        most_bytes=settings.most_bytes,
        patience=settings.patience,
        tracebacks=settings.tracebacks,
    )
    if settings.origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"])
    app.add_middleware(Counted, metrics=service.metrics)
    return app
