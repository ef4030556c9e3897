"""A suite file says what is wrong with it in one sentence, with the line and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskheads.errors import ConfigError
from taskheads.tasks.config import parse_config, read_config
from taskheads.tasks.task import KINDS

GOOD = """\
backbone: minilm
seed: 3
data: shared.csv
split: {dev: 0.1, group: module}
tasks:
  intent: {data: clinc150, input: text, label: intent, kind: classify, metric: accuracy}
  slots: {data: atis/, input: tokens, label: slots, kind: tag, crf: true}
  sts: {data: [a.csv, b.csv], input: [text_a, text_b], kind: pair, encoding: two, split: {column: fold}}
  search: {data: {train: a.jsonl, valid: [b.jsonl, c.jsonl]}, input: [query, doc], kind: embed}
  rest: {}
"""


def test_everything_that_can_be_said(write):
    declared = read_config(write("suite.yaml", GOOD))
    tasks = declared.config.tasks
    assert (declared.config.backbone, declared.config.seed) == ("minilm", 3)
    assert declared.config.data == {"": ["shared.csv"]}
    assert (declared.config.split.dev, declared.config.split.test, declared.config.split.group) == (
        0.1,
        0.15,
        "module",
    )
    assert tasks["intent"].data == {"": ["clinc150"]}
    assert tasks["intent"].input == ["text"]
    assert tasks["slots"].crf is True
    assert tasks["sts"].data == {"": ["a.csv", "b.csv"]}
    assert tasks["sts"].split.column == "fold"
    assert tasks["search"].data == {"train": ["a.jsonl"], "dev": ["b.jsonl", "c.jsonl"]}
    assert (tasks["rest"].data, tasks["rest"].unseen, tasks["rest"].blank) == (None, "error", "error")


def test_the_same_as_a_mapping():
    declared = parse_config({"tasks": {"a": {"data": Path("x.csv")}}})
    assert declared.config.tasks["a"].data == {"": ["x.csv"]}
    assert (declared.config.backbone, declared.config.seed) == ("minilm", 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("taks:\n  a: {data: x}\n", ", line 1: taks: unknown key 'taks' (did you mean 'tasks'?)"),
        (
            "tasks:\n  a:\n    data: x\n    lable: y\n",
            ", line 4: tasks.a.lable: unknown key 'lable' (did you mean 'label'?)",
        ),
        (
            "tasks:\n  a: {data: x, kind: clasify}\n",
            ", line 2: tasks.a.kind: unknown kind 'clasify' (did you mean 'classify'?)",
        ),
        ("tasks:\n  a: {data: x, kind: 3}\n", ", line 2: tasks.a.kind: unknown kind 3"),
        (
            "tasks:\n  a: {data: x, kind: pair, encoding: too}\n",
            "tasks.a.encoding: input should be 'two' or 'joint', not 'too' (did you mean 'two'?)",
        ),
        (
            "tasks:\n  a: {data: x, unseen: kep}\n",
            "tasks.a.unseen: input should be 'error', 'keep' or 'drop', not 'kep' (did you mean 'keep'?)",
        ),
        (
            "tasks:\n  a: {data: x}\n  b: {data: y}\n  a: {data: z}\n",
            ", line 4: the task 'a' is here twice, first on line 2",
        ),
        (
            "tasks:\n  a:\n    data: x\n    data: y\n",
            ", line 4: the key 'data' is here twice, first on line 3",
        ),
        ("tasks:\n  a: {data: x\n", ", line 3: broken YAML"),
        ("tasks:\n  a: {data: 'x}\n", ", line 3: broken YAML"),
        ("tasks:\n\ta: 1\n", ", line 2: broken YAML"),
        (
            "tasks:\n  a: {data: x, crf: maybe}\n",
            ", line 2: tasks.a.crf: input should be a valid boolean, not 'maybe'",
        ),
        ("tasks:\n  a: {data: x, label: [y]}\n", ", line 2: tasks.a.label: input should be a valid string"),
        (
            "tasks:\n  a: {data: x, input: [a, b, c]}\n",
            "tasks.a.input: must be the name of a column, or a list of two",
        ),
        ("tasks:\n  a: {data: x, input: [b, b]}\n", "tasks.a.input: column 'b' is given twice"),
        ("tasks:\n  a: {data: {trian: x}}\n", "tasks.a.data: unknown split 'trian' (did you mean 'train'?)"),
        ("tasks:\n  a: {data: {dev: x}}\n", "tasks.a.data: no train data: `train` is missing"),
        ("tasks:\n  a: {data: {train: x, dev: y, valid: z}}\n", "tasks.a.data: the dev split is given twice"),
        ("tasks:\n  a: {data: []}\n", "tasks.a.data: must be a file, a folder"),
        ("tasks:\n  a: {data: 3}\n", "tasks.a.data: must be a file, a folder"),
        ("tasks:\n  a: {kind: tag}\n", ", line 2: tasks.a: no `data`"),
        (
            "tasks:\n  no: {data: x}\n",
            ", line 2: a key must be a text: write no in quotes",
        ),
        ("tasks:\n  a/b: {data: x}\n", "tasks.a/b: a task's name has letters, digits"),
        (
            "tasks:\n  a: {data: x, split: {dve: 0.1}}\n",
            "tasks.a.split.dve: unknown key 'dve' (did you mean 'dev'?)",
        ),
        (
            "tasks:\n  a: {data: x, split: {dev: 1.5}}\n",
            "tasks.a.split.dev: input should be less than 1, not 1.5",
        ),
        (
            "tasks:\n  a: {data: x, split: {dev: 0.5, test: 0.5}}\n",
            "tasks.a.split: dev 0.5 and test 0.5 leave no rows to train on",
        ),
        (
            "tasks:\n  a: {data: x, split: {column: s, dev: 0.1}}\n",
            "tasks.a.split: `column` says each row's split",
        ),
        (
            "tasks:\n  a: {data: x, kind: pair, input: text}\n",
            ", line 2: tasks.a: a task of kind pair reads two columns, not 'text'",
        ),
        (
            "tasks:\n  a: {data: x, kind: tag, input: [b, c]}\n",
            "tasks.a: a task of kind tag reads one column, not 'b', 'c'",
        ),
        (
            "tasks:\n  a: {data: x, kind: embed, label: y}\n",
            "tasks.a: a task of kind embed has no label, and `label` names 'y'",
        ),
        (
            "tasks:\n  a: {data: x, kind: classify, crf: true}\n",
            "tasks.a: `crf` is for tasks of kind tag, and this is classify",
        ),
        ("tasks: {}\n", ", line 1: tasks: dictionary should have at least 1 item"),
        ("seed: 1\n", "tasks: is missing"),
        ("seed: x\ntasks: {a: {data: x}}\n", ", line 1: seed: input should be a valid integer, not 'x'"),
        (
            "seed: -1\ntasks: {a: {data: x}}\n",
            ", line 1: seed: input should be greater than or equal to 0, not -1",
        ),
        ("- a\n", ", line 1: a suite is a mapping with the key `tasks`"),
        ("a\n", ", line 1: a suite is a mapping with the key `tasks`"),
        ("# nothing\n", ": a suite is a mapping with the key `tasks`"),
        ("tasks: [a]\n", ", line 1: tasks: input should be a valid dictionary"),
        ("tasks:\n  a: x.csv\n", ", line 2: tasks.a: "),
        ("", ": the file is empty"),
        (b"tasks: caf\xe9", "row 1: byte 0xe9"),
        (
            "tasks: !!python/object/apply:os.system ['echo']\n",
            "broken YAML: could not determine a constructor",
        ),
    ],
)
def test_what_cannot_be_meant(write, text, message):
    path = write("suite.yaml", text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_said(kind):
    assert parse_config({"tasks": {"a": {"data": "x", "kind": kind}}}).config.tasks["a"].kind == kind


def test_a_suite_file_that_is_not_there(write):
    path = write("tasks.yaml", GOOD)
    with pytest.raises(ConfigError, match=r"task.yaml: no such file \(did you mean 'tasks.yaml'\?\)"):
        read_config(path.with_name("task.yaml"))


def test_anchors_and_merges_are_yaml_too(write):
    text = "tasks:\n  a: &a {data: x, kind: tag}\n  b: {<<: *a, label: pos}\n"
    tasks = read_config(write("suite.yaml", text)).config.tasks
    assert (tasks["b"].kind, tasks["b"].label) == ("tag", "pos")
