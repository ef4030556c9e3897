"""What stands between the network and the API: failures, hosts, tokens, sizes, patience."""

from __future__ import annotations

import asyncio
import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskheads.serve.page import FILES
from taskheads.serve.problems import Busy, Problem, on_failure
from taskheads.serve.settings import LOOPBACK

# What a browser, a balancer and a probe must reach before they can show a token.
OPEN = frozenset({*FILES, "/healthz", "/readyz"})
# Bodies of any length, read line by line.
STREAMED = frozenset({"/v1/bulk"})
# Bodies of the largest size that are held in memory at once.
_HELD = 16

_SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """Turns away what should not reach the app, and answers for it when it breaks.

    Parameters
    ----------
    token: what requests must show, but for the `OPEN` paths. local: whether only hosts of this machine may be
        asked for: a page elsewhere could otherwise reach the server under a name of its own (DNS rebinding).
    most_bytes: of a body that is not `STREAMED`. patience: seconds for the next piece of a body.
    tracebacks: see `on_failure`.

    Attributes
    ----------
    held: bytes of the bodies whose requests are not answered yet.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        local: bool,
        most_bytes: int,
        patience: float,
        tracebacks: bool,
    ) -> None:
        self.app, self.local, self.tracebacks = app, local, tracebacks
        self.most_bytes, self.patience = most_bytes, patience
        self.held = 0
        self._shown = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, body = False, _Body(self, receive, limited=scope["path"] not in STREAMED)

        async def safe(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *_SAFE]
            await send(message)

        try:
            if (problem := self._against(scope, body.limited)) is None:
                await self.app(scope, body.receive, safe)
            else:
                await problem.response()(scope, receive, safe)
        except Exception as error:
            problem = on_failure(error, tracebacks=self.tracebacks)
            if not started:  # else it is too late to say so: the connection ends short of what was announced
                await problem.response()(scope, receive, safe)
        finally:
            body.forget()

    def _against(self, scope: Scope, limited: bool) -> Problem | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self.local and re.sub(r":\d*$", "", host).strip("[]") not in LOOPBACK:
            return Problem(421, "this server answers for this machine alone: ask for 127.0.0.1 or localhost")
        if self._shown is not None and scope["path"] not in OPEN:
            shown = headers.get(b"authorization", b"")
            if not secrets.compare_digest(shown, self._shown):
                return Problem(
                    401, "show the token: Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"}
                )
        length = headers.get(b"content-length", b"0")
        if limited and length.isdigit() and int(length) > self.most_bytes:
            return too_large(self.most_bytes)
        return None


class _Body:
    """The body of a request as it is read: not too much of it, not too slowly, and not too much at once of
    all that are held."""

    def __init__(self, guard: Guard, receive: Receive, *, limited: bool) -> None:
        self.guard, self.limited, self._receive = guard, limited, receive
        self._bytes, self._ended = 0, False

    async def receive(self) -> Message:
        if self._ended:
            return await self._receive()
        guard = self.guard
        try:
            async with asyncio.timeout(guard.patience):
                message = await self._receive()
        except TimeoutError:
            raise Problem(408, f"nothing came of the body for {guard.patience:g} seconds") from None
        self._ended = not message.get("more_body", False)
        if self.limited:
            self._bytes += len(message.get("body", b""))
            guard.held += len(message.get("body", b""))
            if self._bytes > guard.most_bytes:
                raise too_large(guard.most_bytes)
            if guard.held > _HELD * guard.most_bytes:
                raise Busy(1)
        return message

    def forget(self) -> None:
        """The request is answered."""
        self.guard.held -= self._bytes


def too_large(most: int) -> Problem:
    return Problem(413, f"the body is larger than the {most:,} bytes that this server takes")
