"""CoNLL: a word a line, its tags beside it in columns, a blank line after each sentence."""

from __future__ import annotations

import re
from pathlib import Path

from taskheads.errors import DataError
from taskheads.tasks.readers.encoding import read_utf8
from taskheads.tasks.table import Table

_CONLLU = ("id", "tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_HEADER = re.compile(r"#\s*(?:global\.)?columns\s*=\s*(.+)", re.I)
_COMMENT = re.compile(r"#\s*\S+\s*=.*|#\s*(newdoc|newpar).*")
_INTEGER = re.compile(r"-?[0-9]+")


def read_conll(path: Path) -> Table:
    """Read a CoNLL file of any columns: each row is a sentence, each column a list with a value a word.

    Columns are separated by tabs if the file has any, else by blanks. Their names come from a comment
    `# columns = word pos ner` (the column `form` or `word` is called `tokens`), from CoNLL-U for `.conllu`,
    and are otherwise `tokens`, `tags`, `tags2`, … A column of whole numbers becomes ints. `-DOCSTART-`
    lines, comments, and CoNLL-U's multiword tokens (`3-4`) and empty nodes (`3.1`) are skipped. A row is
    known by the line of its first word.

    Raises
    ------
    DataError: a line with more or fewer columns than the first, or with one column only.
    """
    text = read_utf8(path)
    universal = path.suffix.lower() == ".conllu"
    separator = "\t" if "\t" in text else None
    names: list[str] = list(_CONLLU) if universal else []
    sentences: list[list[list[str]]] = [[]]
    rows: list[int] = []
    width = 0
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        header = _HEADER.fullmatch(line.strip())
        if header and not rows:
            names = header[1].split()
            continue
        if not line.strip() or line.startswith("-DOCSTART-"):
            if sentences[-1]:
                sentences.append([])
            continue
        # "# O" may be a word with its tag: outside CoNLL-U a comment is "# key = value" before a sentence.
        if line.startswith("#") and (universal or (not sentences[-1] and _COMMENT.fullmatch(line.strip()))):
            continue
        fields = line.rstrip().split(separator) if separator is None else line.split(separator)
        if universal and not fields[0].isdecimal():
            continue
        width = width or len(names) or len(fields)
        if width < 2:
            raise DataError("one column only: a word and at least one tag are needed", file=path, row=number)
        if len(fields) != width:
            raise DataError(f"has {len(fields)} of the {width} columns", file=path, row=number)
        if not sentences[-1]:
            rows.append(number)
        sentences[-1].append(fields)
    if not sentences[-1]:
        sentences.pop()
    names = names or ["tokens", "tags", *(f"tags{i}" for i in range(2, width))]
    names = ["tokens" if name.lower() in ("form", "word", "token") else name.lower() for name in names]
    columns: dict[str, list] = {}
    for i, name in enumerate(names):
        column = [[fields[i] for fields in sentence] for sentence in sentences]
        if name != "tokens" and all(_INTEGER.fullmatch(value) for values in column for value in values):
            columns[name] = [[int(value) for value in values] for values in column]
        else:
            columns[name] = column
    return Table(str(path), columns, rows)
