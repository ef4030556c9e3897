"""Folders that people have: models that transformers loads, taskheads models that keep their heads."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import typer
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from taskheads.cli import merging
from taskheads.errors import ConfigError, ModelError
from taskheads.merging.merging import merge
from taskheads.merging.plan import Entry, Plan
from taskheads.merging.static.sparse import Ties
from taskheads.merging.tensors import merge_tensors
from taskheads.model.model import Model
from tests.backbone.models import CONFIGS, tiny
from tests.merging.models import close, near, read, same
from tests.small_models import rows, tiny_backbone, tiny_model

command = typer.Typer()
command.command()(merging.merge)


def called(*arguments: object) -> str:
    done = CliRunner().invoke(command, [*map(str, arguments), "-q"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def saved(folder: Path, architecture: str, seeds: tuple[int, ...] = (0, 1, 2)) -> list[Path]:
    """A model and others near it, as transformers saves them."""
    base = tiny(copy.deepcopy(CONFIGS[architecture]))
    paths = []
    for seed in seeds:
        model = copy.deepcopy(base)
        if seed:
            own = near({name: each.detach() for name, each in model.named_parameters()}, seed)
            model.load_state_dict(own, strict=False)
        model.save_pretrained(folder / str(seed))
        paths.append(folder / str(seed))
    return paths


@pytest.mark.parametrize("architecture", ["bert", "llama", "albert"])
def test_transformers_loads_what_the_command_wrote(tmp_path: Path, architecture: str) -> None:
    base, *models = saved(tmp_path, architecture)
    out = tmp_path / "out"
    told = called("--base", base, "--with", *models, "--method", "ties", "--density", 0.3, "--out", out)
    assert str(out) in told
    assert same(read(out), merge_tensors(Ties(0.3), [read(each) for each in models], read(base)))
    model, about = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not about["missing_keys"]
    assert not about["unexpected_keys"]
    other = AutoModel.from_pretrained(base)
    assert not close(dict(model.named_parameters()), dict(other.named_parameters()))


def test_layers_on_top_of_each_other_are_a_deeper_model(tmp_path: Path) -> None:
    (base,) = saved(tmp_path, "llama", (0,))
    (tmp_path / "plan.yaml").write_text(
        "slices: [{model: '0', layers: 0-1}, {model: '0', layers: 1-2}]\nout: deep"
    )
    called(tmp_path / "plan.yaml")
    model = AutoModel.from_pretrained(tmp_path / "deep")
    plain = AutoModel.from_pretrained(base)
    assert [id_of(model.layers[i]) for i in range(4)] == [id_of(plain.layers[i]) for i in (0, 1, 1, 2)]


def id_of(layer: torch.nn.Module) -> float:
    return float(layer.self_attn.q_proj.weight.detach().sum())  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--with", "a", "b", "--out", "x"], "Name a method"),
        (["--with", "a", "--method", "linear"], "--out"),
        (["--method", "linear", "--out", "x"], "nothing to merge"),
        (
            ["--with", "a", "b", "--method", "linear", "--weights", "1", "--out", "x"],
            "1 numbers for 2 models",
        ),
        (["--with", "a", "--method", "linear", "--set", "t=x", "--out", "x"], "'x' is not a number"),
        (
            ["--with", "a", "--method", "linear", "--dtype", "int4", "--out", "x"],
            "--dtype: 'int4' is none of",
        ),
        (["p.yaml", "--method", "linear", "--out", "x"], "p.yaml says it all"),
        (["--with", "nowhere", "--method", "linear", "--out", "x"], "there is no checkpoint nowhere"),
    ],
)
def test_slips_on_the_command_line(arguments: list[str], says: str, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, ModelError), match=says):
        called(*arguments)
    assert not list(tmp_path.iterdir())


def fine_tuned(folder: Path, seed: int, tasks: tuple[str, ...]) -> tuple[Model, Path]:
    backbone = tiny_backbone()
    if seed:
        own = near({name: each.detach() for name, each in backbone.model.named_parameters()}, seed, 0.02)
        backbone.model.load_state_dict(own, strict=False)
    model = tiny_model(tasks, backbone)
    model.save(folder)
    return model, folder


def test_a_merged_taskheads_model_answers_all_tasks_with_the_heads_they_had(tmp_path: Path) -> None:
    base, at_base = fine_tuned(tmp_path / "base", 0, ())
    one, at_one = fine_tuned(tmp_path / "one", 1, ("topic", "size"))
    two, at_two = fine_tuned(tmp_path / "two", 2, ("names", "find"))
    plan = Plan(method="task_arithmetic", base=at_base, models=(Entry(path=at_one), Entry(path=at_two)))
    merge(plan, tmp_path / "out")
    merged = Model.load(tmp_path / "out")
    assert list(merged.heads) == ["topic", "size", "names", "find"]
    for name, head in merged.heads.items():
        source = one if name in one.heads else two
        assert same(head.state_dict(), source.heads[name].state_dict())
    weights = [dict(each.backbone.model.named_parameters()) for each in (base, one, two, merged)]
    for name, value in weights[3].items():
        zero, a, b = (each[name].double() for each in weights[:3])
        torch.testing.assert_close(value.double(), a + b - zero, rtol=1e-6, atol=1e-6)
    expected = Model(merged.backbone, one.heads | two.heads, merged.card).predict(rows())
    assert merged.predict(rows()) == expected
    # One model of weight 1 answers as it did alone.
    merge(plan.model_copy(update={"models": (Entry(path=at_one),)}), tmp_path / "alone")
    assert Model.load(tmp_path / "alone").predict(rows()) == one.predict(rows())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "base", "one", "out", "two"]
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "backbone").vocab_size


def test_taskheads_models_that_cannot_be_merged_are_named(tmp_path: Path) -> None:
    _, at_one = fine_tuned(tmp_path / "one", 1, ("topic",))
    _, at_two = fine_tuned(tmp_path / "two", 2, ("topic",))
    plan = Plan(method="linear", models=(Entry(path=at_one), Entry(path=at_two)))
    with pytest.raises(ConfigError, match="two and a model before it both have a task 'topic'"):
        merge(plan, tmp_path / "out")
    (other,) = saved(tmp_path, "bert", (0,))
    mixed = plan.model_copy(update={"models": (Entry(path=at_one), Entry(path=other))})
    with pytest.raises(ModelError, match=r"is a checkpoint, and .*one is a taskheads model"):
        merge(mixed, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "one", "two"]
