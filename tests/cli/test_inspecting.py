"""`taskheads inspect` and `prune`: what they print, write and refuse."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.backbone.backbone import Backbone
from taskheads.cli.inspecting import share_kept
from taskheads.errors import ConfigError
from taskheads.model.model import Model
from taskheads.report.page.heads import heads_page
from tests.backbone.models import CONFIGS, tiny
from tests.backbone.tokenizers import wordpiece
from tests.cli.conftest import Run
from tests.compare.small import written
from tests.report.test_page import Parsed
from tests.small_models import rows, tiny_model

NAMES = ("names", "size", "topic")  # as the suite file has them


@pytest.fixture
def fitted(run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "first"
    path = written(tmp_path, NAMES)
    done = run("fit", path, "--tune", "frozen", "--out", folder, "--no-cache")
    assert done.code == 0, done.err
    return folder


def test_inspect_from_end_to_end(run: Run, fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "seen" / "page.html"
    out.parent.mkdir()
    done = run("inspect", fitted, "--rows", 6, "--out", out)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["task", *NAMES]
    assert lines[0].split()[1:] == ["1", "2", "3", "4", "5"]
    assert str(out) in lines[-1]
    assert {each.name for each in out.parent.iterdir()} == {"page.html", "scores.json", "scores.safetensors"}
    scores = HeadScores.load(out.with_name("scores.safetensors"))
    assert scores.tasks == NAMES
    assert scores.manifest["fingerprint"] == Model.load(fitted).backbone.fingerprint
    assert [scores.of_task(name).manifest["n"] for name in NAMES] == [6, 6, 6]
    told = json.loads(out.with_name("scores.json").read_text())
    assert torch.equal(torch.tensor(told["importance"]["size"]["values"]), scores.of_task("size").values)
    assert told["manifest"] == scores.manifest
    assert [level["keep"] for level in told["levels"]] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    heading = next(at for at, line in enumerate(lines) if "100%" in line)
    assert lines[heading].split() == ["task", "metric", *(f"{each}%" for each in range(100, 20, -10))]
    for line, name in zip(lines[heading + 1 :], NAMES, strict=False):
        found = [level["scores"][name] for level in told["levels"]]
        assert line.split() == [name, found[0]["metric"], *(f"{each['value']:.3f}" for each in found)]
    first = lines[1].split()[1]
    assert first == str(scores.of_task("names").top(1)[0])
    assert first in out.read_text()


def test_prune_from_end_to_end(run: Run, fitted: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    done = run("prune", fitted, "--keep", "50%", "--out", small, "--rows", 6, "--no-cache")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split()[:3] == ["task", "metric", "before"]
    assert [line.split()[0] for line in lines[1:4]] == list(NAMES)
    left = sum(AttentionHeads(Model.load(small).backbone).counts)
    assert f"{left} of 12 attention heads are left" in done.out
    assert 6 <= left < 12  # of a layer that loses all, a silent one stays
    # What is printed is what the saved model scores and says of itself.
    judged = run("evaluate", small, "--json").json
    card = Model.load(small).card["tasks"]
    for line, score in zip(lines[1:4], judged, strict=True):
        assert f"{score['value']:.3f}" in line
        assert card[score["task"]]["test"]["value"] == pytest.approx(score["value"])


def test_all_attention_heads_and_the_same_task_heads_answer_the_same(
    run: Run, fitted: Path, tmp_path: Path
) -> None:
    done = run("prune", fitted, "--keep", "1.0", "--out", tmp_path / "same", "--no-refit", "--no-cache")
    assert done.code == 0, done.err
    whole, same = Model.load(fitted), Model.load(tmp_path / "same")
    assert same.predict(rows(), scores=True) == whole.predict(rows(), scores=True)


def test_the_page_says_what_the_pruned_model_scores(run: Run, fitted: Path, tmp_path: Path) -> None:
    """At 60 %, on the rows that were asked about, with its task heads as they are."""
    assert run("inspect", fitted, "--out", tmp_path / "page.html").code == 0
    given = ("prune", fitted, "--keep", "60%", "--out", tmp_path / "small", "--no-refit", "--no-cache")
    assert run(*given).code == 0
    told = json.loads((tmp_path / "scores.json").read_text())["levels"]
    (level,) = [each for each in told if each["keep"] == 0.6]
    for score in Model.load(tmp_path / "small").evaluate(split="dev"):
        mine = level["scores"][score.task]
        assert mine["rows"] == score.rows
        assert (mine["value"], mine["low"], mine["high"]) == pytest.approx(
            (score.value, score.low, score.high), abs=1e-5
        )
    assert any(each["scores"] != told[0]["scores"] for each in told)
    html = (tmp_path / "page.html").read_text()
    assert f'<td class="number">{level["scores"]["topic"]["value"]:.3f}<small>' in html


def test_mistakes_are_one_line(run: Run, fitted: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other.jsonl"
    other.write_text("".join(f'{{"text": "the fox {at}", "label": "{at % 2}"}}\n' for at in range(40)))
    for given, said in (
        (("prune", fitted, "--keep", "lots", "--out", out), "--keep 'lots' is no share"),
        (("prune", fitted, "--keep", "60", "--out", out), "--keep '60' is no share"),
        (("prune", fitted, "--keep", "60%", "--out", tmp_path / "topic"), str(tmp_path / "topic")),
        (("prune", tmp_path / "none", "--keep", "60%", "--out", out), "no model folder"),
        (("inspect", fitted, "--out", tmp_path / "no" / "a.html"), "there is no folder"),
        (
            ("inspect", fitted, "--data", other),
            "no dev or test rows of a task of this model (names, size, topic)",
        ),
    ):
        done = run(*given)
        assert (done.code, done.out) == (2, ""), done
        assert said in done.err
        assert done.err.count("\n") == 1
        assert not out.exists()
        assert not (fitted / "inspect.html").exists()


def test_a_task_that_cannot_be_judged_or_solved_anew_is_named(run: Run, fitted: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.yaml"
    one.write_text("tasks: {size: {data: size, input: text, label: size, kind: regress}}")
    done = run("inspect", fitted, "--data", one, "--out", tmp_path / "a.html")
    assert (done.code, "Without dev or test rows in that data: names, topic" in done.out) == (0, True)
    done = run("prune", fitted, "--data", one, "--keep", "60%", "--out", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert "no dev or test rows of task 'names'" in done.err
    assert not (tmp_path / "out").exists()


def test_layers_that_share_their_weights_are_looked_at_and_not_pruned(run: Run, tmp_path: Path) -> None:
    backbone = Backbone(tiny(copy.deepcopy(CONFIGS["albert"])), wordpiece(), name="albert", limit=32)
    tiny_model(["topic"], backbone).save(tmp_path / "albert")
    data = tmp_path / "topic.jsonl"
    texts = [f"the quick brown fox {'jumps ' * (at % 7)}" for at in range(60)]
    data.write_text(
        "".join(f'{{"text": "{text}", "topic": "{"abc"[at % 3]}"}}\n' for at, text in enumerate(texts))
    )
    assert run("inspect", tmp_path / "albert", "--data", data).code == 0
    done = run("prune", tmp_path / "albert", "--data", data, "--keep", "60%", "--out", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: the layers of 'albert' share their weights: no head is of one alone\n"


def test_shares_are_read() -> None:
    assert [share_kept(text) for text in ("60%", "0.6", "100 %", "1", ".5")] == [0.6, 0.6, 1.0, 1.0, 0.5]
    for text in ("0", "0%", "101%", "-1", "1.2", "half", "nan"):
        with pytest.raises(ConfigError):
            share_kept(text)


def test_the_page_holds_every_head_and_escapes_what_tasks_are_called() -> None:
    evil = '<script>alert("1")</script>'
    draw = torch.Generator().manual_seed(0)
    values = torch.rand(2, 3, 4, generator=draw)
    values[:, 1, 3] = torch.nan  # a layer of fewer
    scores = HeadScores(values, values / 10, tasks=(evil, "plain & simple"))
    weights = torch.rand(3, 4, generator=draw) / 2
    weights[1, 3] = torch.nan
    weights[0, 0] = 0.75
    found = {"previous token": HeadScores.of(weights), "entropy": HeadScores.of(weights)}
    html = heads_page(scores, found, title=evil, facts={"backbone": evil})
    assert evil not in html
    page = Parsed(html)
    assert not page.open
    links = [attributes.get("href") or attributes.get("src") or "" for _, attributes in page.elements]
    assert all(each.startswith(("#", "https://arxiv.org")) for each in links if each)
    there = [f"{layer}.{head}" for layer in range(3) for head in range(4) if (layer, head) != (1, 3)]
    assert [row[0].strip() for row in page.tables[-1][1:]] == there
    assert [each.strip() for each in page.tables[-1][0]] == [
        *("head", "role", "previous token", "entropy", evil, "plain & simple")
    ]
    first = [each.strip() for each in page.tables[-1][1]]
    share = 100 * values[0, 0, 0] / values[0].nansum()
    assert first[:3] == ["0.0", "previous token", "0.75"]
    assert first[4] == f"{share:.1f} % ± {share / 10:.1f}"
    maps = [attributes for name, attributes in page.elements if attributes.get("class") == "map"]
    assert len(maps) == 4  # a task each, all of them, roles
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in maps)
    buttons = {attributes["data-head"] for name, attributes in page.elements if name == "button"}
    assert buttons <= set(there)
