"""What all routes share: the models, the queue, the counters."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request

from taskheads.errors import ConfigError, DataError, TaskheadsError
from taskheads.serve.batcher import Batcher
from taskheads.serve.cache import Answer, AnswerCache, Row
from taskheads.serve.changing import load_version
from taskheads.serve.metrics import Metrics
from taskheads.serve.problems import Gone, Problem, invalid, of_row
from taskheads.serve.settings import Settings
from taskheads.serve.versions import Registry, Version, name_of
from taskheads.serve.ways import PLAIN, Way

log = logging.getLogger("taskheads.serve")


class Service:
    """The models of some folders, ready to be asked.

    Attributes
    ----------
    closing: set when the server is being shut down. changing: held while a model is being changed.
    """

    def __init__(self, folders: Sequence[Path], settings: Settings) -> None:
        self.settings = settings
        self.registry = Registry(settings.versions)
        self.cache = AnswerCache(settings.cache_bytes)
        self.closing = asyncio.Event()
        self.changing = asyncio.Lock()
        self.folders = {name_of(folder): folder for folder in folders}
        if len(self.folders) < len(folders):
            raise ConfigError(
                "two of the folders have the same name, by which requests could not tell them apart"
            )
        self.metrics = Metrics(lambda: self.batcher.tokens, lambda: self.cache.bytes)
        self.batcher = Batcher(
            waiting_tokens=settings.waiting_tokens,
            batch_tokens=settings.batch_tokens,
            linger=settings.linger,
            workers=settings.workers,
            cache=self.cache,
            observe=self.metrics.batch,
        )

    def load(self) -> None:
        """Read every folder. Raises ModelError, ConfigError or DataError, in one sentence."""
        for name, folder in self.folders.items():
            self.registry.put(load_version(name, folder, self.settings))
        for task, path in self.settings.collections.items():
            if not any(task in version.collections for version in self.registry):
                raise ConfigError(f"no model has an embed task {task!r} to search {path} with")
        for task, label in self.settings.out_of_scope.items():
            labels = {each for version in self.registry for each in version.labels_of(task)}
            if label not in labels:
                raise ConfigError(f"no model has a classify task {task!r} with a label {label!r}")

    async def change(self, model: str, make: Callable[[Version, Settings], Version]) -> Version:
        """Replace the current version of a model by what `make` makes of it, one change after another.

        Raises Problem for a model that is not here, and what `make` raises; then nothing has changed.
        """
        async with self.changing:
            version = self.registry.find(model)
            made = await asyncio.to_thread(make, version, self.settings)
            self.registry.put(made)
            return made

    async def reload(self) -> None:
        """Read the folder of every model again; one that cannot be read is served as it was."""
        for version in self.registry.current():
            try:
                await self.change(version.name, lambda v, s: load_version(v.name, v.folder, s))
            except TaskheadsError as error:
                log.error("%s is served as it was: %s", version.name, self.without_paths(str(error)))

    def without_paths(self, text: str) -> str:
        """The text with files called by their names alone."""
        paths = [version.folder for version in self.registry] + list(self.settings.collections.values())
        for path in paths:
            text = text.replace(f"{path.parent}{os.sep}", "")
        return text

    async def answers(
        self,
        request: Request,
        version: Version,
        rows: Sequence[Row],
        tasks: Sequence[str],
        *,
        way: Way = PLAIN,
        field: str = "inputs",
    ) -> list[Answer]:
        """{task: answer} for each row. Raises Problem for a row that cannot be answered, Busy, and Gone."""
        client = request.client
        asked = self.batcher.ask(version, rows, tasks, way=way, caller=client and client.host)
        found = len(rows) - asked.left
        self.metrics.rows_of_cache.inc(found)
        self.metrics.rows_of_model.inc(asked.left)
        answers = await _unless_gone(request, asked.done)
        for at, answer in enumerate(answers):
            place = f"{field}[{at}]" if len(rows) > 1 else field
            if isinstance(answer, Exception):
                raise told(answer, place)
            if all(each is None for each in answer.values()):
                raise unanswerable(version, tasks, place)
        return answers


async def _unless_gone(request: Request, done: asyncio.Future[Any]) -> Any:
    """What the future gives, or Gone as soon as the client has closed the connection."""
    if done.done():
        return done.result()
    gone = asyncio.ensure_future(request.receive())  # the body was read: what comes next is the end
    gone.add_done_callback(lambda _: done.cancel())
    try:
        return await done
    except asyncio.CancelledError:
        if gone.done():
            raise Gone from None
        raise
    finally:
        gone.cancel()


def told(error: Exception, field: str) -> Exception:
    """The problem with a row; the error itself where it is none of the client's."""
    if isinstance(error, DataError):
        return of_row(error, field)
    return invalid(field, "this cannot be read") if isinstance(error, TaskheadsError) else error


def unanswerable(version: Version, tasks: Sequence[str], field: str) -> Problem:
    """The problem with a row that has the inputs of no task."""
    needed = sorted({column for task in tasks for column in version.model.heads[task].task.inputs})
    return invalid(field, f"no task has its inputs here; they are {', '.join(needed)}")
