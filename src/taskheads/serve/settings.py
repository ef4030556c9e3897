"""What a server is started with; the defaults are the safe ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskheads.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """How a server answers.

    Parameters
    ----------
    host, port: where it listens; by default only this machine reaches it. Port 0 is any free one.
    token: what requests must show as `Authorization: Bearer TOKEN`; the page, health and readiness are open.
        Without one there is no administration over HTTP, and none is needed on loopback.
    origins: web pages of other origins that may ask (CORS); none.
    most_bytes: of a request's body, and of one line of a bulk request. most_connections: at a time.
    patience: seconds in which a client must send, or take, the next piece of what is under way.
    waiting_tokens: of rows that wait; a request beyond it is told to come again. It bounds memory, and the
        time that a request waits.
    batch_tokens: of rows that are answered together. linger: seconds without a new row after which a free
        thread begins with those that there are; it begins after four times that in any case.
    workers: batches answered at the same time, each on its share of torch's threads; by default one for each
        thread, up to four.
    cache_bytes: of answers kept for texts that come again.
    versions: of each model kept in memory, the current one included.
    grace: seconds that a shutdown waits for what was taken.
    collections: for search, the file of documents of each embed task.
    out_of_scope: by classify task, the label that says a text is none of the others; labels called "oos" or
        "out_of_scope" are known without it.
    tracebacks: whether an error inside is logged with its traceback, which may quote a request.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    origins: Sequence[str] = ()
    most_bytes: int = 8 << 20
    most_connections: int = 1024
    patience: float = 20.0
    waiting_tokens: int = 1 << 17
    batch_tokens: int = 1024
    linger: float = 0.002
    workers: int | None = None
    cache_bytes: int = 64 << 20
    versions: int = 2
    grace: float = 30.0
    collections: Mapping[str, Path] = field(default_factory=dict)
    out_of_scope: Mapping[str, str] = field(default_factory=dict)
    tracebacks: bool = False

    def __post_init__(self) -> None:
        if not self.local and not self.token:
            raise ConfigError(
                f"whoever reaches {self.host} could ask this server: give it a token (--token-file), or bind "
                "it to 127.0.0.1"
            )

    @property
    def local(self) -> bool:
        """Whether only this machine reaches the server."""
        return self.host in LOOPBACK
