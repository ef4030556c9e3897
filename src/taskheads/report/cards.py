"""The catalogue for people: a list of methods, and one of them with its paper and its evidence."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from taskheads.methods import Card
from taskheads.report.tables import Column, FittedTable


def methods_table(cards: Sequence[Card]) -> FittedTable:
    """A line for each method: name, family, what it does, paper."""
    return FittedTable(
        [
            Column("method", [card.name for card in cards]),
            Column("family", [card.family for card in cards], spare=1),
            Column("what it does", [card.summary for card in cards], wrap=True),
            Column("paper", [card.paper for card in cards], spare=2),
        ]
    )


def method_card(card: Card) -> Group:
    """All that is known of one method."""
    tests = card.evidence or ("no test is recorded",)
    return Group(
        Text.assemble((card.name, "bold"), f"  {card.family}"),
        Padding(Text(card.summary), (0, 0, 1, 2)),
        Text(f"  paper       {card.paper}"),
        Text(f"  for         {', '.join(card.applies_to)}"),
        Text(f"  code        {card.where}"),
        *(Text(f"  {'' if i else 'evidence':<10}  {test}") for i, test in enumerate(tests)),
    )
