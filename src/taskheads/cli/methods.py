"""`taskheads methods`: the catalogue, and the card of one method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskheads.errors import ConfigError

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def methods(
    ctx: typer.Context,
    as_json: Json = False,
    family: Annotated[str | None, typer.Option(help="Only the methods of this family.")] = None,
    write_docs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a page for each family, as docs/methods.")
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="With --write-docs: new figures, of benchmarks/edit_methods.py --out; may be repeated.",
        ),
    ] = None,
) -> None:
    """List the methods of the catalogue."""
    if ctx.invoked_subcommand is not None:
        return
    from taskheads.cli.output import show, show_json
    from taskheads.methods import FAMILIES, catalogue
    from taskheads.tasks.suggest import did_you_mean, listed

    if family is not None and family not in FAMILIES:
        near = did_you_mean(family, FAMILIES)
        raise ConfigError(f"there is no family {family!r}{near}; the families are {listed(FAMILIES, 99)}")
    if measured and write_docs is None:
        raise ConfigError("--measured goes with --write-docs")
    if write_docs is not None:
        from taskheads.report.measured import keep, of_benchmark
        from taskheads.report.method_pages import write_pages

        if measured:
            keep(of_benchmark(*measured))
        print(f"{len(write_pages(write_docs, catalogue()))} pages are in {write_docs}")
        return
    cards = [card for card in catalogue() if family in (None, card.family)]
    if as_json:
        show_json([card.to_json() for card in cards])
    elif cards:
        from taskheads.report.cards import methods_table

        show(methods_table(cards))
    else:
        where = f"the family {family} has" if family else "the catalogue has"
        print(f"{where} no methods yet in this release")


@app.command("show")
def show_one(name: str, as_json: Json = False) -> None:
    """Show one method: mechanism, when to use it, parameters, an example, its paper and its evidence."""
    from dataclasses import asdict

    from taskheads.cli.output import show, show_json
    from taskheads.methods import find

    card = find(name)
    from taskheads.report.described import described
    from taskheads.report.measured import measured_last

    told, last = described(card), measured_last()
    if as_json:
        show_json(
            card.to_json() | asdict(told) | {"measured": None if last is None else last.methods.get(name)}
        )
        return
    from taskheads.report.cards import method_card

    show(method_card(card, told, None if last is None else last.told(name)))
