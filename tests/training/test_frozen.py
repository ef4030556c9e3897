"""Heads chosen and solved on planted features, without a backbone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from taskheads.heads import TagHead
from taskheads.model.evaluation import judged, truth_of
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import TaskData
from taskheads.training import frozen, likelihood, trial
from taskheads.training.frozen import fit_head
from taskheads.training.held_out import ENOUGH, with_dev
from taskheads.training.trial import Fitted
from tests.heads.planted import generator, make_task, normal
from tests.training.planted import Table, part, split_data

WIDTH, ROWS = 8, 400
TEXTS = [f"{i}" for i in range(ROWS)]
PLANTED = dict(zip(TEXTS, normal(ROWS, WIDTH), strict=True))


def vector(site: str, text: str) -> torch.Tensor:
    """At the last site what is planted for the text, below it noise."""
    first = text.partition("|")[0]
    if site == "output" and first in PLANTED:
        return PLANTED[first]
    seed = sum(map(ord, site + text)) * 7919 + len(text)
    return normal(WIDTH, seed=seed)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    return Table(monkeypatch, WIDTH, vector)


def planted_scores(seed: int, outputs: int = 1) -> torch.Tensor:
    return torch.stack([PLANTED[text] for text in TEXTS]) @ normal(WIDTH, outputs, seed=seed)


def classify(classes: int = 4, name: str = "classify") -> TaskData:
    labels = [f"c{i}" for i in range(classes)]
    best = planted_scores(3, classes).argmax(1)
    return split_data(make_task("classify", labels, name=name), TEXTS, targets=[labels[i] for i in best])


def multilabel() -> TaskData:
    labels = ["a", "b", "c"]
    has = planted_scores(4, 3) > 0.5
    targets = [[label for label, one in zip(labels, row, strict=True) if one] for row in has]
    return split_data(make_task("multilabel", labels), TEXTS, targets=targets)


def regress(metric: str = "spearman") -> TaskData:
    noise = 0.1 * normal(ROWS, 1, seed=6)
    values = (3 * planted_scores(5) + 10 + noise)[:, 0].tolist()
    return split_data(make_task("regress", metric=metric), TEXTS, targets=values)


def ordinal() -> TaskData:
    levels = (torch.bucketize(planted_scores(6)[:, 0], torch.tensor([-2.0, 0.0, 3.0])) + 1).tolist()
    return split_data(make_task("ordinal", (1, 2, 3, 4)), TEXTS, targets=levels)


def tag(**options: bool) -> TaskData:
    """The number of a word says whether it is a name; a name that follows a name goes on with it."""
    draw = generator(7)
    is_name = (planted_scores(7)[:, 0] > 1).tolist()
    rows, tags = [], []
    for _ in range(300):
        words = torch.randint(
            ROWS, (int(torch.randint(1, 9, (1,), generator=draw)),), generator=draw
        ).tolist()
        rows.append([TEXTS[word] for word in words])
        names = [is_name[word] for word in words]
        before = [False, *names[:-1]]
        tags.append([("I-N" if b else "B-N") if n else "O" for n, b in zip(names, before, strict=True)])
    return split_data(make_task("tag", ("B-N", "I-N", "O"), **options), rows, targets=tags, dev=60, test=60)


def pair(labels: tuple[str, ...] = ()) -> TaskData:
    first, second = TEXTS, TEXTS[1:] + TEXTS[:1]
    u, v = (torch.stack([PLANTED[text] for text in side]) for side in (first, second))
    close = torch.cosine_similarity(u, v)
    targets = [labels[int(value > 0)] for value in close] if labels else close.tolist()
    return split_data(make_task("pair", labels), first, second, targets=targets)


def embed() -> TaskData:
    return split_data(make_task("embed"), [f"{t}|q" for t in TEXTS], [f"{t}|d" for t in TEXTS])


DATA = {
    "classify": (classify, 0.9),
    "multilabel": (multilabel, 0.85),
    "regress": (regress, 0.95),
    "ordinal": (ordinal, 0.85),
    "tag": (tag, 0.75),
    "crf": (lambda: tag(crf=True), 0.75),
    "similarity": (pair, 0.9),
    "pair": (lambda: pair(("far", "near")), 0.8),
    "embed": (embed, 0.99),
}


def value_on(fitted: Fitted, data: TaskData, features: FrozenFeatures, split: str) -> float:
    head = fitted.head
    gathered, lengths = features.of(head, data.splits[split])
    with torch.no_grad():
        made = head.decide(head(gathered), lengths)
    return head.metric.compute(*judged(head, truth_of(head, data.splits[split]), made))


@pytest.mark.parametrize("kind", list(DATA))
def test_what_is_planted_is_found(table: Table, kind: str) -> None:
    make, bar = DATA[kind]
    data = make()
    features = table.features(data)
    fitted = fit_head(table.backbone, data, features)
    assert value_on(fitted, data, features, "test") > bar
    assert value_on(fitted, data, features, "dev") == pytest.approx(fitted.dev)
    # Only the last site knows: it alone is read, or at least among what is.
    assert any(read.site == "output" for read in fitted.head.reads)
    assert fitted.seconds > 0


@pytest.mark.parametrize("kind", list(DATA))
def test_the_best_on_dev_of_all_that_was_tried_is_taken(table: Table, kind: str) -> None:
    data = DATA[kind][0]()
    fitted = fit_head(table.backbone, data, table.features(data))
    best = max(fitted.tried, key=lambda tried: tried["dev"])
    assert len({tuple(tried["reads"]) for tried in fitted.tried}) > 1
    if isinstance(fitted.head, TagHead):
        # Its transitions are added to the head that was chosen without them.
        assert fitted.dev >= best["dev"] - 1e-9
    else:
        assert fitted.dev == pytest.approx(best["dev"])
        assert (fitted.solver, fitted.penalty) in {
            (tried["solver"], tried["penalty"]) for tried in fitted.tried if tried["dev"] == best["dev"]
        }


@pytest.mark.parametrize("metric", ["mae", "rmse"])
def test_an_error_is_minimised_and_told_as_it_is(table: Table, metric: str) -> None:
    data = regress(metric)
    features = table.features(data)
    fitted = fit_head(table.backbone, data, features)
    assert fitted.dev == pytest.approx(min(tried["dev"] for tried in fitted.tried), rel=1e-4)
    assert 0 < fitted.dev < 0.5
    assert fitted.utility == -fitted.dev
    assert value_on(fitted, data, features, "dev") == pytest.approx(fitted.dev)


@pytest.mark.parametrize("kind", list(DATA))
def test_the_same_data_give_the_same_head_to_the_last_bit(table: Table, kind: str) -> None:
    first, second = (
        fit_head(table.backbone, data, table.features(data)) for data in (DATA[kind][0](), DATA[kind][0]())
    )
    assert first.tried == second.tried
    for name, values in first.head.state_dict().items():
        assert torch.equal(values, second.head.state_dict()[name]), name


@pytest.mark.parametrize("kind", list(DATA))
@pytest.mark.parametrize("dev", [0, 1])
def test_next_to_no_dev_rows(table: Table, kind: str, dev: int) -> None:
    make, bar = DATA[kind]
    data = make()
    data.splits["dev"] = part(data.splits["dev"], 0, dev)
    features = table.features(data)
    fitted = fit_head(table.backbone, data, features)
    assert value_on(fitted, data, features, "test") > bar - 0.15
    assert all(torch.isfinite(values).all() for values in fitted.head.state_dict().values())


def test_missing_dev_rows_are_taken_from_train() -> None:
    data = classify()
    one = replace(data, splits=data.splits | {"dev": part(data.splits["dev"], 0, 1)})
    held = with_dev(one)
    assert len(held.splits["dev"]) == ENOUGH
    assert held.splits["dev"].targets[0] == one.splits["dev"].targets[0]
    both = [*held.splits["train"].sources, *held.splits["dev"].sources[1:]]
    assert sorted(both) == sorted(one.splits["train"].sources)
    assert len(one.splits["dev"]) == 1
    assert with_dev(data) is data


def test_no_more_than_a_fifth_of_train_is_held_out() -> None:
    data = classify()
    few = replace(
        data,
        splits=data.splits | {name: part(data.splits[name], 0, n) for name, n in [("train", 11), ("dev", 0)]},
    )
    held = with_dev(few)
    assert (len(held.splits["train"]), len(held.splits["dev"])) == (9, 2)
    for name in ("train", "dev"):
        inputs, targets = held.splits[name].inputs[0], held.splits[name].targets
        whole = dict(zip(data.splits["train"].inputs[0], data.splits["train"].targets, strict=True))
        assert [whole[text] for text in inputs] == targets


@pytest.mark.parametrize("kind", ["classify", "multilabel", "ordinal", "tag"])
def test_a_label_that_never_occurs_in_train(table: Table, kind: str) -> None:
    data = DATA[kind][0]()
    labels = (*data.task.labels, 9 if kind == "ordinal" else "I-Z" if kind == "tag" else "zzz")
    data = replace(data, task=replace(data.task, labels=labels))
    for split in ("dev", "test"):
        first = data.splits[split].targets[0]
        data.splits[split].targets[0] = (
            [labels[-1]] * len(first)
            if kind == "tag"
            else [labels[-1]]
            if kind == "multilabel"
            else labels[-1]
        )
    features = table.features(data)
    fitted = fit_head(table.backbone, data, features)
    assert value_on(fitted, data, features, "test") > DATA[kind][1] - 0.1
    assert all(torch.isfinite(values).all() for values in fitted.head.state_dict().values())


def test_features_of_no_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone that says the same of every text: the answer that needs no input."""
    table = Table(monkeypatch, WIDTH, lambda site, text: torch.ones(WIDTH))
    for kind in ("classify", "regress", "ordinal", "multilabel", "tag", "crf"):
        data = DATA[kind][0]()
        fitted = fit_head(table.backbone, data, table.features(data))
        assert all(torch.isfinite(values).all() for values in fitted.head.state_dict().values()), kind


