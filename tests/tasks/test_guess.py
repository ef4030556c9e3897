"""The guess is what a person would say who looks at the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taskheads.errors import DataError
from taskheads.tasks.guess import guess_tasks
from taskheads.tasks.guess.columns import column_facts, is_identifier, is_split
from taskheads.tasks.readers import read_table
from taskheads.tasks.rows import Rows

WORDS = (
    "the",
    "quick",
    "brown",
    "lazy",
    "fox",
    "dog",
    "jumps",
    "over",
    "under",
    "near",
    "old",
    "new",
    "house",
)


def text(i: int) -> str:
    return " ".join(WORDS[(i * step + i // 7) % len(WORDS)] for step in (1, 3, 5, 7, 11)) + f" {i}"


def rows(n: int = 40, /, **columns: Any) -> Rows:
    """Rows of a made file: each column is a function of the row's number."""
    return Rows(
        {name: [of(i) for i in range(n)] for name, of in columns.items()}, [("a.csv", i) for i in range(n)]
    )


def said(table: Rows, **stated: Any) -> list[tuple]:
    return [(guess.kind, guess.inputs, guess.label) for guess in guess_tasks(table, **stated)]


REAL = {
    "atis": [("tag", "tokens", "slots"), ("classify", "tokens", "intent")],
    "clickbait_spoiling_2023": [("multilabel", "targetTitle", "tags")],
    "clinc150": [("classify", "text", "intent"), ("classify", "text", "domain")],
    "customer_review": [("classify", "text", "label")],
    "esco_skills_house": [("multilabel", "text", "skills")],
    "esco_skills_tech": [("multilabel", "text", "skills")],
    "esco_skills_techwolf": [("multilabel", "text", "skills")],
    "kompetencer": [("classify", "text", "esco")],
    "kompetencer_danish": [("classify", "text", "esco")],
    "movie_review": [("classify", "text", "label")],
    "mpqa": [("classify", "text", "label")],
    "nlupp_banking": [("multilabel", "text", "intents")],
    "nlupp_hotels": [("multilabel", "text", "intents")],
    "offensiveness": [("regress", "text", "offensiveness")],
    "sick2014": [("pair", ("text_a", "text_b"), "relatedness"), ("pair", ("text_a", "text_b"), "entailment")],
    "skillspan_house": [("tag", "tokens", "skills"), ("tag", "tokens", "knowledge")],
    "skillspan_tech": [("tag", "tokens", "skills"), ("tag", "tokens", "knowledge")],
    "snips": [("tag", "tokens", "slots"), ("classify", "tokens", "intent")],
    "sst5": [("ordinal", "text", "sentiment")],
    "stsbenchmark": [("pair", ("text_a", "text_b"), "similarity")],
    "subjectivity": [("classify", "text", "label")],
    "trec": [("classify", "text", "coarse"), ("classify", "text", "fine")],
    "tweet_emotion": [("classify", "text", "label")],
    "tweet_irony": [("classify", "text", "label")],
    "tweet_offensive": [("classify", "text", "label")],
    "tweet_stance_abortion": [("classify", "text", "label")],
    "tweet_stance_atheism": [("classify", "text", "label")],
    "tweet_stance_climate": [("classify", "text", "label")],
    "tweet_stance_feminist": [("classify", "text", "label")],
    "tweet_stance_hillary": [("classify", "text", "label")],
    "ud_english_ewt": [("tag", "tokens", "upos"), ("tag", "tokens", "deprel")],
    "wnut17": [("tag", "tokens", "entities")],
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets(data_dir: Path, name: str):
    expected = [
        (kind, inputs if isinstance(inputs, tuple) else (inputs,), label)
        for kind, inputs, label in REAL[name]
    ]
    files = sorted((data_dir / name).glob("*.jsonl"))
    splits = [f for f in files if f.stem in ("train", "dev", "validation", "test")]
    smallest = min(splits, key=lambda file: file.stat().st_size)
    for file in {smallest, *(f for f in splits if f.stem == "train" and f.stat().st_size < 2_000_000)}:
        assert said(Rows.of([read_table(file)])) == expected, file.name


@pytest.mark.parametrize(
    "name", ["trec", "nlupp_banking", "offensiveness", "sst5", "sick2014", "wnut17", "snips"]
)
def test_values_decide_without_names(data_dir: Path, name: str):
    """Real sets under the column names c0, c1 …"""
    table = Rows.of([read_table(data_dir / name / "test.jsonl")])
    names = {f"c{i}": name for i, name in enumerate(table.columns)}
    renamed = Rows({c: table.columns[name] for c, name in names.items()}, table.sources)
    found = [
        (guess.kind, tuple(names[c] for c in guess.inputs), names[str(guess.label)])
        for guess in guess_tasks(renamed)
    ]
    assert found == said(table)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        (lambda i: "ab"[i % 2], "classify"),
        (lambda i: i % 2 == 0, "classify"),
        (lambda i: i % 2, "classify"),
        (lambda i: 1 + i % 5, "ordinal"),
        (lambda i: -(i % 3), "ordinal"),
        (lambda i: i * i % 97, "regress"),
        (lambda i: i / 7, "regress"),
        (lambda i: [1.5, 2][i % 2], "regress"),
        (lambda i: ["a", "b"][: i % 3], "multilabel"),
    ],
)
def test_kind_from_the_values_of_the_label(label, kind):
    assert said(rows(text=text, value=label)) == [(kind, ("text",), "value")]


