"""taskheads models merged with their heads, from data: what is learned, what is kept, what is told of it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
import yaml

from taskheads.backbone.composed import Composed
from taskheads.errors import ConfigError
from taskheads.merging import with_heads
from taskheads.merging.merging import merge
from taskheads.merging.plan import Entry, Plan
from taskheads.model.model import Model
from taskheads.report.merged import merged_table
from tests.merging.models import same
from tests.merging.test_folders import fine_tuned
from tests.small_models import KINDS, WORDS, rows

TASKS = ("topic", "labels", "size")
COMMONEST = {"topic": "a", "labels": ["x"], "size": 0.5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two models near it, and data of their tasks with random labels."""
    folder = tmp_path_factory.mktemp("models")
    fine_tuned(folder / "base", 0, ())
    for seed, (name, tasks) in enumerate(
        {"one": ("topic",), "two": ("labels",), "three": ("size",)}.items(), 1
    ):
        model, to = fine_tuned(folder / name, seed, tasks)
        for task in tasks:
            model.card["tasks"][task]["commonest"] = COMMONEST[task]
        model.save(to)
    draw = random.Random(0)
    lines = []
    for number in range(36):
        row = {
            "text": " ".join(draw.choices(WORDS.split(), k=4)),
            "split": ("train", "dev", "test")[number % 3],
        }
        row |= {
            "topic": draw.choice("abc"),
            "labels": draw.sample("xy", draw.randint(0, 2)),
            "size": draw.random(),
        }
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    declared = {
        name: {"data": "rows.jsonl", "input": "text", "label": name, "kind": KINDS[name][0]}
        | {"split": {"column": "split"}}
        for name in TASKS
    }
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"tasks": declared}, sort_keys=False))
    return folder


@pytest.fixture(autouse=True)
def one_static_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside which a merge is judged, for a test's sake."""
    monkeypatch.setattr(with_heads, "STATIC", with_heads.STATIC[:1])


def plan_of(folder: Path, **options: object) -> Plan:
    models = tuple(Entry(path=folder / name) for name in ("one", "two"))
    return Plan(**{"method": "task_arithmetic", "base": folder / "base", "models": models} | options)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each.detach() for name, each in Model.load(folder).backbone.model.named_parameters()}


def test_every_task_is_scored_beside_its_original_and_the_best_static_merge(
    folders: Path, tmp_path: Path
) -> None:
    kept = merge(plan_of(folders), tmp_path / "out", data=folders / "tasks.yaml")
    assert [each.merged.task for each in kept] == ["topic", "labels"]
    data = str(folders / "tasks.yaml")
    merged = {score.task: score for score in Model.load(tmp_path / "out").evaluate(data)}
    originals = {
        score.task: score for name in ("one", "two") for score in Model.load(folders / name).evaluate(data)
    }
    for each in kept:
        assert each.merged == merged[each.merged.task]
        assert each.original == originals[each.merged.task]
    assert len({each.best for each in kept}) == 1
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as told:
        console.print(merged_table(kept))
    assert f"{kept[0].merged.value - kept[0].original.value:+.3f}" in told.get()
    assert kept[0].best in told.get()


LEARNED = ["adamerging", "atlas_anisotropic_task_vectors", "self_positioning", "concrete_subspace_merging"]


@pytest.mark.parametrize("method", LEARNED)
def test_what_does_not_learn_is_where_it_starts(method: str, folders: Path, tmp_path: Path) -> None:
    """No step: AdaMerging and the mean are task arithmetic, aTLAS the base; a step moves them."""
    plan = plan_of(folders, method=method, options={"steps": 0})
    merge(plan, tmp_path / "out", data=folders / "tasks.yaml")
    stepped = plan.model_copy(update={"options": {"steps": 2}})
    merge(stepped, tmp_path / "moved", data=folders / "tasks.yaml")
    assert not same(weights(tmp_path / "out"), weights(tmp_path / "moved"))
    zero, found = weights(folders / "base"), weights(tmp_path / "out")
    one, two = (weights(entry.path) for entry in plan.models)
    scale = {"adamerging": 0.3, "self_positioning": 0.5}.get(method, 0.0)
    for name, value in found.items():
        expected = zero[name] + scale * (one[name] - zero[name]) + scale * (two[name] - zero[name])
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_statistics_are_taken_from_the_data(method: str, folders: Path, tmp_path: Path) -> None:
    plan = plan_of(folders, method=method)
    with pytest.raises(ConfigError, match="statistics of every model, or --data"):
        merge(plan, tmp_path / "out")
    merge(plan, tmp_path / "out", data=folders / "tasks.yaml")
    mean = plan_of(folders, method="linear")
    merge(mean, tmp_path / "mean")
    found, plain = weights(tmp_path / "out"), weights(tmp_path / "mean")
    name = "encoder.layer.0.intermediate.dense.weight"
    assert not torch.allclose(found[name], plain[name], rtol=1e-4, atol=1e-6)
    # An embedding that no row needs, as that of padding, is the mean.
    words = "embeddings.word_embeddings.weight"
    padding = Model.load(folders / "one").backbone.tokens.tokenizer.pad_token_id  # type: ignore[union-attr]
    assert torch.equal(found[words][padding], plain[words][padding])