def test_the_penalty_found_on_a_part_is_the_same_prior_for_all(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "SEARCHED", 1)
    monkeypatch.setattr(likelihood, "ROWS_AN_OUTPUT", 30)
    solved: list[tuple[int, float]] = []
    plain = likelihood.solve

    def solve(subspace, loss, outputs, penalty, **how):
        solved.append((len(subspace.rows), penalty))
        return plain(subspace, loss, outputs, penalty, **how)

    monkeypatch.setattr(likelihood, "solve", solve)
    monkeypatch.setattr(likelihood, "FEWEST", 50)
    for kind in ("classify", "tag"):
        data = DATA[kind][0]()
        features = table.features(data)
        solved.clear()
        fitted = fit_head(table.backbone, data, features)
        first, *searched, (rows, penalty) = solved
        assert first[0] == rows
        assert {rows for rows, _ in searched} == {searched[0][0]}
        assert searched[0][0] < rows
        chosen = penalty * rows / searched[0][0]
        assert any(chosen == pytest.approx(tried) for _, tried in searched)
        assert value_on(fitted, data, features, "test") > DATA[kind][1] - 0.05


@pytest.mark.parametrize(("most", "directions"), [(256, 4), (3, 2)])
def test_many_outputs_are_sought_in_what_one_penalty_gives(
    table: Table, monkeypatch: pytest.MonkeyPatch, most: int, directions: int
) -> None:
    """Of three classes' directions two are independent."""
    sought: list[int] = []
    plain = likelihood.solve

    def solve(subspace, *given, **how):
        sought.append(subspace.rows.shape[1])
        return plain(subspace, *given, **how)

    monkeypatch.setattr(likelihood, "solve", solve)
    monkeypatch.setattr(trial, "DIRECTIONS", most)
    data = classify(3)
    fit_head(table.backbone, data, table.features(data))
    assert set(sought) == {directions}


