"""The documentation of the catalogue: one Markdown page a family, made from the cards."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskheads.methods import FAMILIES, Card
from taskheads.report.cards import brief
from taskheads.report.described import described
from taskheads.report.families import FAMILY

MEASURED = "measured.json"
_HEAD = "<!-- Made by `taskheads methods --write-docs`: change the code's docstrings, not this page. -->"


def write_pages(folder: Path, cards: Sequence[Card]) -> list[Path]:
    """Write the pages of these cards into a folder, and take away those of families that have none.

    What was measured last is read from `measured.json` there, a comparison as `taskheads compare` keeps it.
    """
    measured = _measured(folder / MEASURED)
    pages = pages_of(cards, measured)
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        begun = folder / f"{name}.partial"
        begun.write_text(page, encoding="utf-8")
        os.replace(begun, folder / name)
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    return [folder / name for name in pages]


def pages_of(cards: Sequence[Card], measured: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The pages by file name: `README.md`, which lists the families, and one for each of these."""
    families = [family for family in FAMILIES if any(card.family == family for card in cards)]
    lines = [_HEAD, "", "# Methods", "", "| family | methods | what they do |", "|---|---|---|"]
    pages = {}
    for family in families:
        mine = [card for card in cards if card.family == family]
        lines.append(f"| [{FAMILY[family].title}]({family}.md) | {len(mine)} | {FAMILY[family].about} |")
        pages[f"{family}.md"] = _page(family, mine, measured)
    lines += ["", "`taskheads methods show NAME` tells the same of one method.", ""]
    return {"README.md": "\n".join(lines), **pages}


def _page(family: str, cards: Sequence[Card], measured: Mapping[str, Any] | None) -> str:
    words = FAMILY[family]
    lines = [_HEAD, "", f"# {words.title}", "", words.about, ""]
    lines += [f"Use one where: {_lower(words.use)}", "", f"Not where: {_lower(words.avoid)}", ""]
    lines += ["| method | what it does | paper |", "|---|---|---|"]
    lines += [
        f"| [{card.name}](#{card.name}) | {_cell(brief(card.summary))} | {_cell(card.paper)} |"
        for card in cards
    ]
    if table := _table(cards, measured):
        lines += ["", *table]
    for card in cards:
        lines += ["", *_entry(card)]
    return "\n".join(lines) + "\n"


def _entry(card: Card) -> list[str]:
    told = described(card)
    lines = [f"## {card.name}", "", told.mechanism, ""]
    lines += [f"- paper: {card.paper}", f"- for tasks of the kind: {', '.join(card.applies_to)}"]
    # What holds for the whole family stands above.
    if notes := [*told.use[1:], *told.avoid[1:]]:
        lines.append(f"- to know: {' '.join(notes)}")
    if told.parameters:
        lines.append(
            "- parameters: " + ", ".join(f"`{name}={each}`" for name, each in told.parameters.items())
        )
    if told.about:
        lines.append(f"- of them: {told.about}")
    lines.append(f"- evidence: {evidence_of(card)}")
    return [*lines, "", "```python", told.example, "```"]


def evidence_of(card: Card) -> str:
    """The files of a method's tests, each with how many there are."""
    files = Counter(test.partition("::")[0] for test in card.evidence)
    return ", ".join(f"`{file}` ({count})" for file, count in files.items()) or "none is recorded"


def _table(cards: Sequence[Card], measured: Mapping[str, Any] | None) -> list[str]:
    """What a comparison measured of these methods."""
    names = {card.name for card in cards}
    ways = [way for way in (measured or {}).get("ways", ()) if way["method"] in names | {"frozen", "full"}]
    if measured is None or not any(way["method"] in names for way in ways):
        return []
    tasks = ", ".join(f"{name} ({task['metric']})" for name, task in measured["tasks"].items())
    lines = [
        f"Measured together on {tasks}, {measured['hardware']}, {measured['created'][:10]}:",
        "",
        "| way | mean | judged on | parameters | seconds |",
        "|---|---|---|---|---|",
    ]
    for way in ways:
        test = way["test"]
        mean = test["mean"]["value"] if test else way["quality"]
        judged = "test" if test else f"dev, {way['part']:.0%} of the rows"
        lines.append(
            f"| {way['name']} | {mean:.3f} | {judged} | {way['parameters']:,} | {way['seconds']:.0f} |"
        )
    return lines


def _measured(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _cell(words: str) -> str:
    return words.replace("|", "\\|")
