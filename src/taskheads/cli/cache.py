"""`taskheads cache`: the features that are kept on disk, so that no text is read twice."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Show or clear the features kept on disk."
)


@app.command("show")
def show_cache(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what is kept: for each backbone and site, how much, and when it was used."""
    from dataclasses import asdict

    from taskheads.backbone.cache import FeatureCache
    from taskheads.cli.output import show, show_json

    cache = FeatureCache()
    entries = cache.entries()
    if as_json:
        show_json({"folder": str(cache.folder), "entries": [asdict(entry) for entry in entries]})
        return
    from taskheads.report.kept import kept_features

    show(kept_features(entries, cache.folder))


@app.command("clear")
def clear_cache() -> None:
    """Delete all of it; what is needed again is computed again."""
    from taskheads.backbone.cache import FeatureCache
    from taskheads.report.kept import size

    cache = FeatureCache()
    freed = sum(entry.bytes for entry in cache.entries())
    cache.clear()
    print(f"{size(freed)} freed in {cache.folder}")
