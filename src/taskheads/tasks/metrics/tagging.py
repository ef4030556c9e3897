"""Entities in tag sequences, counted as conlleval counts them.

The rules are those of the evaluation script of the CoNLL shared tasks (Tjong Kim Sang and Buchholz 2000,
"Introduction to the CoNLL-2000 shared task: chunking"; version of 2004-01-26), which are lenient with
malformed sequences:

- A tag is a prefix and a type around its first hyphen (`I-a-b` is I of type `a-b`); `B` and `I` alone have
  the empty type.
- An entity starts at a B, at an I after O, and wherever the type changes: `I-PER` without a `B-PER` is an
  entity, and `B-PER I-LOC` are two. `I` after a `B` or an `I` of its type goes on, so that IOB1 and IOB2 are
  both read.
- It ends before O, before a B, before a change of type, and with its sentence.
- It is right if start, end and type are all those of one entity of the truth.
- Precision, recall and F1 are of the pooled counts, over all types, and 0 where nothing was found or there is
  nothing to find.

A line `-DOCSTART-` is to conlleval a token like any other, which the data tag O: it adds no entity unless one
is predicted there, and one token to the accuracy. Here likewise: as a sentence of one O if the reader keeps
it.

Of other schemes, E is read as conlleval reads it (an entity's last token when the next begins with E or I).
Tags with S, L or U prefixes should be turned into B and I first, as for conlleval. Its bracket tags (`[`,
`]`, `.`) are not read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from taskheads.tasks.metrics.classification import decisions, f1_of_counts
from taskheads.tasks.metrics.metric import Collection, Sums, ratio, statistics

METRICS = Collection()

_PREFIXES = "OBIE?"  # the last stands for any other
_OUTSIDE = 0


def _pairs(*pairs: str) -> np.ndarray:
    """[5, 5] truth table over (prefix before, prefix now)."""
    table = np.zeros((len(_PREFIXES), len(_PREFIXES)), dtype=bool)
    for pair in pairs:
        table[_PREFIXES.index(pair[0]), _PREFIXES.index(pair[1])] = True
    return table


_STARTS = _pairs("OB", "OI", "OE", "BB", "IB", "EE", "EI")
_ENDS = _pairs("BO", "IO", "EO", "BB", "IB", "EE", "EI")


def split_tag(tag: str) -> tuple[str, str]:
    """Prefix and type, around the first hyphen; without one, all is prefix."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


class _Sequence:
    """Tags [m] of one side: prefix and type of each, and where an entity starts at or has ended before it."""

    def __init__(self, codes: np.ndarray, prefixes: np.ndarray, types: np.ndarray) -> None:
        prefix, kind = prefixes[codes], types[codes]
        self.type = kind
        self.type_before = np.concatenate([types[:1], kind[:-1]])  # code 0 is O: so begins the first sentence
        before = np.concatenate([[_OUTSIDE], prefix[:-1]])
        changes = self.type_before != kind
        self.starts = _STARTS[before, prefix] | (changes & (prefix != _OUTSIDE))
        self.ended = _ENDS[before, prefix] | (changes & (before != _OUTSIDE))


def entity_counts(truth: Any, predicted: Any) -> np.ndarray:
    """[3, sentences]: the entities that are right, predicted and true, by this module's rules."""
    items = decisions(truth, predicted)
    # All sentences in one line, each closed by an O; code 0 is that O, the data's tags follow.
    split = [split_tag(tag) for tag in ("O", *items.labels)]
    prefixes = np.array([_PREFIXES.index(prefix if prefix in {*"OBIE"} else "?") for prefix, _ in split])
    number: dict[str, int] = {}
    types = np.array([number.setdefault(kind, len(number)) for _, kind in split])
    place = np.arange(len(items.row)) + items.row
    length = len(items.row) + items.rows
    sentence = np.full(length, -1)
    sentence[place] = items.row
    sentence[sentence < 0] = np.arange(items.rows)
    sides = []
    for codes in (items.truth, items.predicted):
        line = np.zeros(length, dtype=np.int64)
        line[place] = codes + 1
        sides.append(_Sequence(line, prefixes, types))
    true, guessed = sides

    # An entity is open on both sides from a common start to the first end on either; a common end is a hit.
    opens = true.starts & guessed.starts & (true.type == guessed.type)
    both_end = true.ended & guessed.ended & (true.type_before == guessed.type_before)
    breaks = (true.ended != guessed.ended) | (true.type != guessed.type)
    last = np.maximum.accumulate(np.where(opens | both_end | breaks, np.arange(length), -1))
    before = np.concatenate([[-1], last[:-1]])
    right = both_end & (before >= 0) & opens[before]

    def by_sentence(at: np.ndarray) -> np.ndarray:
        return np.bincount(sentence[at], minlength=items.rows)

    return np.stack([by_sentence(right), by_sentence(guessed.starts), by_sentence(true.starts)])


@METRICS.define("entity_f1", "tag", "F1 of whole entities, type and both ends right")
def entity_f1(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """F1 over the entities of all types, by conlleval's rules (see the module)."""
    return f1_of_counts(*entity_counts(truth, predicted))


@METRICS.define("entity_precision", "tag", "share of the predicted entities that are right", of=1)
@METRICS.define("entity_recall", "tag", "share of the true entities that are found", of=2)
def entity_share(truth: Any, predicted: Any, scores: Any = None, *, of: int) -> Sums:
    """Right entities over predicted (precision) or true ones (recall), by conlleval's rules."""
    counts = entity_counts(truth, predicted)
    return Sums(statistics(counts[0], counts[of]), lambda sums: ratio(sums[0], sums[1]))
