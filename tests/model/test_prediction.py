"""Answers for rows without labels: which rows, in which order, in how many passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import branched
from taskheads.errors import ConfigError, DataError
from taskheads.heads import TagHead
from taskheads.model import prediction
from taskheads.model.model import Model
from taskheads.model.prediction import answer_block, answer_stream, chosen
from tests.small_models import KINDS, rows, tiny_model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch, model: Model) -> list[int]:
    """The number of rows of every batch that goes through the backbone from now on."""
    found: list[int] = []
    model.predict(rows(2))
    plain = Backbone.run

    def run(self: Backbone, batch: Any, *rest: Any) -> Any:
        found.append(len(batch))
        return plain(self, batch, *rest)

    monkeypatch.setattr(Backbone, "run", run)
    return found


def close(a: Any, b: Any) -> bool:
    """Equal up to the rounding that another batch brings."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return a == pytest.approx(b, abs=1e-4) if isinstance(a, float) else a == b


def test_answers_come_in_the_rows_order(model: Model) -> None:
    asked = rows(15)
    answers = model.predict(asked)
    assert len(answers) == 15
    assert close(model.predict(asked[::-1]), answers[::-1])
    for row, answer in zip(asked, answers, strict=True):
        assert close(model.predict([row]), [answer])


def test_every_kind_answers_in_its_form(model: Model) -> None:
    (answer,) = model.predict(rows(3)[2:], scores=True)
    assert answer.keys() == KINDS.keys()
    assert answer["topic"].keys() == {"label", "score", "scores"}
    assert answer["labels"].keys() == {"labels", "scores"}
    assert answer["size"].keys() == answer["like"].keys() == {"value"}
    assert answer["stars"].keys() == {"value", "score", "scores"}
    assert answer["names"].keys() == answer["chain"].keys() == {"tags", "spans"}
    assert len(answer["names"]["tags"]) == len(rows(3)[2]["text"].split())
    assert answer["same"]["label"] in ("no", "yes")
    assert answer["find"].keys() == {"embedding", "similarity"}
    assert len(answer["find"]["embedding"]) == 64


def test_texts_and_rows_may_be_mixed(model: Model) -> None:
    asked = rows(6)
    mixed = [row["text"] if i % 2 else row for i, row in enumerate(asked)]
    answers, whole = model.predict(mixed), model.predict(asked)
    for i, (answer, expected) in enumerate(zip(answers, whole, strict=True)):
        if i % 2:
            # A text stands for the input of every task that has one.
            assert answer["like"] is answer["same"] is answer["joint"] is None
            assert answer["other"] is not None
        for name in ("topic", "labels", "size", "stars", "names", "chain"):
            assert close(answer[name], expected[name])


def test_texts_alone(model: Model) -> None:
    asked = rows(6)
    assert [
        close(a["topic"], b["topic"])
        for a, b in zip(model.predict([row["text"] for row in asked]), model.predict(asked), strict=True)
    ] == [True] * 6


def test_a_row_without_a_tasks_columns_has_no_answer(model: Model) -> None:
    asked: list[dict[str, Any]] = [
        {"text": "a fox"},
        {"text": "a fox", "other": "dogs"},
        {"title": "home"},
        {"doc": "words", "text": None},
    ]
    answers = model.predict(asked)
    have = [{name for name, answer in row.items() if answer is not None} for row in answers]
    of_text = {name for name, (_, inputs, _) in KINDS.items() if inputs == ("text",)}
    assert have == [of_text, of_text | {"same", "joint", "like"}, {"other"}, {"find"}]
    # Of search, one side alone is embedded; there is then nothing to compare it with.
    assert answers[3]["find"].keys() == {"embedding"}


def test_a_query_and_a_document_are_embedded_alone_as_they_are_together(model: Model) -> None:
    asked = rows(5)
    together = model.predict(asked, tasks=["find"])
    queries = model.predict([{"query": row["query"]} for row in asked], tasks=["find"])
    documents = model.predict([{"doc": row["doc"]} for row in asked], tasks=["find"])
    for row, query, document in zip(together, queries, documents, strict=True):
        assert close(row["find"]["embedding"], query["find"]["embedding"])
        q, d = (torch.tensor(side["find"]["embedding"]) for side in (query, document))
        assert float(q @ d) == pytest.approx(row["find"]["similarity"], abs=1e-4)
        assert float(q.norm()) == pytest.approx(1, abs=1e-4)


def test_a_text_alone_is_embedded_as_a_query_and_compared_with_nothing(model: Model) -> None:
    texts = [row["query"] for row in rows(4)]
    mixed = [*texts, {"query": "home", "doc": "a home"}]
    answers = model.predict(mixed, tasks=["find"])
    for answer, query in zip(answers, model.predict([{"query": each} for each in texts]), strict=False):
        assert answer["find"].keys() == {"embedding"}
        assert close(answer["find"]["embedding"], query["find"]["embedding"])
    assert answers[-1]["find"].keys() == {"embedding", "similarity"}


