"""Rows of any number: JSON Lines in, JSON Lines out, in constant memory."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from taskheads.serve.cache import Row, written
from taskheads.serve.dressing import dressed, thresholds
from taskheads.serve.problems import Busy, Problem, invalid, on_failure
from taskheads.serve.routes.asking import rows_of, service_of
from taskheads.serve.service import Service, told, unanswerable
from taskheads.serve.versions import Version
from taskheads.serve.ways import PLAIN, SCORED, Way

router = APIRouter(tags=["predict"])

NDJSON = "application/x-ndjson"
# Rows asked for at once, and how many such blocks are under way: enough to keep every thread busy.
_BLOCK = 64
_AHEAD = 4
_PAUSE = 0.05
_SCHEMA = {"content": {NDJSON: {"schema": {"type": "string"}}}, "required": True}

Line = tuple[int, Row | Problem]


@router.post(
    "/v1/bulk",
    response_class=Response,
    openapi_extra={"requestBody": _SCHEMA},
    responses={200: {"content": {NDJSON: {}}}},
)
async def bulk(
    request: Request,
    tasks: Annotated[
        list[str] | None, Query(description="All by default; several by tasks=a&tasks=b.")
    ] = None,
    model: Annotated[str | None, Query(description="NAME, or NAME@VERSION.")] = None,
    scores: bool = False,
    abstain_below: Annotated[float | None, Query(ge=0, le=1)] = None,
) -> Response:
    """A line for every line of the body: {"answers": {task: answer}}, or {"error": problem} for a row that
    cannot be answered, which ends nothing.

    Answers are written while rows are read: a client that sends more than some thousand rows has to read them
    before it has sent all (`curl -N -T rows.jsonl` does).
    """
    service = service_of(request)
    version = service.registry.find(model)
    below = thresholds(version, abstain_below)
    answering = _Answering(service, version, list(version.heads(tasks)), SCORED if scores else PLAIN, below)
    return Streamed(answering.pieces(request))


class Streamed(Response):
    """Pieces as they come. Unlike Starlette's, it leaves the body of the request to be read meanwhile."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        super().__init__(media_type=NDJSON)
        del self.headers["content-length"]
        self.pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class _Answering:
    """The answers to the lines of one request."""

    def __init__(
        self,
        service: Service,
        version: Version,
        tasks: Sequence[str],
        way: Way,
        below: dict[str, float],
    ) -> None:
        self.service, self.version, self.tasks = service, version, tasks
        self.way, self.below = way, below

    async def pieces(self, request: Request) -> AsyncIterator[bytes]:
        """Some lines of answers at a time, in the rows' order."""
        lines: asyncio.Queue[Line | None] = asyncio.Queue(_BLOCK * _AHEAD)
        reading = asyncio.ensure_future(self._read(request, lines))
        under_way: deque[asyncio.Task[bytes]] = deque()
        more = True
        try:
            while more or under_way:
                if more and len(under_way) < _AHEAD and (not lines.empty() or not under_way):
                    block, more = await _block(lines)
                    caller = request.client and request.client.host
                    under_way.append(asyncio.ensure_future(self._answered(block, caller)))
                else:
                    yield await under_way.popleft()
        finally:
            for task in (reading, *under_way):
                task.cancel()

    async def _read(self, request: Request, lines: asyncio.Queue[Line | None]) -> None:
        """Every line of the body, parsed; then None."""
        number, rest, most = 0, b"", self.service.settings.most_bytes
        body = request.stream()
        try:
            while (chunk := await self._next(body)) is not None:
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    number += 1
                    if line.strip():
                        await lines.put((number, _parsed(line, number, most)))
                if len(rest) > most:
                    raise _too_long(number + 1, most)
            if rest.strip():
                await lines.put((number + 1, _parsed(rest, number + 1, most)))
        except Problem as problem:  # too long, too slow, or the end of the server: nothing after it is read
            problem.errors = [(f"line {number + 1}", problem.detail)]
            await lines.put((number + 1, problem))
        except ClientDisconnect:
            pass
        await lines.put(None)

    async def _next(self, body: AsyncIterator[bytes]) -> bytes | None:
        """The next piece of the body, None at its end. Raises Problem when the server is being shut down."""
        piece = asyncio.ensure_future(anext(body, None))  # type: ignore[arg-type]
        closing = asyncio.ensure_future(self.service.closing.wait())
        try:
            await asyncio.wait((piece, closing), return_when=asyncio.FIRST_COMPLETED)
            if not piece.done():
                raise Problem(503, "the server is being shut down: send the rows from here on again")
            return piece.result()
        finally:
            piece.cancel()
            closing.cancel()

    async def _answered(self, block: Sequence[Line], caller: str | None) -> bytes:
        rows = [row for _, row in block if not isinstance(row, Problem)]
        answers = iter(await self._answers(rows, caller))
        lines = []
        for number, row in block:
            try:
                if isinstance(row, Problem):
                    raise row
                answer = next(answers)
                if isinstance(answer, Exception):
                    raise told(answer, f"line {number}")
                if all(each is None for each in answer.values()):
                    raise unanswerable(self.version, self.tasks, f"line {number}")
                line: dict[str, Any] = {"answers": dressed(answer, self.version.out_of_scope, self.below)}
            except Problem as problem:
                line = {"error": problem.to_json()}
            except Exception as error:
                line = {"error": on_failure(error, tracebacks=self.service.settings.tracebacks).to_json()}
            lines.append(written(line) + b"\n")
        return b"".join(lines)

    async def _answers(self, rows: Sequence[Row], caller: str | None) -> Sequence[Any]:
        """As soon as there is room for them."""
        while rows:
            try:
                asked = self.service.batcher.ask(self.version, rows, self.tasks, way=self.way, caller=caller)
            except Busy:
                await asyncio.sleep(_PAUSE)
            except Problem as problem:  # so much cannot wait at once
                if len(rows) == 1:
                    return [problem]
                half = len(rows) // 2
                return [*await self._answers(rows[:half], caller), *await self._answers(rows[half:], caller)]
            else:
                return await asked.done
        return ()


async def _block(lines: asyncio.Queue[Line | None]) -> tuple[list[Line], bool]:
    """The lines that are there, at least one; and whether there may be more."""
    block: list[Line] = []
    while not block or (len(block) < _BLOCK and not lines.empty()):
        line = await lines.get()
        if line is None:
            return block, False
        block.append(line)
    return block, True


def _too_long(number: int, most: int) -> Problem:
    detail = f"a line is longer than the {most:,} bytes that this server takes"
    return Problem(413, detail, field=f"line {number}")


def _parsed(line: bytes, number: int, most: int) -> Row | Problem:
    if len(line) > most:
        return _too_long(number, most)
    try:
        (row,) = rows_of([json.loads(line)], "row")
        return row
    except UnicodeDecodeError:
        return invalid(f"line {number}", "the line is not UTF-8")
    except Problem as problem:
        return invalid(f"line {number}", problem.detail)
    except (ValueError, RecursionError):
        return invalid(f"line {number}", "the line is not JSON")
