"""Several learning rates: one is chosen on dev when a third of a run is over, and goes on as if alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import taskheads as th
from taskheads.errors import ConfigError, TrainingError
from taskheads.model.model import Model
from taskheads.training.joint.loop import Run
from taskheads.training.joint.optimiser import MovingAverage, rate_at
from taskheads.training.joint.recipe import Recipe, said_over
from taskheads.training.joint.tuning import Stages
from tests.small_models import tiny_backbone
from tests.training.joint.planted import numbers, run_of
from tests.training.joint.test_tuning import QUICK, ROWS, suite

SAID = QUICK | {"steps": 9, "evaluations": 3}


def tuned(**said: Any) -> Model:
    more = {key: said.pop(key) for key in ("out", "resume") if key in said}
    return th.fit(
        suite("topic", "size"), backbone=tiny_backbone(), tune="full", training=said_over(SAID, said), **more
    )


def test_a_run_that_pauses_takes_the_same_steps() -> None:
    whole, paused = run_of({"evaluations": 4}), run_of({"evaluations": 4})
    whole.train()
    for looks in (1, 3):
        paused.until(looks)
        assert {len(told) for told in paused.course.dev.values()} == {looks}
        torch.rand(3)  # what others draw in between
    paused.train()
    assert numbers(paused) == numbers(whole)


def test_the_best_after_a_third_ends_as_if_there_were_no_other() -> None:
    rates = (1e-5, 3e-2, 3e-3)
    alone = {rate: tuned(lr=rate, average=0.999) for rate in rates}
    frozen = th.fit(suite("topic", "size"), backbone=tiny_backbone(), tune="frozen").card["tasks"]

    def early(model: Model) -> float:
        told = (model.report or {})["curves"]["dev"]
        gains = [
            (values[0][1] - frozen[name]["dev"]) / max(abs(frozen[name]["dev"]), 0.05)
            for name, values in told.items()
        ]
        return float(np.mean(gains))

    best = max(rates, key=lambda rate: early(alone[rate]))
    assert len({early(model) for model in alone.values()}) > 1
    chosen = tuned(rates=rates)
    report = chosen.report or {}
    assert report["curves"]["lr"] == best
    assert chosen.predict(ROWS) == alone[best].predict(ROWS)
    stages = [stage["name"] for stage in report["stages"]]
    assert [name for name in stages if "lr" in name] == [f"shared, lr {rate:g}" for rate in rates]


@pytest.mark.parametrize(("frozen_layers", "lowest"), [(0, 1), (2, 2)])
def test_private_layers_choose_a_rate_of_their_own(
    monkeypatch: pytest.MonkeyPatch, frozen_layers: int, lowest: int
) -> None:
    """At each of them they begin with the layers of the frozen backbone, which is better for the task than
    the shared one, and the same head; what is to stay frozen is not theirs."""
    begun, begin = dict[str, dict[str, torch.Tensor]](), Stages.begin

    def noted(stages: Stages, name: str, *given: Any) -> Run:
        run = begin(stages, name, *given)
        begun[name] = {key: each.detach().clone() for key, each in run.weights.items()}
        return run

    monkeypatch.setattr(Stages, "begin", noted)
    rates = (0.3, 0.2)  # at which sharing harms
    th.fit(
        suite("topic", "size"),
        backbone=tiny_backbone(),
        training=said_over(SAID, {"rates": rates, "frozen_layers": frozen_layers}),
        tune="auto",
    )
    harmed = {name.split(",")[0] for name in begun if name.startswith("private")}
    assert harmed
    for name in harmed:
        first, second = (begun[f"{name}, lr {rate:g}"] for rate in rates)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
        copied = {key.removeprefix("backbone."): each for key, each in first.items() if "heads." not in key}
        assert {int(key.split("layer.")[1][0]) for key in copied if "layer." in key} == {*range(lowest, 3)}
        frozen = tiny_backbone().model
        assert all(torch.equal(each, frozen.get_parameter(key)) for key, each in copied.items())


def test_a_rate_that_breaks_the_weights_is_left_out() -> None:
    apart = {"clip": 1e30}
    chosen = tuned(rates=(1e30, 1e-3), **apart)
    assert (chosen.report or {})["curves"]["lr"] == 1e-3
    with pytest.raises(TrainingError, match=r"now lr 1e\+30"):
        tuned(rates=(1e29, 1e30), **apart)


@pytest.mark.parametrize("last", [2, 5, 7])
def test_a_choice_that_is_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """In the first rate's trial, in the second one's, and after the choice."""
    whole, taken, step = tuned(rates=(1e-3, 3e-3)), [0], Run._step

    def stopping(run: Run) -> None:
        taken[0] += 1
        if taken[0] > last:
            raise KeyboardInterrupt
        step(run)

    monkeypatch.setattr(Run, "_step", stopping)
    with pytest.raises(TrainingError):
        tuned(rates=(1e-3, 3e-3), out=tmp_path / "m")
    monkeypatch.setattr(Run, "_step", step)
    again = tuned(rates=(1e-3, 3e-3), out=tmp_path / "m", resume=True)
    assert again.predict(ROWS) == whole.predict(ROWS)
    assert (again.report or {})["curves"] | {"tokens_per_second": 0} == (whole.report or {})["curves"] | {
        "tokens_per_second": 0
    }


def test_all_rates_together_take_the_minutes_of_one_run() -> None:
    recipe = Recipe.of({"minutes": 10, "rates": (1e-4, 2e-4, 3e-4), "evaluations": 6})
    runs = [recipe.at(rate) for rate in recipe.rates]
    tried = recipe.tried_for / recipe.evaluations
    assert sum(run.minutes or 0 for run in runs[:1]) + 2 * tried * (runs[0].minutes or 0) == pytest.approx(10)
    assert [(run.lr, run.rates) for run in runs] == [(1e-4, ()), (2e-4, ()), (3e-4, ())]


def test_the_average_of_weights_tells_early_which_rate_ends_best() -> None:
    """Noisy descent to 1 on which, a third of the way, the weights themselves are nearer at the lower rate,
    which is too low to end there."""
    steps, recipe = 600, Recipe(rates=(0.0085, 0.2), warmup=0.0)
    told: dict[float, dict[str, float]] = {}
    for rate in recipe.rates:
        draw, weights = torch.Generator().manual_seed(0), torch.nn.Parameter(torch.zeros(200))
        tried = recipe.at(rate)
        average = MovingAverage([weights], tried.average)

        def away(values: torch.Tensor) -> float:
            return (values.detach() - 1).square().mean().item()

        for step in range(steps):
            noise = torch.randn(200, generator=draw)
            with torch.no_grad():
                weights.sub_(rate * rate_at(step, steps, tried) * (weights - 1 + noise))
            average.update()
            if step == steps // 3:
                told[rate] = {"weights": away(weights), "average": away(average.values[0])}
        told[rate] |= {"end": away(weights)}
    low, high = (told[rate] for rate in recipe.rates)
    assert low["end"] > high["end"]
    assert low["weights"] < high["weights"]
    assert low["average"] > 2 * high["average"]


def test_an_average_that_is_said_is_the_one_that_is_compared() -> None:
    assert Recipe.of({"rates": (1e-4, 2e-4), "average": 0.5}).at(1e-4).average == 0.5


def test_rates_and_a_backbone_cut_up_are_not_said_together() -> None:
    with pytest.raises(ConfigError, match=r"shard = true.*keeps two backbones at a time"):
        Recipe.of({"shard": True, "rates": [1e-4, 2e-4]})


def test_one_rate_takes_the_place_of_several_that_were_said_before() -> None:
    several = {"rates": [1e-4, 2e-4], "tokens": 64}
    assert Recipe.of(several, lr=3e-4) == Recipe.of({"lr": 3e-4, "tokens": 64})
    assert Recipe.of({"lr": 3e-4}, **several) == Recipe.of(several)
    assert Recipe.of(several, tokens=32).rates == (1e-4, 2e-4)
    with pytest.raises(ConfigError, match=r"rates = .*lr = 0\.0003: say only one"):
        Recipe.of(several | {"lr": 3e-4})
