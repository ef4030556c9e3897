"""The table at the end of `taskheads fit`, from a model's data card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.text import Text

from taskheads.model.evaluation import Score
from taskheads.report.scores import number, scores_table, short_reads


def fitted_table(tasks: Mapping[str, Mapping[str, Any]]) -> Group:
    """Scores on test, and what each head reads; `tasks` are entries of `card["tasks"]` by name."""
    judged = {name: card for name, card in tasks.items() if "test" in card}
    # The other metrics of a kind are for `evaluate`.
    scores = [Score(**{**card["test"], "others": {}}) for card in judged.values()]
    reads = {name: short_reads(card["reads"]) for name, card in judged.items()}
    table = [scores_table(scores, reads)] if scores else []
    notes = [
        Text(f"{name} has no test rows; {card['metric']} on dev: {number(card['dev'])}")
        for name, card in tasks.items()
        if name not in judged
    ]
    return Group(*table, *notes)