@pytest.mark.parametrize("keep", ["masks", "low_rank", "quantised"])
def test_each_task_is_answered_from_one_shared_copy(keep: str, folders: Path, tmp_path: Path) -> None:
    merge(plan_of(folders, keep=keep, rank=64), tmp_path / "out")
    model = Model.load(tmp_path / "out")
    trunks = {each.data_ptr() for each in model.backbone.model.parameters()}
    for task in ("topic", "labels"):
        own = model.backbone_of(task)
        assert isinstance(own, Composed)
        assert {each.data_ptr() for each in own.model.parameters()} == trunks
    if keep == "masks":  # what the masks keep of the merged task vector is not all of each
        assert model.branches["model 1"].trunk == "merged"
        model.remove("labels")
        assert sorted(model.branches) == ["merged", "model 1"]
        return
    for name in ("one", "two"):
        original = Model.load(folders / name)
        for mine, theirs in zip(
            model.predict(rows(), tasks=list(original.heads), scores=True),
            original.predict(rows(), scores=True),
            strict=True,
        ):
            for task, answer in theirs.items():
                for key, value in answer.items():
                    if isinstance(value, float):
                        assert mine[task][key] == pytest.approx(value, abs=2e-2)


def test_masks_restore_models_whose_changes_are_apart(folders: Path, tmp_path: Path) -> None:
    """Task vectors with disjoint supports: each task answers as its own model did."""
    zero = weights(folders / "base")
    for half, name in enumerate(("one", "two")):
        model = Model.load(folders / name)
        with torch.no_grad():
            for key, each in model.backbone.model.named_parameters():
                kept = (torch.arange(each.numel()) % 2 == half).view(each.shape)
                each.copy_(torch.where(kept, each, zero[key]))
        model.save(tmp_path / name)
    plan = plan_of(tmp_path, base=folders / "base", keep="masks")
    merge(plan, tmp_path / "out")
    model = Model.load(tmp_path / "out")
    for name in ("one", "two"):
        original = Model.load(tmp_path / name)
        assert model.predict(rows(), tasks=list(original.heads)) == original.predict(rows())


def test_heads_are_solved_anew_where_that_is_better_on_dev(folders: Path, tmp_path: Path) -> None:
    """Random heads on random labels: a solved head is better on dev, or the old one stays."""
    data = str(folders / "tasks.yaml")
    merge(plan_of(folders), tmp_path / "plain")
    merge(plan_of(folders, recalibrate=True), tmp_path / "out", data=data)
    plain, anew = (Model.load(tmp_path / name) for name in ("plain", "out"))
    before, after = (
        {score.task: score.value for score in each.evaluate(data, split="dev")} for each in (plain, anew)
    )
    assert all(after[task] >= before[task] - 1e-6 for task in before)
    assert any(after[task] > before[task] for task in before)
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "out"))


def test_what_cannot_be_meant_is_said_first(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adamerging learns from the tasks' rows: name them with --data"):
        merge(plan_of(folders, method="adamerging"), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"adamerging has no option 'stepz' .did you mean 'steps'"):
        merge(plan_of(folders, method="adamerging", options={"stepz": 1}), tmp_path / "out", data="x")
    for name, says in {
        "twin_merging": "a router .*: call taskheads.merging.routed.twin.TwinMerging in Python",
        "dynamic_logit_fusion": "a large model .*: call .*DynamicLogitFusion in Python",
        "defense_aware_merging": "a trigger .*: call .*DefenseAwareMerging in Python",
        "somf_safety_fusion": "a model aligned .*: call .*SafetyFusion in Python",
    }.items():
        with pytest.raises(ConfigError, match=f"{name} needs {says}"):
            merge(plan_of(folders, method=name), tmp_path / "out")
    with pytest.raises(ConfigError, match="heads are solved anew on the tasks' rows"):
        merge(plan_of(folders, recalibrate=True), tmp_path / "out")
    with pytest.raises(ConfigError, match="kept as masks is a difference to a base model: name the base"):
        merge(plan_of(folders, method="linear", base=None, keep="masks"), tmp_path / "out")
    number = plan_of(folders, method="adamerging").model_copy(
        update={"models": (Entry(path=folders / "one"), Entry(path=folders / "three"))}
    )
    with pytest.raises(ConfigError, match=r"adamerging makes predicted labels sure, .* 'size' \(regress\)"):
        merge(number, tmp_path / "out", data=folders / "tasks.yaml")
    (tmp_path / "less.yaml").write_text(
        (folders / "tasks.yaml")
        .read_text()
        .replace("labels:", "other:")
        .replace("rows", str(folders / "rows"))
    )
    with pytest.raises(ConfigError, match="the data have no task 'labels'"):
        merge(plan_of(folders), tmp_path / "out", data=tmp_path / "less.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["less.yaml"]
