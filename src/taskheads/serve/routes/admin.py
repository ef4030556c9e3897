"""Changing what is served, while it is served. Needs a token.

A change is made beside what is served, warmed, and then takes its place at once: requests that were taken
before are answered by the version that took them. It lasts as long as the process: what shall outlast it is
done to the folder (`taskheads add`, `remove`) and reloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from taskheads.errors import TaskheadsError
from taskheads.serve.changing import load_version, with_edit, with_task, without_task
from taskheads.serve.problems import Problem
from taskheads.serve.routes.asking import Body, answered, service_of
from taskheads.serve.settings import Settings
from taskheads.serve.versions import Version


def _with_token(request: Request) -> None:
    if service_of(request).settings.token is None:
        raise Problem(
            403, "a server without a token is not changed over HTTP; SIGHUP has it read its folders"
        )


router = APIRouter(prefix="/v1/admin/models/{model}", tags=["admin"], dependencies=[Depends(_with_token)])
FolderName = Annotated[
    str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$", description="A folder beside the one that is served.")
]


class From(Body):
    """Where what is taken lies."""

    folder: FolderName


class Reload(Body):
    """Another folder than the one that is served."""

    folder: FolderName | None = None


@router.put("")
async def reload(request: Request, model: str, body: Reload | None = None) -> Response:
    """Read a model's folder again, or another one in its place."""

    def make(version: Version, settings: Settings) -> Version:
        other = body and body.folder
        return load_version(version.name, _beside(version, other) if other else version.folder, settings)

    return await _changed(request, model, make)


@router.put("/tasks/{task}")
async def put_task(request: Request, model: str, task: str, body: From) -> Response:
    """Add a task from another model's folder, or replace the one of its name."""
    return await _changed(request, model, lambda v, s: with_task(v, task, _beside(v, body.folder), s))


@router.delete("/tasks/{task}")
async def delete_task(request: Request, model: str, task: str) -> Response:
    """Remove a task."""
    return await _changed(request, model, lambda v, s: without_task(v, task, s))


@router.put("/edits/{task}")
async def put_edit(request: Request, model: str, task: str, body: From) -> Response:
    """Give a task the edit in a folder, in place of the one it has."""
    return await _changed(request, model, lambda v, s: with_edit(v, task, _beside(v, body.folder), s))


@router.delete("/edits/{task}")
async def delete_edit(request: Request, model: str, task: str) -> Response:
    """Have a task read the backbone as it is."""
    return await _changed(request, model, lambda v, s: with_edit(v, task, None, s))


def _beside(version: Version, folder: str) -> Path:
    return version.folder.parent / folder


async def _changed(request: Request, model: str, make: Callable[[Version, Settings], Version]) -> Response:
    try:
        version = await service_of(request).change(model, make)
    except TaskheadsError as error:
        raise Problem(409, service_of(request).without_paths(str(error))) from None
    return answered({"model": str(version), "tasks": list(version.model.heads)})
