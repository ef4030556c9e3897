"""Column names that people use: evidence that is weighed beside the values, never against them."""

from __future__ import annotations

import re


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


STRONG_TEXTS = _names("text sentence utterance content tweet review message comment")
TEXTS = STRONG_TEXTS | _names("""
    document doc body question title query summary passage prompt description abstract headline input
""")
# In the order in which they are to be read: what is asked or claimed first.
PAIRS = (
    ("texta", "textb"),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("sentencea", "sentenceb"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("query", "document"),
    ("query", "doc"),
    ("query", "passage"),
    ("query", "positive"),
    ("anchor", "positive"),
    ("question", "answer"),
    ("question", "context"),
    ("question", "passage"),
    ("question", "document"),
    ("left", "right"),
    ("input", "output"),
)
# Pairs of which one is sought by the other: the rows are the matches.
SEARCH = frozenset(
    {
        *(("query", each) for each in ("document", "doc", "passage", "positive")),
        *(("question", each) for each in ("answer", "context", "passage", "document")),
        ("anchor", "positive"),
    }
)
# What judges a match, rather than telling something about one of the two.
JUDGEMENTS = _names("""
    relevance relevant isrelevant grade rating score similarity match ismatch matching correct iscorrect
    duplicate isduplicate judgement judgment
""")
WORDS = _names("tokens token words word form forms")
TAGS = _names("tags tag nertags postags chunktags ner pos upos xpos slots bio iob entities deprel")
GENERIC_LABELS = _names("label labels target targets y gold")
LABELS = _names("""
    class classes category categories intent intents topic topics sentiment emotion score rating stars tags
    skills similarity relatedness entailment
""")
# Whole numbers under these names are codes of classes, whose order means nothing.
UNORDERED = _names("class category intent topic type kind domain emotion language")
# Where a row comes from, or what a parser says about it: a task only where nothing else is.
ORIGINS = _names("""
    genre source origin dataset corpus doc document author user url uri date timestamp license lang annotator
    split fold lemma lemmas feats deps misc
""")
# What people call the splits, in files, folders and columns.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
    "testing": "test",
}


def plain(name: str) -> str:
    """A name without case and punctuation: `Text_A`, `text-a` and `textA` are one."""
    return re.sub(r"[\W_]+", "", name).lower()
