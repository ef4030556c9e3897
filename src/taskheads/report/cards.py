"""The catalogue for people: a list of methods, and one of them with its paper and its evidence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from taskheads.methods import Card
from taskheads.report.described import Described
from taskheads.report.tables import Column, FittedTable, named_lines


def methods_table(cards: Sequence[Card]) -> FittedTable:
    """A line for each method: name, family, what it does in brief, paper, kinds of task, number of tests."""
    return FittedTable(
        [
            Column("method", [card.name for card in cards]),
            Column("family", [card.family for card in cards], spare=1),
            Column("what it does", [brief(card.summary) for card in cards], wrap=True),
            Column("paper", [card.paper for card in cards], spare=2),
            Column("for", [", ".join(card.applies_to) for card in cards], spare=3),
            Column("tests", [str(len(card.evidence) or "") for card in cards], right=True, spare=4),
        ]
    )


def brief(summary: str) -> str:
    """A summary up to where its details begin; a short name before a colon is not enough."""
    found = re.match(r"(?P<name>[^:;.]{1,40}: )?.*?(?=[:;.](?:\s|$)|$)", summary)
    return found[0] if found else summary


def method_card(card: Card, told: Described, measured: str | None = None) -> Group:
    """All that is known of one method; `measured` are its figures in a sentence."""
    parameters = ", ".join(f"{name}={default}" for name, default in told.parameters.items())
    facts = [
        ("paper", card.paper),
        ("for", ", ".join(card.applies_to)),
        ("needs", card.needs),
        ("use it", " ".join(told.use)),
        ("not", " ".join(told.avoid)),
        ("set", parameters or "nothing"),
        ("", told.about),
        ("code", card.where),
        *_named("example", told.example.splitlines()),
        *_named("evidence", card.evidence or ("no test is recorded",)),
        ("measured", measured or ""),
    ]
    return Group(
        Text.assemble((card.name, "bold"), f"  {card.family}"),
        Padding(Text(told.mechanism), (0, 0, 1, 2)),
        named_lines([fact for fact in facts if fact[1]]),
    )


def _named(name: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    """Several lines under one name."""
    return [("" if i else name, line) for i, line in enumerate(lines)]