def test_the_border_between_ordinal_and_regress():
    twenty, more = rows(200, text=text, n=lambda i: i % 20), rows(200, text=text, n=lambda i: i % 21)
    assert said(twenty) == [("ordinal", ("text",), "n")]
    assert said(more) == [("regress", ("text",), "n")]
    gaps = rows(text=text, n=lambda i: 10 * (i % 5))
    assert said(gaps) == [("regress", ("text",), "n")]


def test_numbers_named_as_classes_have_no_order():
    assert said(rows(text=text, topic=lambda i: i % 4)) == [("classify", ("text",), "topic")]


@pytest.mark.parametrize("names", [("a", "b"), ("premise", "hypothesis"), ("sentence1", "sentence2")])
@pytest.mark.parametrize("label", [None, lambda i: i % 2, lambda i: i / 9, lambda i: "xyz"[i % 3]])
def test_two_texts(names, label):
    columns = {names[0]: text, names[1]: lambda i: text(i + 1000)}
    if label:
        columns["value"] = label
    kind = "pair" if label else "embed"
    assert said(rows(**columns)) == [(kind, names, "value" if label else None)]


def test_named_pairs_are_read_in_their_order():
    table = rows(hypothesis=text, premise=lambda i: text(i + 1000), label=lambda i: "xyz"[i % 3])
    assert said(table) == [("pair", ("premise", "hypothesis"), "label")]


SEARCH = [("query", "document"), ("Query", "doc"), ("question", "answer"), ("question", "context")]


@pytest.mark.parametrize("names", SEARCH)
def test_a_query_and_what_it_finds_are_matches_whatever_else_repeats(names):
    """As in a file of names and docstrings, whose module has 30 values in 120 rows."""
    table = rows(
        120,
        **{names[0]: text, names[1]: lambda i: text(i + 1000)},
        module=lambda i: f"package.module_{i * 7 % 30}",
        library=lambda i: f"lib{'abcdefgh'[i % 8]}",
        votes=lambda i: i * 31 % 53,
        name=lambda i: f"name{i}",
    )
    assert said(table) == [("embed", names, None)]
    (guess,) = guess_tasks(table)
    assert "'module', 'library', 'votes' cannot say how well they match" in guess.reason
    # Whatever is stated still counts.
    assert said(table, kind="pair")[0][0] == "pair"
    assert said(table, label="module") == [("pair", names, "module")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("relevance", lambda i: i % 7),
        ("score", lambda i: i / 9),
        ("label", lambda i: "xyz"[i % 3]),
        ("unnamed", lambda i: i % 2),
        ("unnamed", lambda i: ["no", "partly", "yes"][i % 3]),
    ],
)
def test_what_judges_a_match_is_its_label(name, value):
    table = rows(
        query=text, document=lambda i: text(i + 1000), module=lambda i: f"m{i % 12}x", **{name: value}
    )
    assert said(table) == [("pair", ("query", "document"), name)]


def test_where_a_match_comes_from_does_not_judge_it():
    table = rows(question=text, answer=lambda i: text(i + 1000), source=lambda i: "xy"[i % 2])
    assert said(table) == [("embed", ("question", "answer"), None)]


def test_other_pairs_keep_the_labels_that_repeat():
    table = rows(120, premise=text, hypothesis=lambda i: text(i + 1000), part=lambda i: f"p{i % 20}x")
    assert said(table) == [("pair", ("premise", "hypothesis"), "part")]


def test_one_word_answers_are_a_label_and_no_second_text():
    assert said(rows(question=text, answer=lambda i: "yes" if i % 3 else "no")) == [
        ("classify", ("question",), "answer")
    ]


def test_columns_that_number_or_place_rows_are_skipped():
    table = rows(
        n=lambda i: i,
        docId=lambda i: i % 4,
        ref=lambda i: f"{i:06x}-{i * 77}",
        part=lambda i: ["train", "dev", "test"][i % 3],
        nothing=lambda i: None,
        constant=lambda i: "same",
        body=text,
        mood=lambda i: "xyz"[i % 3],
    )
    assert said(table) == [("classify", ("body",), "mood")]


