"""A small suite of real words, fitted on MiniLM in seconds: what a page can be looked at with."""

from __future__ import annotations

import json
from pathlib import Path

import taskheads as th
from taskheads.backbone.backbone import Backbone

INTENTS = {
    "weather": "will it rain|how cold is it|is it sunny|do i need a coat|what is the forecast|how hot is it",
    "music": "play a song|turn up the volume|skip this track|who sings this|play some jazz|stop the music",
    "bank": "pay my bill|what is my balance|send money home|block my card|raise my limit|when is rent due",
    "oos": "why is the sky blue|who won the war|do fish sleep|is pi rational|how tall are trees|what is love",
}
WHEN = ("", " now", " today", " please", " for me", " again")
NAMES = ("Anna", "Paul", "Maria", "John Smith", "Rosa Parks", "Peter")
PLACES = ("Paris", "Rome", "New York", "Lima", "Oslo", "Cairo")


def fitted(folder: Path, backbone: Backbone) -> Path:
    """The folder of a model of five tasks, and beside it `docs.jsonl`, documents for `find`."""
    texts = [
        {
            "text": text + when,
            "intent": intent,
            "about": sorted({intent, "now"} if when == " now" else {intent}),
        }
        for intent, each in INTENTS.items()
        for text in each.split("|")
        for when in WHEN
    ]
    words, matches = [], []
    for name in NAMES:
        for place in PLACES:
            row = [("ask", "O"), *_bio(name, "person"), ("about", "O"), ("it", "O"), ("in", "O")]
            row += _bio(place, "place")
            words.append({"words": [word for word, _ in row], "entities": [tag for _, tag in row]})
            matches.append({"query": f"who is {name}", "doc": f"{name} lives in {place}"})
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in (("texts", texts), ("words", words), ("matches", matches)):
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "docs.jsonl").write_text("".join(json.dumps({"doc": row["doc"]}) + "\n" for row in matches))
    suite = {
        "tasks": {
            "intent": {"data": str(folder / "texts.jsonl"), "input": "text", "label": "intent"},
            "about": {"data": str(folder / "texts.jsonl"), "input": "text", "label": "about"},
            "entities": {"data": str(folder / "words.jsonl"), "input": "words", "label": "entities"},
            "find": {"data": str(folder / "matches.jsonl"), "input": ["query", "doc"], "kind": "embed"},
        },
    }
    th.fit(suite, tune="frozen", backbone=backbone).save(folder / "model")
    return folder / "model"


def _bio(name: str, label: str) -> list[tuple[str, str]]:
    return [(word, f"{'I' if at else 'B'}-{label}") for at, word in enumerate(name.split())]