def test_the_likelihood_is_maximised_where_it_does_better(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows far out on the right side pull least squares off, and say nothing to the likelihood."""
    data = classify(2)
    side = planted_scores(3, 2) @ torch.tensor([1.0, -1.0])
    for text, score in zip(TEXTS, side, strict=True):
        if score > 2:
            monkeypatch.setitem(PLANTED, text, PLANTED[text] * torch.tensor([40.0, *[1.0] * (WIDTH - 1)]))
    targets = ["c0" if text_is_first(text) else "c1" for text in TEXTS]
    data = split_data(data.task, TEXTS, targets=targets)
    fitted = fit_head(table.backbone, data, table.features(data))
    by_solver = {
        solver: max(tried["dev"] for tried in fitted.tried if tried["solver"] == solver)
        for solver in ("least squares", "maximum likelihood")
    }
    assert by_solver["maximum likelihood"] >= by_solver["least squares"]
    assert fitted.solver == "maximum likelihood"


@pytest.mark.parametrize("kind", ["classify", "multilabel", "ordinal", "tag", "crf", "similarity", "pair"])
def test_the_choice_is_that_of_the_whole_search(
    table: Table, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data = DATA[kind][0]()
    features = table.features(data)
    short = fit_head(table.backbone, data, features)
    likeliest = trial.Trial.maximum_likelihood

    def in_any_case(one: trial.Trial, rival: Fitted) -> Fitted:
        found = likeliest(one, replace(rival, dev=-1.0))
        return found if found.utility >= rival.utility else rival

    monkeypatch.setattr(trial.Trial, "maximum_likelihood", in_any_case)
    monkeypatch.setattr(frozen, "beside", lambda penalty: frozen.RIDGE_PENALTIES)
    whole = fit_head(table.backbone, data, features)
    assert len(whole.tried) > len(short.tried)
    assert short.head.reads == whole.head.reads
    assert short.dev == pytest.approx(whole.dev, abs=1e-9)


def text_is_first(text: str) -> bool:
    return bool(PLANTED[text][1:] @ normal(WIDTH - 1, seed=8) > 0)


def test_with_few_rows_pairs_fall_back_on_the_cosine(table: Table) -> None:
    data = pair()
    data.splits["train"] = part(data.splits["train"], 0, 12)
    features = table.features(data)
    fitted = fit_head(table.backbone, data, features)
    assert fitted.solver == "plain"
    assert fitted.head.weight.count_nonzero() == len(fitted.head.reads)
    assert value_on(fitted, data, features, "test") > 0.99


def test_shrinkage_is_chosen_for_search(table: Table) -> None:
    data = embed()
    fitted = fit_head(table.backbone, data, table.features(data))
    assert fitted.solver == "within-class covariance"
    assert {tried["penalty"] for tried in fitted.tried} == set(frozen.SHRINKAGES)