def test_identifiers_and_splits_by_their_values():
    table = rows(
        a=lambda i: i + 5,
        b=lambda i: i % 5,
        c=lambda i: f"x{i}",
        d=text,
        e=lambda i: ["train", "valid"][i % 2],
    )
    facts = column_facts(table)
    assert [n for n in facts if is_identifier(facts[n], table.columns[n])] == ["a", "c"]
    assert [n for n in facts if is_split(facts[n], table.columns[n])] == ["e"]


def test_where_rows_come_from_is_a_label_only_if_nothing_else_is():
    both = rows(text=text, genre=lambda i: "xy"[i % 2], mood=lambda i: "pq"[i % 2])
    alone = rows(text=text, genre=lambda i: "xy"[i % 2])
    assert said(both) == [("classify", ("text",), "mood")]
    assert said(alone) == [("classify", ("text",), "genre")]


def test_a_column_called_label_is_the_only_one():
    table = rows(text=text, likes=lambda i: i * 31 % 53, label=lambda i: "xy"[i % 2])
    assert said(table) == [("classify", ("text",), "label")]


def words(i: int) -> list[str]:
    return text(i).split()[: 2 + i % 4]


def test_tokens_with_layers_and_lists_that_are_no_layers():
    table = rows(
        tokens=words,
        pos=lambda i: ["NOUN" if len(word) > 3 else "DET" for word in words(i)],
        lemma=lambda i: [word.upper() for word in words(i)],
        head=lambda i: list(range(len(words(i)))),
        topics=lambda i: ["a", "b"][: i % 3],
    )
    assert said(table) == [("tag", ("tokens",), "pos"), ("multilabel", ("tokens",), "topics")]


def test_a_tag_column_with_a_row_of_another_length_is_still_one():
    table = rows(10, tokens=words, tags=lambda i: ["O"] * (len(words(i)) + (i == 3)))
    table.columns["tags"][0] = ["B-x"] * len(words(0))
    assert said(table) == [("tag", ("tokens",), "tags")]


def test_numbers_as_tags_need_a_name_that_says_so():
    assert said(rows(tokens=words, ner_tags=lambda i: [i % 2] * len(words(i)))) == [
        ("tag", ("tokens",), "ner_tags")
    ]
    with pytest.raises(DataError):
        said(rows(tokens=words, c=lambda i: [i % 2] * len(words(i))))


def test_what_is_stated_is_taken_as_given():
    table = rows(
        text=text, other=lambda i: text(i + 999), likes=lambda i: 1 + i % 5, mood=lambda i: "pq"[i % 2]
    )
    assert said(table, inputs=["other"]) == [
        ("ordinal", ("other",), "likes"),
        ("classify", ("other",), "mood"),
    ]
    assert said(table, label="likes") == [("ordinal", ("text",), "likes")]
    assert said(table, label="likes", kind="classify") == [("classify", ("text",), "likes")]
    assert said(table, kind="regress") == [("regress", ("text",), "likes")]
    assert said(table, inputs=["text", "other"], label="mood") == [("pair", ("text", "other"), "mood")]
    assert said(table, inputs=["text", "other"], kind="embed") == [("embed", ("text", "other"), None)]
    assert said(table, label="text", inputs=["other"], kind="classify") == [("classify", ("other",), "text")]


@pytest.mark.parametrize(
    "table",
    [
        rows(text=text),
        rows(id=lambda i: i, n=lambda i: i / 3),
        rows(text=text, meta=lambda i: {"a": i}),
        rows(kind=lambda i: "xy"[i % 2]),
    ],
)
def test_a_file_without_a_task_lists_its_columns(table):
    with pytest.raises(DataError, match=r"a\.csv: no task was found: looked for .* among") as caught:
        guess_tasks(table)
    assert all(repr(name) in str(caught.value) for name in table.columns)


def test_stated_columns_must_be_there():
    with pytest.raises(DataError, match=r"a\.csv, column 'txt': no such column \(did you mean 'text'\?\)"):
        guess_tasks(rows(text=text, mood=lambda i: "pq"[i % 2]), inputs=["txt"])
    with pytest.raises(DataError, match=r"column 'Mood': no such column \(did you mean 'mood'"):
        guess_tasks(rows(text=text, mood=lambda i: "pq"[i % 2]), label="Mood")


def test_every_guess_gives_its_reason_in_one_sentence_with_its_columns():
    table = rows(text=text, score=lambda i: i / 9, mood=lambda i: "pq"[i % 2])
    for guess in guess_tasks(table):
        assert repr(guess.label) in guess.reason
        assert "'text'" in guess.reason
        assert "\n" not in guess.reason
