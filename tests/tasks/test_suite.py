"""A suite from end to end: files in, tasks with examples out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskheads.errors import ConfigError, DataError
from taskheads.tasks.describe import describe, percentile
from taskheads.tasks.examples import unlabelled
from taskheads.tasks.readers import read_table
from taskheads.tasks.sources import Library
from taskheads.tasks.suite import load_suite
from taskheads.tasks.task import SPLITS


def text(i: int) -> str:
    return f"this is the text of row {i} and of no other"


def rows(n: int = 40, start: int = 0, **columns: Any) -> list[dict[str, Any]]:
    return [
        {"text": text(i), **{name: of(i) for name, of in columns.items()}} for i in range(start, start + n)
    ]


def mood(i: int) -> str:
    return "xyz"[i % 3]


def sizes(suite: Any, name: str) -> list[int]:
    return [len(suite.tasks[name].splits[split]) for split in SPLITS]


def test_a_suite_file_with_paths_relative_to_it(write):
    write("data/moods/train.jsonl", rows(mood=mood))
    write("data/moods/validation.jsonl", rows(9, 100, mood=mood))
    write("data/moods/test.jsonl", rows(6, 200, mood=mood))
    write("data/moods/test_odd.jsonl", rows(6, 200, mood=mood))
    write("encoder/config.json", "{}")
    path = write("suite.yaml", "backbone: encoder\nseed: 5\ntasks:\n  feeling: {data: data/moods}\n")
    suite = load_suite(path)
    assert suite.backbone == str(path.parent / "encoder")
    assert suite.seed == 5
    data = suite.tasks["feeling"]
    assert (data.task.kind, data.task.inputs, data.task.label) == ("classify", ("text",), "mood")
    assert (data.task.metric, data.task.labels, data.task.options) == ("accuracy", ("x", "y", "z"), {})
    assert sizes(suite, "feeling") == [40, 9, 6]
    dev = data.splits["dev"]
    assert dev.inputs == ([text(i) for i in range(100, 109)],)
    assert dev.targets == [mood(i) for i in range(100, 109)]
    assert dev.sources[1] == (str(path.parent / "data/moods/validation.jsonl"), 2)
    assert "files in moods left alone: test_odd.jsonl" in data.reasons
    stated = load_suite(path, backbone="other/model", seed=1)
    assert (stated.backbone, stated.seed) == ("other/model", 1)


def test_files_alone(write):
    moods = write("moods.jsonl", rows(mood=mood))
    both = write(
        "both.csv", "id,text,score,kind\n" + "".join(f"{i},{text(i)},{i / 7},{mood(i)}\n" for i in range(30))
    )
    suite = load_suite([moods, both])
    assert list(suite.tasks) == ["moods", "both.score", "both.kind"]
    assert (suite.backbone, suite.seed) == ("minilm", 0)
    assert sizes(suite, "both.score") == sizes(suite, "both.kind") == [21, 5, 4]
    assert suite.tasks["both.score"].splits["test"].sources == suite.tasks["both.kind"].splits["test"].sources
    assert list(load_suite(moods).tasks) == list(load_suite(str(moods)).tasks) == ["moods"]


@pytest.mark.parametrize("name", ["moods/train.jsonl", "moods"])
def test_a_file_called_after_a_split_has_its_folders_name(write, name):
    folder = write("moods/train.jsonl", rows(mood=mood)).parent
    assert list(load_suite(folder.parent / name).tasks) == ["moods"]


def test_an_entry_without_a_label_becomes_all_its_tasks(write):
    path = write("a.jsonl", rows(mood=mood, score=lambda i: i / 7, level=lambda i: i % 4))
    suite = load_suite({"tasks": {"all": {"data": path}, "one": {"data": path, "label": "level"}}})
    assert {name: data.task.kind for name, data in suite.tasks.items()} == {
        "all.mood": "classify",
        "all.score": "regress",
        "all.level": "ordinal",
        "one": "ordinal",
    }
    assert suite.tasks["one"].splits == suite.tasks["all.level"].splits


def test_a_file_is_read_once(write):
    path = write("a.jsonl", rows(mood=mood))
    library = Library(path.parent)
    first = library.source({"": ["a.jsonl"]})
    path.unlink()
    again = library.source({"train": ["./a.jsonl"]})
    assert again.tables["train"][0] is first.tables[None][0]


def test_every_kind_from_its_columns(write):
    words = [["New", "York", "is", "big"], ["It", "is"], ["I", "left", "Rome"], ["No", "place"]]
    tags = [["B-loc", "I-loc", "O", "O"], ["O", "O"], ["O", "O", "B-loc"], ["O", "O"]]
    flat = [["N", "N", "V", "A"], ["P", "V"], ["P", "V", "N"], ["D", "N"]]
    write(
        "t.jsonl",
        [
            {"tokens": [*words[i % 4], str(i)], "ner": [*tags[i % 4], "O"], "pos": [*flat[i % 4], "N"]}
            for i in range(24)
        ],
    )
    write(
        "p.jsonl",
        [{"text_a": text(i), "text_b": text(i + 99), "sim": i / 9, "same": i % 2} for i in range(24)],
    )
    write("e.jsonl", [{"query": text(i), "document": text(i + 99)} for i in range(24)])
    path = write("m.jsonl", rows(24, skills=lambda i: ["b", "a"][: i % 3]))
    suite = load_suite([path.with_name(f"{name}.jsonl") for name in "tpem"])
    facts = {n: (d.task.kind, d.task.metric, d.task.labels) for n, d in suite.tasks.items()}
    assert facts == {
        "t.ner": ("tag", "entity_f1", ("B-loc", "I-loc", "O")),
        "t.pos": ("tag", "accuracy", ("A", "D", "N", "P", "V")),
        "p.sim": ("pair", "spearman", ()),
        "p.same": ("pair", "accuracy", ("0", "1")),
        "e": ("embed", "ndcg@10", ()),
        "m": ("multilabel", "micro_f1", ("a", "b")),
    }
    train = {name: data.splits["train"] for name, data in suite.tasks.items()}
    assert train["t.ner"].inputs[0][0][:-1] in words
    assert train["t.ner"].targets[0][:-1] in tags
    assert all(isinstance(target, float) for target in train["p.sim"].targets)
    assert set(train["p.same"].targets) == {"0", "1"}
    assert len(train["e"].inputs) == 2
    assert set(train["e"].targets) == {None}
    assert ["b", "a"] in train["m"].targets


def test_rows_without_a_label_belong_to_other_tasks(write):
    table = rows(60, mood=lambda i: mood(i) if i % 2 else None, level=lambda i: i % 4 if i % 3 else None)
    table += [{"text": None, "mood": " ", "level": None}]
    suite = load_suite(write("a.jsonl", table))
    moods, levels = suite.tasks["a.mood"], suite.tasks["a.level"]
    assert sum(sizes(suite, "a.mood")) == 30
    assert sum(sizes(suite, "a.level")) == 40
    left = sum(int(r.split()[0]) for r in moods.reasons if r.endswith("rows have no label: left out"))
    assert left == 31
    rows_of = {row: split for split in SPLITS for row in moods.splits[split].sources}
    for split in SPLITS:  # a row is in the same split for both
        assert all(rows_of.get(row, split) == split for row in levels.splits[split].sources)


def test_words_are_one_text_for_all_but_tagging(write):
    table = [{"tokens": ["it", "is", mood(i), str(i)], "mood": mood(i)} for i in range(20)]
    data = load_suite(write("a.jsonl", table)).tasks["a"]
    assert data.task.inputs == ("tokens",)
    assert all(value.startswith("it is ") for value in data.splits["train"].inputs[0])


def test_files_of_one_split_are_laid_end_to_end(write):
    first, second = write("a.jsonl", rows(mood=mood)), write("b.jsonl", rows(20, 500, mood=mood, extra=mood))
    suite = load_suite({"tasks": {"t": {"data": {"train": [first, second]}, "label": "mood"}}})
    assert sum(sizes(suite, "t")) == 60
    train = suite.tasks["t"].splits["train"].sources
    assert {path for path, _ in train} == {str(first), str(second)}
    shards = [write(f"s/train-{i:05d}-of-00002.jsonl", rows(20, 100 * i, mood=mood)) for i in (0, 1)]
    assert sum(sizes(load_suite(shards[0].parent), "s")) == 40


def test_a_hugging_face_dataset_folder(tmp_path):
    import datasets

    parts = {
        name: datasets.Dataset.from_list(rows(20, start, mood=mood))
        for start, name in ((0, "train"), (100, "validation"), (200, "unsupervised"))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    suite = load_suite(tmp_path / "saved")
    assert sizes(suite, "saved") == [17, 20, 3]
    assert any("left alone: 'unsupervised'" in reason for reason in suite.tasks["saved"].reasons)


def test_unseen_labels_are_kept_or_dropped_as_stated(write):
    write("d/train.jsonl", rows(mood=mood))
    write("d/dev.jsonl", rows(8, 100, mood=lambda i: "new" if i == 103 else mood(i)))
    folder = write("d/test.jsonl", rows(6, 200, mood=mood)).parent
    kept = load_suite({"tasks": {"t": {"data": folder, "unseen": "keep"}}}).tasks["t"]
    dropped = load_suite({"tasks": {"t": {"data": folder, "unseen": "drop"}}}).tasks["t"]
    assert kept.task.labels == ("new", "x", "y", "z")
    assert len(kept.splits["dev"]) == 8
    assert "labels that never occur in train, and count as misses: 'new'" in kept.reasons
    assert dropped.task.labels == ("x", "y", "z")
    assert dropped.splits["dev"].inputs == ([text(i) for i in range(100, 108) if i != 103],)
    assert "1 dev rows whose label never occurs in train: left out" in dropped.reasons


def test_blank_texts_are_dropped_as_stated(write):
    table = rows(mood=mood)
    table[3]["text"] = " "
    path = write("a.jsonl", table)
    data = load_suite({"tasks": {"t": {"data": path, "blank": "drop"}}}).tasks["t"]
    assert sum(len(part) for part in data.splits.values()) == 39
    assert sum("have no text: left out" in reason for reason in data.reasons) == 1


def test_bioes_is_read_as_bio(write):
    table = [
        {"tokens": ["a", "b", str(i)], "tags": [["S-x", "O", "O"], ["B-x", "I-x", "E-x"]][i % 2]}
        for i in range(20)
    ]
    data = load_suite(write("a.jsonl", table)).tasks["a"]
    assert data.task.labels == ("B-x", "I-x", "O")
    assert any("read as BIO" in reason for reason in data.reasons)


def test_a_metric_for_labels_makes_numbers_of_pairs_labels(write):
    table = [{"premise": text(i), "hypothesis": text(i + 99), "label": i % 3} for i in range(30)]
    path = write("a.jsonl", table)
    assert load_suite(path).tasks["a"].task.labels == ()
    task = load_suite({"tasks": {"a": {"data": path, "metric": "accuracy"}}}).tasks["a"].task
    assert (task.kind, task.labels) == ("pair", ("0", "1", "2"))


def test_options_reach_their_task(write):
    table = [{"tokens": ["a", str(i)], "tags": ["O", "B-x"]} for i in range(20)]
    path = write("a.jsonl", table)
    assert load_suite({"tasks": {"a": {"data": path, "crf": True}}}).tasks["a"].task.options == {"crf": True}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"crf": True}, "tasks.a: `crf` is for tasks of kind tag, and this is classify"),
        ({"encoding": "two"}, "tasks.a: `encoding` is for tasks of kind pair, and this is classify"),
        ({"metric": "acuracy"}, "tasks.a: there is no metric 'acuracy'"),
        ({"metric": "spearman"}, "tasks.a: metric 'spearman' is not for classify tasks"),
    ],
)
def test_what_does_not_fit_the_kind_names_the_task(write, said, message):
    path = write("a.jsonl", rows(mood=mood))
    with pytest.raises(ConfigError) as caught:
        load_suite({"tasks": {"a": {"data": str(path), **said}}})
    assert message in str(caught.value)
    suite = write(
        "suite.yaml",
        "tasks:\n  a:\n"
        + "".join(f"    {k}: {v}\n" for k, v in ({"data": "a.jsonl"} | said).items()).replace("True", "true"),
    )
    with pytest.raises(ConfigError) as caught:
        load_suite(suite)
    assert str(caught.value).startswith(f"{suite}, line 2: {message}")


def test_unlabelled_rows_for_prediction(write):
    data = load_suite(write("a.jsonl", rows(mood=mood))).tasks["a"]
    found = unlabelled(data.task, read_table(write("new.csv", "text\nhello there\n")))
    assert (found.inputs, found.targets) == ((["hello there"],), [None])
    assert found.sources[0][1] == 2
    with pytest.raises(DataError, match=r"new.csv, column 'text': no such column \(did you mean 'txet'"):
        unlabelled(data.task, read_table(write("new.csv", "txet\nhello\n")))
    with pytest.raises(DataError, match=r"new.jsonl, row 2, column 'text', value '': a row without text$"):
        unlabelled(data.task, read_table(write("new.jsonl", [{"text": "a"}, {"text": ""}])))


def test_the_same_suite_twice_is_the_same(write):
    path = write("a.jsonl", rows(100, mood=mood))
    assert load_suite(path) == load_suite(path)


def test_describe_gives_facts_that_json_can_hold(write):
    table = [{"tokens": ["one", "two"][: 1 + i % 2], "tags": ["O", "B-x"][: 1 + i % 2]} for i in range(10)]
    write("tags/train.jsonl", table)
    write("tags/dev.jsonl", table)
    folder = write("tags/test.jsonl", table).parent
    scores = write("scores.jsonl", rows(20, score=lambda i: i / 2))
    tags, score = describe(load_suite([folder, scores]))
    assert json.loads(json.dumps([tags, score])) == [tags, score]
    assert tags["rows"] == {"train": 10, "dev": 10, "test": 10}
    assert (tags["labels"], tags["most_frequent"], tags["range"]) == (2, [["O", 10], ["B-x", 5]], None)
    assert tags["words"] == {"tokens": {"p50": 1, "p95": 2, "p100": 2}}
    assert tags["characters"] == {"tokens": {"p50": 3, "p95": 7, "p100": 7}}
    assert (score["kind"], score["labels"], score["most_frequent"]) == ("regress", 0, [])
    assert 0 <= score["range"][0] < score["range"][1] <= 9.5
    assert all(isinstance(reason, str) for reason in score["reasons"])


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (10, 1), (11, 2), (50, 5), (95, 10), (100, 10)])
def test_percentile_is_the_nearest_rank(percent, value):
    assert percentile(range(1, 11), percent) == value


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("clinc150", {"clinc150.intent": ("accuracy", 150), "clinc150.domain": ("accuracy", 10)}),
        ("nlupp_banking", {"nlupp_banking": ("micro_f1", 48)}),
        ("sick2014", {"sick2014.relatedness": ("spearman", 0), "sick2014.entailment": ("accuracy", 3)}),
        ("sst5", {"sst5": ("quadratic_kappa", 5)}),
        ("trec", {"trec.coarse": ("accuracy", 6), "trec.fine": ("accuracy", 50)}),
        ("wnut17", {"wnut17": ("entity_f1", 13)}),
    ],
)
def test_real_suites(data_dir: Path, name: str, tasks: dict):
    suite = load_suite(data_dir / name)
    assert {n: (d.task.metric, len(d.task.labels)) for n, d in suite.tasks.items()} == tasks
    for data in suite.tasks.values():
        assert len(data.splits["train"]) > len(data.splits["dev"]) > 0


def test_real_rows_with_labels_that_train_does_not_have(data_dir: Path):
    with pytest.raises(
        DataError, match=r"atis/dev.jsonl, row \d+, column 'slots', value 'I-return_date.day_number'"
    ):
        load_suite(data_dir / "atis")
    suite = load_suite({"tasks": {"atis": {"data": data_dir / "atis", "unseen": "keep"}}})
    assert sizes(suite, "atis.slots") == sizes(suite, "atis.intent") == [4478, 500, 893]
    with pytest.raises(
        DataError, match=r"customer_review/train.jsonl, row 1176, column 'text', value '': a row without"
    ):
        load_suite(data_dir / "customer_review")
