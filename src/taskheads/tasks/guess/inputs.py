"""Which columns are read: the text, the two texts, or the words with layers of tags over them."""

from __future__ import annotations

from taskheads.tasks.guess.columns import Column
from taskheads.tasks.guess.names import ORIGINS, PAIRS, SEARCH, STRONG_TEXTS, TAGS, TEXTS, WORDS, plain
from taskheads.tasks.rows import Rows
from taskheads.tasks.suggest import listed


def find_inputs(columns: dict[str, Column], words: str | None) -> tuple[tuple[str, ...], str]:
    """The one or two columns of text among `columns` and why; `words` if there is no text; else nothing."""
    texts = {name: column for name, column in columns.items() if column.shape == "text"}
    by_plain = {plain(name): name for name in texts}
    for pair in PAIRS:
        if all(name in by_plain and not _is_answer(texts[by_plain[name]]) for name in pair):
            why = "named as what seeks and what is found" if pair in SEARCH else "named as two texts"
            return tuple(by_plain[name] for name in pair), why
    likely = [name for name, column in texts.items() if _is_text(column)]
    strong = [name for name in likely if plain(name) in STRONG_TEXTS]
    if len(strong) == 1 or len(likely) == 1:
        return ((strong or likely)[0],), "long strings, mostly different"
    if len(likely) == 2:
        return tuple(likely), "two columns of long strings, mostly different"
    if likely:
        named = [name for name in likely if plain(name) in TEXTS] or likely
        longest = max(named, key=lambda name: texts[name].length)
        return (longest,), f"the longest of the texts {listed(likely)}"
    if words:
        return (words,), "its words as one text"
    unique = [name for name, column in texts.items() if not column.repeats]
    if unique:
        return (max(unique, key=lambda name: texts[name].length),), "the longest strings, mostly different"
    return (), ""


def is_search(inputs: tuple[str, ...]) -> bool:
    """Whether two columns are called like a query and what it finds, so that each row is a match."""
    return tuple(map(plain, inputs)) in SEARCH


def find_words(columns: dict[str, Column]) -> str | None:
    """The column whose rows are lists of words: by its name, or the most varied lists beside other lists."""
    lists = {name: column for name, column in columns.items() if column.shape == "texts"}
    for name in lists:
        if plain(name) in WORDS:
            return name
    if len(lists) > 1 and not any(_is_text(column) for column in columns.values()):
        return max(lists, key=lambda name: lists[name].distinct)
    return None


def find_layers(rows: Rows, columns: dict[str, Column], words: str) -> list[str]:
    """The columns that have a tag for each word: lists as long as the words', of items that repeat.

    A column called like tags, or whose items look like `B-…` and `I-…`, is one even if some rows have
    another length, so that those rows are reported rather than the column misread.
    """
    layers = []
    for name, column in columns.items():
        known = plain(name) in TAGS
        if name == words or not (column.shape == "texts" or (column.shape == "ints" and known)):
            continue
        if plain(name) in ORIGINS:
            continue
        both = [(a, b) for a, b in zip(rows.columns[words], rows.columns[name], strict=True) if a and b]
        both = [(a, b) for a, b in both if isinstance(a, list) and isinstance(b, list)]
        equal = sum(len(a) == len(b) for a, b in both)
        known = known or any(str(tag).startswith(("B-", "I-")) for _, tags in both for tag in tags)
        few = column.repeats and column.distinct <= 0.7 * columns[words].distinct
        varied = any(len(a) != len(a0) for a, _ in both for a0, _ in both[:1]) or columns[words].words > 1
        if both and varied and equal >= (0.5 if known else 0.95) * len(both) and (known or few):
            layers.append(name)
    return layers


def _is_text(column: Column) -> bool:
    """Long, mostly different strings; a name known for texts stands in for length or some repetition."""
    if column.shape != "text" or column.distinct < 2:
        return False
    if plain(column.name) in TEXTS:
        return column.variety > 0.1 or column.words >= 3
    return not column.repeats and (column.words >= 2.5 or column.length >= 25)


def _is_answer(column: Column) -> bool:
    """Single words that repeat: under a name such as `output` or `answer`, a label and not a second text."""
    return column.repeats and column.words < 2