def test_words_may_come_as_a_list(model: Model) -> None:
    words = ["the", "quick", "fox"]
    (as_list,), (as_text,) = (
        model.predict([{"text": value}], tasks=["names"]) for value in (words, "the quick fox")
    )
    assert close(as_list, as_text)
    for span in as_list["names"]["spans"]:
        assert span["text"] == " ".join(words[span["start"] : span["end"]])


def test_flat_tags_have_no_spans(model: Model) -> None:
    head = model.heads["names"]
    flat = TagHead(
        head.task.__class__(**{**head.task.__dict__, "labels": ("N", "V", "X")}), head.reads, head.width
    )
    assert Model(model.backbone, {"pos": flat}, {}).predict(["a fox"])[0]["pos"].keys() == {"tags"}


def test_tasks_on_the_same_columns_share_a_pass(model: Model, passes: list[int]) -> None:
    asked = [row["text"] for row in rows(8)]
    model.predict(asked, tasks=["topic"])
    one = list(passes)
    passes.clear()
    model.predict(asked, tasks=["topic", "labels", "size", "stars", "other"])
    assert passes == one
    passes.clear()
    # Words are another form of the text; both tag tasks share that pass.
    model.predict(asked, tasks=["topic", "names", "chain"])
    assert len(passes) == 2 * len(one)


def test_a_task_is_answered_from_the_backbone_that_it_reads(model: Model) -> None:
    """Two tasks on the same texts, one of them on a branch: neither is answered from the other's pass."""
    name, value = next(
        each
        for each in model.backbone.model.named_parameters()
        if "layer.1" in each[0] and each[1].dim() == 2
    )
    branch = branched(model.backbone, {name: value + 1})
    heads, asked = chosen(model.heads, ["topic", "labels"]), rows(6)

    def answers(backbone_of: Callable[[str], Backbone]) -> list[dict[str, Any]]:
        return answer_block(heads, backbone_of, asked)

    both = answers(lambda task: branch if task == "topic" else model.backbone)
    on_branch, on_trunk = answers(lambda _: branch), answers(lambda _: model.backbone)
    assert [row["topic"] for row in both] == [row["topic"] for row in on_branch]
    assert [row["labels"] for row in both] == [row["labels"] for row in on_trunk]
    assert [row["topic"] for row in both] != [row["topic"] for row in on_trunk]


def test_an_unreadable_value_is_named(model: Model) -> None:
    with pytest.raises(DataError, match=r"row 2, column 'text'"):
        model.predict([{"text": "a"}, {"text": 5}])
    with pytest.raises(DataError, match=r"row 3.*without text"):
        model.predict(["a", "b", "  "])
    with pytest.raises(
        DataError, match=r"no task has its inputs here; they are doc, other, query, text, title"
    ):
        model.predict([{"words": "a"}])


@pytest.fixture
def blocks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "BLOCK", 4)


def streamed(model: Model, asked: Any, **how: Any) -> Iterator[dict[str, Any]]:
    return answer_stream(chosen(model.heads), model.backbone_of, asked, **how)


@pytest.mark.parametrize("places", [range(8, 12), range(0, 4), range(16, 20), [17]])
def test_rows_without_inputs_are_null_wherever_they_stand(
    places: Any, model: Model, blocks_of_four: None
) -> None:
    """Blocks with no answer at all, in the middle, after the end and before the start of those with some."""
    asked: list[Any] = [{"nothing": i} for i in range(20)]
    for i, row in zip(places, rows(4), strict=False):
        asked[i] = row
    answers = list(streamed(model, asked))
    have = [i for i, row in enumerate(answers) if any(answer is not None for answer in row.values())]
    assert have == list(places)
    assert all(row.keys() == KINDS.keys() for row in answers)


def test_nothing_is_answered_where_no_row_has_inputs(model: Model, blocks_of_four: None) -> None:
    answers = streamed(model, [{"txt": "a"}] * 20)
    with pytest.raises(DataError, match=r"row 1: no task has its inputs here; they are doc, other"):
        next(answers)


def test_a_stream_waits_for_the_first_answer_and_then_no_longer(model: Model, blocks_of_four: None) -> None:
    taken = 0

    def source() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for row in [*[{"nothing": 1}] * 8, *rows(4), *[{"nothing": 1}] * 8]:
            taken += 1
            yield row

    answers = streamed(model, source())
    next(answers)
    assert taken == 12
    for _ in range(12):
        next(answers)
    assert taken == 16


def test_a_model_without_tasks_says_so(model: Model) -> None:
    with pytest.raises(ConfigError, match="the model has no task to answer; `taskheads add` gives it one"):
        chosen({})
    with pytest.raises(ConfigError, match=r"no task 'topc' \(did you mean 'topic'\?\); its tasks are topic"):
        chosen(model.heads, ["topc"])


def test_no_rows_have_no_answers(model: Model) -> None:
    assert model.predict([]) == []
    assert model.predict(iter(())) == []
