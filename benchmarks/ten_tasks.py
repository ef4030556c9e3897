"""Ten tasks on the same texts, for `speed.py`: clinc150's own labels, and what its texts themselves prove.

| task | kind | what is asked |
|---|---|---|
| intent, domain | classify | the data's labels: 150 and 10 classes |
| topics | multilabel | the words which the names of two or more intents share: `credit_limit` has `credit` |
| name_length | ordinal | how many words the intent's name has: 1 to 4 |
| words, letters | regress | how many words the text has; how many letters a word has on average |
| opening | classify | the first word, if it is one of the twenty commonest of train |
| question | classify | whether the text begins with a word that asks |
| people | multilabel | which of the pronouns below it has |
| polite | classify | whether it says please, thanks or could |
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

PRONOUNS = {"i", "you", "my", "your", "me", "it", "we", "they"}
ASKING = {"what", "how", "is", "can", "do", "are", "when", "where", "why", "which", "who", "does", "could"}
POLITE = {"please", "thanks", "thank", "could"}
KINDS = {
    "intent": "classify",
    "domain": "classify",
    "topics": "multilabel",
    "name_length": "ordinal",
    "words": "regress",
    "letters": "regress",
    "opening": "classify",
    "question": "classify",
    "people": "multilabel",
    "polite": "classify",
}
SMALLEST = "polite"  # two classes: the head that costs least


def ten_tasks(source: Path, folder: Path, limit: int | None = None) -> Any:
    """The suite of the ten tasks on train and dev rows of clinc150 in `source`, without a test split.

    `folder` is where the files with all labels are written. `limit` cuts train to evenly spaced rows, and
    dev to a fifth of that.
    """
    import taskheads as th

    rows = {split: _read(source / f"{split}.jsonl") for split in ("train", "dev")}
    if limit is not None:
        rows = {
            "train": rows["train"][:: -(-len(rows["train"]) // limit)],
            "dev": rows["dev"][:: -(-5 * len(rows["dev"]) // limit)],
        }
    label = _labeller(rows["train"])
    for split, some in rows.items():
        lines = [json.dumps(row | label(row)) for row in some]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # `load_suite` would hold out a test split where none is said; what `fit` reads shall be train and dev.
    files = {split: str(folder / f"{split}.jsonl") for split in rows} | {"test": str(folder / "dev.jsonl")}
    tasks = {
        name: {"input": "text", "label": name, "kind": kind, "unseen": "keep"} for name, kind in KINDS.items()
    }
    suite = th.load_suite({"data": files, "tasks": tasks})
    for name, data in suite.tasks.items():
        nothing = replace(data.splits["test"], inputs=([],), targets=[], sources=[])
        suite.tasks[name] = replace(data, splits=data.splits | {"test": nothing})
    return suite


def texts_of(suite: Any) -> list[str]:
    """The texts that fitting the suite reads: those of train and of dev."""
    splits = suite.tasks[SMALLEST].splits
    return [*splits["train"].inputs[0], *splits["dev"].inputs[0]]


def unseen_texts(source: Path, count: int) -> list[str]:
    """`count` texts of clinc150's test split, evenly spaced."""
    texts = [row["text"] for row in _read(source / "test.jsonl")]
    return [texts[at * len(texts) // count] for at in range(count)]


def _read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _labeller(train: list[dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """From a row to the labels that it has beside those of the data."""
    names = {row["intent"] for row in train}
    used = Counter(word for name in names for word in set(name.split("_")))
    topics = {word for word, count in used.items() if count >= 2}
    openings = Counter(row["text"].split()[0] for row in train)
    common = {word for word, _ in openings.most_common(20)}

    def label(row: dict[str, Any]) -> dict[str, Any]:
        words = row["text"].split()
        name = row["intent"].split("_")
        return {
            "topics": sorted(topics.intersection(name)),
            "name_length": min(len(name), 4),
            "words": float(len(words)),
            "letters": sum(map(len, words)) / len(words),
            "opening": words[0] if words[0] in common else "another",
            "question": "yes" if words[0] in ASKING else "no",
            "people": sorted(PRONOUNS.intersection(words)),
            "polite": "yes" if POLITE.intersection(words) else "no",
        }

    return label
