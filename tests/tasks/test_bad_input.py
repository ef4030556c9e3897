"""Bad input is one clear error, before anything is trained: it names the file, row, column and value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskheads.errors import ConfigError, DataError, TaskheadsError
from taskheads.tasks.examples import MAX_CHARACTERS
from taskheads.tasks.suite import load_suite


def text(i: int) -> str:
    return f"this is the text of row {i} and of no other"


def table(n: int = 30, **columns: Any) -> list[dict[str, Any]]:
    return [{"text": text(i), **{name: of(i) for name, of in columns.items()}} for i in range(n)]


def mood(i: int) -> str:
    return "xyz"[i % 3]


def fails(source: Any, **expected: Any) -> str:
    """Load it, check where the error points, and return its message."""
    with pytest.raises(TaskheadsError) as caught:
        load_suite(source)
    for name, value in expected.items():
        found = getattr(caught.value, name)
        assert (str(found) if name == "file" else found) == value, (name, str(caught.value))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    if isinstance(caught.value, DataError) and "file" in expected:
        assert message.startswith(expected["file"])
    return message


def test_an_empty_file(write):
    path = str(write("a.jsonl", ""))
    assert fails(path, file=path).endswith("the file is empty")
    path = str(write("a.csv", "text,label\n"))
    assert fails(path, file=path).endswith("the file has no rows")


def test_a_missing_column(write):
    path = str(write("a.jsonl", table(mood=mood)))
    message = fails({"tasks": {"t": {"data": path, "label": "moood"}}}, file=path, column="moood")
    assert "no such column (did you mean 'mood'?); the columns are 'text', 'mood'" in message
    message = fails({"tasks": {"t": {"data": path, "input": "txt"}}}, file=path, column="txt")
    assert "did you mean 'text'" in message


def test_a_column_that_one_split_lacks(write):
    write("d/train.jsonl", table(mood=mood))
    test = write("d/test.jsonl", [{"text": "a", "feeling": "x"}])
    fails(test.parent, file=str(test), column="mood")


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_label_that_is_not_in_train(write, split):
    write("d/train.jsonl", table(mood=mood))
    path = write(f"d/{split}.jsonl", [{"text": "a", "mood": "x"}, {"text": "b", "mood": "new"}])
    message = fails(path.parent, file=str(path), row=2, column="mood", value="new")
    assert "this label never occurs in train" in message


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (lambda i: "same", "same"),
        (lambda i: 3, "3"),
        (lambda i: True, "true"),
        (lambda i: 2.5, 2.5),
        (lambda i: ["same"], ["same"]),
    ],
)
def test_one_class_only(write, column, value):
    path = str(write("a.jsonl", table(label=column)))
    message = fails(path, file=path, column="label", value=value)
    assert "only in the" in message
    assert "train rows: there is nothing to learn" in message


def test_one_tag_only(write):
    rows = [{"tokens": ["a", str(i)], "tags": ["O", "O"]} for i in range(20)]
    path = str(write("a.jsonl", rows))
    fails(path, file=path, column="tags", value="O")


@pytest.mark.parametrize("odd", [3, 2.5, True, ["x"], {"a": 1}])
def test_mixed_types_among_labels_that_are_texts(write, odd):
    rows = table(mood=mood)
    rows[17]["mood"] = odd
    rows[20]["mood"] = odd
    path = str(write("a.jsonl", rows))
    message = fails(path, file=path, row=18, column="mood", value=odd)
    assert "rows hold a text" in message


def test_mixed_types_among_numbers(write):
    rows = table(score=lambda i: i / 7)
    rows[17]["score"] = "4,5"
    path = str(write("a.jsonl", rows))
    assert "mixed types: this is a text, but" in fails(path, file=path, row=18, column="score", value="4,5")


def test_a_slip_in_a_numeric_column_of_a_csv_file(write):
    lines = [f"{text(i)},{i / 7 if i != 17 else '4.5x'}" for i in range(30)]
    path = str(write("a.csv", "text,score\n" + "\n".join(lines)))
    message = fails(path, file=path, row=19, column="score", value="4.5x")
    assert "a number is needed, this is a text" in message


def test_a_slip_among_the_similarities_of_a_csv_file(write):
    lines = [f"{text(i)},{text(i + 99)},{i / 7 if i != 17 else 'n/a'}" for i in range(30)]
    path = str(write("a.csv", "text_a,text_b,similarity\n" + "\n".join(lines)))
    fails(path, file=path, row=19, column="similarity", value="n/a")


def test_numbers_written_as_texts(write):
    path = str(write("a.jsonl", table(score=lambda i: str(i / 7))))
    said = {"data": path, "label": "score", "kind": "regress"}
    assert "a number is needed" in fails(
        {"tasks": {"t": said}}, file=path, row=1, column="score", value="0.0"
    )


def test_mixed_types_among_texts(write):
    rows = table(mood=mood)
    rows[17]["text"] = 12
    path = str(write("a.jsonl", rows))
    assert "a text is needed, this is a number" in fails(path, file=path, row=18, column="text", value=12)


def test_tags_and_tokens_of_different_length(write):
    rows = [{"tokens": ["a", "b", str(i)], "tags": ["O", "B-x", "I-x"]} for i in range(20)]
    rows[11]["tags"] = ["O", "O"]
    path = str(write("a.jsonl", rows))
    message = fails(path, file=path, row=12, column="tags", value=["O", "O"])
    assert "2 tags for 3 words of 'tokens'" in message


@pytest.mark.parametrize(("written", "name"), [("NaN", "nan"), ("Infinity", "inf"), ("-Infinity", "-inf")])
def test_a_target_that_is_no_number(write, written, name):
    lines = [json.dumps(row) for row in table(score=lambda i: i / 7)]
    lines[4] = lines[4].replace(str(4 / 7), written)
    path = str(write("a.jsonl", "\n".join(lines)))
    message = fails(path, file=path, row=5, column="score")
    assert f"value {name}: the target is not a finite number" in message
    path = str(
        write(
            "a.csv", "text,score\n" + "".join(f"{text(i)},{i / 7 if i != 4 else name}\n" for i in range(30))
        )
    )
    assert "the target is not a finite number" in fails(path, file=path, row=6, column="score")


def test_broken_json_on_line_700(write):
    lines = [json.dumps(row) for row in table(1000, mood=mood)]
    lines[699] = lines[699][:-9]
    path = str(write("a.jsonl", "\n".join(lines)))
    assert "broken JSON" in fails(path, file=path, row=700)


def test_a_wrong_encoding(write):
    path = str(write("a.csv", "text,label\nnaïve,x\n".encode("latin-1")))
    assert "byte 0xef at offset 13 is not UTF-8" in fails(path, file=path, row=2)


def test_duplicate_task_names(write):
    first, second = write("a/moods.jsonl", table(mood=mood)), write("b/moods.jsonl", table(mood=mood))
    message = fails([first, second])
    assert "two tasks would be called 'moods'" in message
    assert str(first) in message
    assert str(second) in message
    write("train.jsonl", table(mood=mood))
    dev = write("dev.jsonl", table(mood=mood))
    assert "give the folder if these are its splits" in fails([dev.with_name("train.jsonl"), dev])
    suite = write("suite.yaml", "tasks:\n  a: {data: train.jsonl}\n  b: {data: x}\n  a: {data: dev.jsonl}\n")
    assert fails(suite) == f"{suite}, line 4: the task 'a' is here twice, first on line 2"


def test_a_guessed_name_that_is_taken(write):
    path = write("a.jsonl", table(mood=mood, level=lambda i: i % 4))
    with pytest.raises(ConfigError, match=r"two tasks are called 'a\.mood': give one of them another name"):
        load_suite({"tasks": {"a.mood": {"data": path, "label": "mood"}, "a": {"data": path}}})


def test_a_text_of_a_million_characters(write):
    rows = table(mood=mood)
    rows[9]["text"] = "x" * MAX_CHARACTERS
    assert len(load_suite(write("a.jsonl", rows)).tasks["a"].splits["train"]) > 15
    rows[9]["text"] += "x"
    path = str(write("a.jsonl", rows))
    message = fails(path, file=path, row=10, column="text")
    assert "a text of 1,000,001 characters; at most 1,000,000 can be read" in message
    lines = [f"{row['text']},{row['mood']}" for row in rows]
    path = str(write("a.csv", "text,mood\n" + "\n".join(lines)))
    assert "a text of 1,000,001 characters" in fails(path, file=path, row=11, column="text")


@pytest.mark.parametrize("blank", [None, "", " \t ", "\u00a0"])
def test_a_row_without_text(write, blank):
    rows = table(mood=mood)
    rows[9]["text"] = blank
    path = str(write("a.jsonl", rows))
    message = fails(path, file=path, row=10, column="text", value=blank)
    assert "a row without text; `blank: drop` leaves such rows out" in message


@pytest.mark.parametrize("words", [None, [], ["", " "]])
def test_a_row_without_words(write, words):
    rows = [{"tokens": ["a", "b", str(i)], "tags": ["O", "B-x", "I-x"]} for i in range(20)]
    rows[11] = {"tokens": words, "tags": ["O"] * len(words or [])}
    path = str(write("a.jsonl", rows))
    assert "a row without words" in fails(path, file=path, row=12, column="tokens", value=words)


def test_half_of_a_pair(write):
    rows = [{"text_a": text(i), "text_b": text(i + 99), "label": i % 2} for i in range(30)]
    rows[5]["text_b"] = ""
    path = str(write("a.jsonl", rows))
    fails(path, file=path, row=6, column="text_b", value="")
    for row in rows:
        del row["label"]
    path = str(write("a.jsonl", rows))
    fails(path, file=path, row=6, column="text_b", value="")


def test_half_a_character(write):
    rows = table(mood=mood)
    rows[9]["text"] = "smile \ud83d"
    path = str(write("a.jsonl", rows))
    assert "half a character at position 6: not Unicode text" in fails(path, file=path, row=10, column="text")


def test_no_train_rows(write):
    path = write("d/test.jsonl", table(mood=mood))
    assert "task 'd' has no train rows" in fails(path.parent, file=str(path), column="mood")
    rows = [row | {"part": "dev" if i % 2 else "test"} for i, row in enumerate(table(mood=mood))]
    path = str(write("a.jsonl", rows))
    assert "task 'a' has no train rows" in fails(path, file=path, column="mood")


@pytest.mark.parametrize("tag", ["B", "b-x", "B-", "X-x", ""])
def test_a_malformed_bio_tag(write, tag):
    rows = [{"tokens": ["a", "b", str(i)], "tags": ["O", "B-x", "I-x"]} for i in range(20)]
    rows[11]["tags"] = ["O", "B-x", tag]
    path = str(write("a.jsonl", rows))
    message = fails(path, file=path, row=12, column="tags", value=tag)
    assert "malformed BIO tag of word 3: O, B-… and I-… are tags" in message


def test_an_inside_tag_after_nothing_is_fine(write):
    rows = [{"tokens": ["a", "b", str(i)], "tags": ["I-x", "O", "B-x"]} for i in range(20)]
    assert load_suite(write("a.jsonl", rows)).tasks["a"].task.metric == "entity_f1"


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("multilabel", "a", "a list of labels is needed, this is a text"),
        ("regress", "a", "a number is needed, this is a text"),
        ("ordinal", 1.5, "a whole number is needed for an ordinal task"),
        ("classify", 1.5, "a class is a text or a whole number, this is a number"),
        ("classify", ["a"], "a class is a text or a whole number, this is a list"),
        ("multilabel", ["a", None], "a label in the list is empty"),
        ("tag", 3, "a list with a tag for each word is needed"),
    ],
)
def test_labels_that_the_stated_kind_cannot_use(write, kind, value, problem):
    path = str(write("a.jsonl", table(label=lambda i: value)))
    said = {"data": path, "input": "text", "label": "label", "kind": kind}
    assert problem in fails({"tasks": {"t": said}}, file=path, row=1, column="label", value=value)


def test_files_that_cannot_be_told_apart(write):
    write("d/train.jsonl", table(mood=mood))
    folder = write("d/train.csv", "text,mood\na,b\n").parent
    assert "two files for train: 'train.csv', 'train.jsonl'" in fails(folder, file=str(folder))
    folder = write("e/a.jsonl", table(mood=mood)).parent
    write("e/b.jsonl", table(mood=mood))
    assert "no data here: looked for train, dev and test files" in fails(folder, file=str(folder))
    a, d = write("f/a.jsonl", table(mood=mood)), write("f/d/train.jsonl", table(mood=mood)).parent
    message = fails({"tasks": {"t": {"data": [str(a), str(d)]}}}, file=str(a))
    assert "this file's split is not known" in message
    said = {"train": str(d.parent / "d"), "dev": str(a)}
    assert load_suite({"tasks": {"t": {"data": said}}}).tasks["t"].splits["dev"].sources[0][0] == str(a)


def test_a_missing_file_and_a_missing_suite(write):
    path = write("moods.jsonl", table(mood=mood))
    wrong = str(path.with_name("mods.jsonl"))
    assert "no such file or folder (did you mean 'moods.jsonl'?)" in fails(wrong, file=wrong)
    assert "no such file (did you mean 'moods.jsonl'?)" in fails(path.with_name("moods.yaml"))
    assert fails([]) == "no data: give a suite file, or data files"


def test_columns_that_a_task_cannot_read(write):
    path = str(write("a.jsonl", table(mood=mood)))
    for kind in ("tag", "pair", "embed", "regress", "multilabel"):
        message = fails({"tasks": {"t": {"data": path, "kind": kind}}}, file=path)
        assert f"no {kind} task was found" in message
        assert "'mood' (text, 3 different in 30 rows)" in message
