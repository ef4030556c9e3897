"""The documentation of the catalogue: one Markdown page a family, made from the cards."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from taskheads.methods import FAMILIES, Card
from taskheads.report.cards import brief
from taskheads.report.described import described
from taskheads.report.families import FAMILY
from taskheads.report.measured import Measured, measured_last

_HEAD = "<!-- Made by `taskheads methods --write-docs`: change the code's docstrings, not this page. -->"


def write_pages(folder: Path, cards: Sequence[Card]) -> list[Path]:
    """Write the pages of these cards, with what was measured last, into a folder, and take away those of
    families that have none."""
    pages = pages_of(cards, measured_last())
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        begun = folder / f"{name}.partial"
        begun.write_text(page, encoding="utf-8")
        os.replace(begun, folder / name)
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    return [folder / name for name in pages]


def pages_of(cards: Sequence[Card], measured: Measured | None = None) -> dict[str, str]:
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


def _page(family: str, cards: Sequence[Card], measured: Measured | None) -> str:
    words = FAMILY[family]
    lines = [_HEAD, "", f"# {words.title}", "", words.about, ""]
    lines += [f"Use one where: {_lower(words.use)}", "", f"Not where: {_lower(words.avoid)}", ""]
    lines += ["| method | what it does | paper |", "|---|---|---|"]
    lines += [
        f"| [{card.name}](#{card.name}) | {_cell(brief(card.summary))} | {_cell(card.paper)} |"
        for card in cards
    ]
    if measured is not None and (table := measured.table(card.name for card in cards)):
        lines += ["", *table]
    for card in cards:
        lines += ["", *_entry(card, measured)]
    return "\n".join(lines) + "\n"


def _entry(card: Card, measured: Measured | None) -> list[str]:
    told = described(card)
    lines = [f"## {card.name}", "", told.mechanism, ""]
    lines += [f"- paper: {card.paper}", f"- for tasks of the kind: {', '.join(card.applies_to)}"]
    if card.needs:
        lines.append(f"- needs: {card.needs}")
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
    if measured is not None and (figures := measured.told(card.name)):
        lines.append(f"- measured: {figures}")
    return [*lines, "", "```python", told.example, "```"]


def evidence_of(card: Card) -> str:
    """The files of a method's tests, each with how many there are."""
    files = Counter(test.partition("::")[0] for test in card.evidence)
    return ", ".join(f"`{file}` ({count})" for file, count in files.items()) or "none is recorded"


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _cell(words: str) -> str:
    return words.replace("|", "\\|")
