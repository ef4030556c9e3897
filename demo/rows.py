"""Turn documented items into rows of tasks. Every label is a fact about the code, never an opinion."""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import cycle

import docstrings
from sources import Item, stable

Row = dict[str, object]
SHARES = {"train": 0.7, "dev": 0.15, "test": 0.15}
MOST_PARAMETERS = 5  # "5 or more"
LONGEST_SUMMARY = 64  # words
PER_MODULE = 40

# Other names by which a library's documentation speaks of it.
ALIASES = {
    "torch": ("pytorch",),
    "transformers": ("hugging face", "huggingface"),
    "sklearn": ("scikit-learn", "scikit learn", "scikit"),
    "pandas": ("pd",),
    "numpy": ("np",),
    "networkx": ("nx",),
    "datasets": ("hugging face", "huggingface"),
    "huggingface_hub": ("hugging face hub", "huggingface hub", "hugging face", "huggingface", "hf"),
}


@dataclass(frozen=True)
class Entry:
    """An item with its docstring taken apart. `summary` no longer names the library."""

    item: Item
    doc: docstrings.Docstring
    summary: str


def usable(items: Iterable[Item]) -> list[Entry]:
    """The items whose summary is an English text of at least four words; at most `PER_MODULE` of a module."""
    kept: list[Entry] = []
    taken: Counter[str] = Counter()
    for item in items:
        doc = docstrings.parse(item.docstring, item.qualname.rpartition(".")[2])
        summary = " ".join(without_name(doc.summary, item.library).split()[:LONGEST_SUMMARY])
        letters = [c for c in summary if c.isalpha()]
        english = sum(c.isascii() for c in letters) >= 0.98 * len(letters)
        words = re.findall(r"\b[A-Za-z]{2,}\b", summary)
        if len(words) >= 4 and english and taken[item.module] < PER_MODULE:
            taken[item.module] += 1
            kept.append(Entry(item, doc, summary))
    return kept


def without_name(text: str, library: str) -> str:
    """The text without the library's name: "a NumPy array" → "a array", "torch.nn.Linear" → "nn.Linear"."""
    return " ".join(_own_names(library).sub("", text).split())


@cache
def _own_names(library: str) -> re.Pattern[str]:
    names = [library, library.replace("_", " "), *ALIASES.get(library, ())]
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])(?:\.(?=\w))?", re.IGNORECASE)


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Each summary once: copies (the same method in ten classes) would otherwise stand in two splits."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        seen.setdefault(_key(entry.summary), entry)
    return list(seen.values())


def split_modules(entries: list[Entry]) -> dict[str, str]:
    """A split for every module, so that in each library each split has about its share of the entries."""
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        sizes[entry.item.library][entry.item.module] += 1
    splits: dict[str, str] = {}
    for modules in sizes.values():
        filled: Counter[str] = Counter()
        for module in sorted(modules, key=lambda name: (-modules[name], stable(name))):
            split = min(SHARES, key=lambda name: filled[name] / SHARES[name])
            splits[module] = split
            filled[split] += modules[module]
    return splits


def doc_rows(entries: list[Entry], splits: dict[str, str]) -> list[Row]:
    """The shared rows: one text, five questions. None where the code does not say (see `Item`)."""
    rows: list[Row] = []
    for entry in entries:
        item, doc = entry.item, entry.doc
        count = None if item.parameters is None else min(len(item.parameters), MOST_PARAMETERS)
        rows.append(
            {
                "text": entry.summary,
                "library": item.library,
                "thing": item.thing,
                "sections": list(doc.sections),
                "parameters": count,
                "length": round(math.log2(doc.words), 3),
                **_provenance(item, splits),
            }
        )
    return rows


def known_labels(rows: list[Row], columns: Iterable[str]) -> list[Row]:
    """Take away, in dev and test, the answers which no training row has: a rare label can fall so."""
    for column in columns:
        seen = {label for row in rows if row["split"] == "train" for label in _labels(row[column])}
        for row in rows:
            value = row[column]
            if isinstance(value, list):
                row[column] = [label for label in value if label in seen]
            elif value not in seen:
                row[column] = None
    return rows


