"""`taskheads serve`: a model's answers over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskheads.errors import ConfigError

Folders = Annotated[list[Path], typer.Argument(metavar="DIR...", help="The folders of models.")]


def serve(
    folders: Folders,
    host: Annotated[str, typer.Option(help="Where to listen; other machines need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 8000,
    token: Annotated[
        Path | None,
        typer.Option(
            "--token-file", help="A file with the token that requests must show.  [or $TASKHEADS_TOKEN]"
        ),
    ] = None,
    collections: Annotated[
        list[str] | None,
        typer.Option("--collection", metavar="TASK=FILE", help="The documents that an embed task searches."),
    ] = None,
    out_of_scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=LABEL", help="The label that means none of the others, if not called oos."
        ),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Web pages elsewhere that may ask.")
    ] = None,
    max_mb: Annotated[int, typer.Option(min=1, help="A request's body at most.")] = 8,
    cache_mb: Annotated[int, typer.Option(min=0, help="Memory for answers to texts that come again.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Batches at the same time.  [default: a thread each, up to 4]")
    ] = None,
    tracebacks: Annotated[
        bool, typer.Option("--tracebacks", help="Log errors in full; they may quote requests.")
    ] = False,
) -> None:
    """Answer over HTTP: an API, a page to play with, and metrics.

    Several folders are several models; the first is meant where a request names none. SIGHUP reads the
    folders again, and no request fails meanwhile.
    """
    import gc
    import logging

    gc.disable()  # until it is ready: all that is made until then stays, and to look through it takes long
    try:
        from taskheads.serve.running import Server
        from taskheads.serve.settings import Settings
    except ModuleNotFoundError as error:
        raise ConfigError(f"serving needs {error.name}: pip install 'taskheads[serve]'") from None

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    settings = Settings(
        host=host,
        port=port,
        token=_token(token),
        origins=cors or (),
        most_bytes=max_mb << 20,
        cache_bytes=cache_mb << 20,
        workers=workers,
        collections={task: Path(file) for task, file in _named(collections, "--collection").items()},
        out_of_scope=_named(out_of_scope, "--out-of-scope"),
        tracebacks=tracebacks,
    )
    server = Server(folders, settings, lambda: print(f"{server.address} answers; Ctrl-C ends it", flush=True))
    server.run()


def _token(file: Path | None) -> str | None:
    import os

    if file is None:
        return os.environ.get("TASKHEADS_TOKEN") or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be read: {error}") from None
    if not token or not token.isascii() or any(map(str.isspace, token)):
        raise ConfigError(f"--token-file {file} needs one token: ASCII characters without blanks")
    return token


def _named(given: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for each in given or ():
        name, sign, value = each.partition("=")
        if not (name and sign and value):
            raise ConfigError(f"{option} {each}: write NAME=VALUE")
        found[name] = value
    return found
