"""The catalogue for people: a list of methods, and one of them with its paper and its evidence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from taskheads.methods import Card
from taskheads.report.tables import Column, FittedTable, named_lines


def methods_table(cards: Sequence[Card]) -> FittedTable:
    """A line for each method: name, family, what it does in brief, paper."""
    return FittedTable(
        [
            Column("method", [card.name for card in cards]),
            Column("family", [card.family for card in cards], spare=1),
            Column("what it does", [brief(card.summary) for card in cards], wrap=True),
            Column("paper", [card.paper for card in cards], spare=2),
        ]
    )


def brief(summary: str) -> str:
    """A summary up to where its details begin."""
    return re.split(r"[:;.](?=\s|$)", summary, maxsplit=1)[0]


def method_card(card: Card) -> Group:
    """All that is known of one method."""
    facts = [("paper", card.paper), ("for", ", ".join(card.applies_to)), ("code", card.where)]
    tests = card.evidence or ("no test is recorded",)
    return Group(
        Text.assemble((card.name, "bold"), f"  {card.family}"),
        Padding(Text(card.summary), (0, 0, 1, 2)),
        named_lines([*facts, *(("" if i else "evidence", test) for i, test in enumerate(tests))]),
    )