def name_rows(entries: list[Entry], splits: dict[str, str]) -> list[Row]:
    """Sentences which mention parameters of what they describe: words, and a BIO tag for each."""
    rows: dict[str, Row] = {}
    for entry in entries:
        parameters = set(entry.item.parameters or ())
        for paragraph in entry.doc.prose:
            for sentence in docstrings.sentences(paragraph):
                tagged = tag_parameters(sentence, parameters)
                if tagged and 5 <= len(tagged[0]) <= 60:
                    row = {"words": tagged[0], "tags": tagged[1], **_provenance(entry.item, splits)}
                    rows.setdefault(_key(" ".join(tagged[0])), row)
    return list(rows.values())


def tag_parameters(sentence: str, parameters: set[str]) -> tuple[list[str], list[str]] | None:
    """The words of a marked sentence and their tags, or None if it has no mention, or a doubtful one.

    A parameter's name is a mention if the author marked it as code, alone or with a value (`axis`,
    `axis=0`), or if it cannot be an English word (`n_samples`). Any other occurrence ("the input", in a
    function with a parameter `input`) may be a mention or not: such a sentence is left out.
    """
    if " : " in sentence:  # a list of numpydoc entries ("x : float"), not a sentence
        return None
    words: list[str] = []
    tags: list[str] = []
    for part, text in enumerate(re.split(f"[{docstrings.OPEN}{docstrings.CLOSE}]", sentence)):
        is_code = part % 2 == 1
        alone = re.fullmatch(r"\*{0,2}(\w+)(?:\s*==?\s*\S+)?", text) if is_code else None
        for word in re.findall(r"\d+\.\d+|\w+(?:[-']\w+)*|[^\w\s]", text):
            mentioned = word in parameters
            if mentioned and is_code and not (alone and alone[1] == word):
                return None
            if mentioned and not is_code and not re.search(r"[_\d]", word):
                return None
            words.append(word)
            tags.append("B-parameter" if mentioned else "O")
    return (words, tags) if "B-parameter" in tags else None


def pair_rows(entries: list[Entry], splits: dict[str, str], count: int) -> list[Row]:
    """Two summaries: from one module, or not? Half yes; of the noes, half within one library."""
    rows: list[Row] = []
    for split, share in SHARES.items():
        pool = [entry for entry in entries if splits[entry.item.module] == split]
        by_module, by_library = defaultdict(list), defaultdict(list)
        for entry in pool:
            by_module[entry.item.module].append(entry)
            by_library[entry.item.library].append(entry)
        rng = random.Random(f"pairs {split}")
        relations = cycle(["same module", "same library", "same module", "other library"])
        relation = next(relations)
        used: set[frozenset[str]] = set()
        for first in rng.sample(pool, len(pool)) * 2:
            near = {
                "same module": by_module[first.item.module],
                "same library": by_library[first.item.library],
            }
            second = rng.choice(near.get(relation, pool))
            texts = frozenset((first.summary, second.summary))
            if len(used) >= count * share:
                break
            if second is first or texts in used or _relation(first.item, second.item) != relation:
                continue  # bad luck: another first text may have more
            used.add(texts)
            same = "yes" if relation == "same module" else "no"
            rows.append({"first": first.summary, "second": second.summary, "same": same, "split": split})
            relation = next(relations)
    return rows


def find_rows(entries: list[Entry], splits: dict[str, str]) -> list[Row]:
    """Search: the words of a qualified name, and the summary to be found.

    Left out: names of one word, names borne by two items (which would be the answer?), and names whose
    every word stands in the summary: matching letters would find those.
    """
    queries = [name_words(entry.item.qualname) for entry in entries]
    times = Counter(map(tuple, queries))
    rows: list[Row] = []
    for entry, query in zip(entries, queries, strict=True):
        if len(query) >= 2 and times[tuple(query)] == 1 and not set(query) <= set(_words(entry.summary)):
            rows.append({"query": " ".join(query), "doc": entry.summary, **_provenance(entry.item, splits)})
    return rows


def name_words(qualname: str) -> list[str]:
    """ "DataFrame.drop_duplicates" → data, frame, drop, duplicates."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", qualname)]


def _relation(first: Item, second: Item) -> str:
    if first.module == second.module:
        return "same module"
    return "same library" if first.library == second.library else "other library"


def _provenance(item: Item, splits: dict[str, str]) -> Row:
    return {"split": splits[item.module], "module": item.module, "name": item.qualname}


def _labels(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _key(text: str) -> str:
    return " ".join(_words(text))
