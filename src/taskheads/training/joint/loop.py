"""The training loop: one backbone, all tasks' heads, step by step, in a way that survives being killed."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.errors import Interrupted, TrainingError
from taskheads.heads import Head
from taskheads.sharing.sampling import dynamic_shares, first_shares
from taskheads.tasks.task import Examples
from taskheads.training.joint.batch import MixedBatch
from taskheads.training.joint.checkpoints import Checkpoints
from taskheads.training.joint.course import Course, gain
from taskheads.training.joint.joining import joining_of
from taskheads.training.joint.optimiser import MovingAverage, optimiser, rate_at, set_rate
from taskheads.training.joint.parts import parts_of
from taskheads.training.joint.precision import precision_of
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.resuming import ctrl_c_noted, own_randomness, restore, state_of
from taskheads.training.joint.rows import TaskRows
from taskheads.training.joint.sharding import clip_gradients, cut_up, held, is_cut, put_together
from taskheads.training.joint.stream import Stream
from taskheads.training.joint.streaming import take_part
from taskheads.training.joint.units import uninformed_loss
from taskheads.training.joint.watching import on_dev
from taskheads.training.joint.workers import Workers

# The fewest steps of a run that minutes end: their time says how many fit; the first one is slower and does
# not count.
FEWEST_STEPS = 6
# Of the minutes, what is planned for. A token of dev only goes forwards, which takes so much of a step's time
# for one.
_SURE, _FORWARDS = 0.95, 0.4
_SECONDS_BETWEEN_CHECKPOINTS = 60.0


class Run:
    """One fine-tuning run.

    Parameters
    ----------
    backbone, heads: what learns, in place; weights with `requires_grad` off stay as they are.
    rows: the tasks' train rows. dev: their rows to look at. alone: the dev utility of each task's frozen
        head, which is what progress is measured against.
    recipe, seed: see `Recipe`; the seed fixes the order of rows and dropout.
    checkpoints: where the run is kept, or None.
    watch: called with the course after every step.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        rows: Mapping[str, TaskRows],
        dev: Mapping[str, Examples],
        alone: Mapping[str, float],
        recipe: Recipe,
        *,
        seed: int = 0,
        checkpoints: Checkpoints | None = None,
        watch: Callable[[Course], None] | None = None,
    ) -> None:
        self.backbone, self.heads, self.rows, self.recipe = backbone, dict(heads), dict(rows), recipe
        self.dev = {name: examples.thinned(recipe.dev_rows) for name, examples in dev.items()}
        self.alone, self.checkpoints, self.watch, self.seed = dict(alone), checkpoints, watch, seed
        self.workers, self.whole = Workers.here(), backbone
        self.cut = recipe.shard and self.workers.count > 1
        if self.cut:
            self.backbone = cut_up(backbone, self.heads.values(), self.workers)
        tokens = {name: each.tokens for name, each in rows.items()}
        sizes = {name: float(len(each)) for name, each in rows.items()}
        shares = first_shares(sizes, recipe.sampling, recipe.temperature)
        self.stream = Stream(tokens, recipe.tokens, shares, seed)
        at_once = self.stream.rows_a_step
        self.units = {name: uninformed_loss(self.heads[name], rows[name], at_once[name]) for name in rows}
        self.joining = joining_of(self.backbone, list(rows), recipe)
        self.optimizer = optimiser(self.backbone, heads, recipe, self.joining.parameters)
        self.average = MovingAverage(self.weights.values(), recipe.average) if recipe.average else None
        self.precision, self.scaler = precision_of(recipe.precision, self.backbone.device)
        planned = recipe.planned(sum(int(each.sum()) for each in tokens.values()))
        self.course = Course(recipe.lr, planned=planned)
        self.best: tuple[float, dict[str, torch.Tensor]] = (-math.inf, {})
        self.stale = 0
        self._random: torch.Tensor | None = None

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Every weight that learns, by name."""
        found = {f"backbone.{name}": each for name, each in self.backbone.named_weights()}
        for task, head in self.heads.items():
            found |= {f"heads.{task}.{name}": each for name, each in head.named_parameters()}
        return {name: each for name, each in found.items() if each.requires_grad}

    def train(self) -> Course:
        """Run to the end, and leave the weights that were best on dev.

        Raises TrainingError when a loss is no longer finite, when a checkpoint cannot be written, and on
        Ctrl-C, once the step and its look at dev are over; on a second Ctrl-C at once.
        """
        self.until(math.inf)
        self._take_best()
        if self.cut:
            put_together(self.backbone, self.whole, self.heads.values())
            self.backbone = self.whole
        return self.course

    def until(self, looks: float) -> None:
        """Run until dev has been looked at so often, or to the end; `train` goes on from there, and raises
        the same."""
        with own_randomness(self.seed), ctrl_c_noted() as stop:
            if self._random is not None:
                torch.set_rng_state(self._random)
            elif self.checkpoints is not None and (found := self.checkpoints.latest()) is not None:
                restore(self, found)
            timed, saved = list[float](), time.monotonic()
            try:
                while not self._over(looks):
                    looked = self._advance(timed)
                    late = time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS
                    if self.workers.any(looked or late):
                        self._save()
                        saved = time.monotonic()
                    if self.watch is not None:
                        self.watch(self.course)
                    # All processes stop after the same step, whichever of them was interrupted in it.
                    if self.workers.any(stop.asked):
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                raise self._interrupted() from None
            finally:
                self.backbone.train(False)
                self._random = torch.get_rng_state()

    def _over(self, looks: float) -> bool:
        course = self.course
        return course.looks >= looks or course.step >= course.planned or self.stale >= self.recipe.patience

    def _advance(self, timed: list[float]) -> bool:
        """One step, whose seconds `timed` gets, and its look at dev, if it has one. Interrupted in the middle
        of them, the run is in no state that could be kept."""
        step, clock = self.course.step + 1, time.monotonic()
        try:
            self._step()
            timed.append(time.monotonic() - clock)
            self._replan(timed)
            return self._look_at_dev()
        except KeyboardInterrupt:
            raise Interrupted(f"stopped in the middle of step {step}{self._last_good}") from None

    def _step(self) -> None:
        """One step of the optimiser, from `accumulate` parts of one draw."""
        self.backbone.train()
        recipe, course = self.recipe, self.course
        drawn = self.stream.draw()
        set_rate(self.optimizer, rate_at(course.step, course.planned, recipe))
        self.optimizer.zero_grad(set_to_none=True)
        self.joining.begin(list(drawn))
        sums = dict.fromkeys(drawn, 0.0)
        clock, tokens = time.monotonic(), 0
        mine = self.workers.share(drawn, self.rows, self.heads)
        parts = parts_of(mine, drawn, self.rows, recipe.accumulate, in_step=self.cut)
        for part in parts:
            batch = MixedBatch(self.rows, part.rows)
            tokens += batch.tokens
            with self.precision():
                losses = batch.losses(self.joining.run(batch), self.heads)
            # The mean over a task's rows of the whole step, of which these are some.
            shares = {name: loss * part.shares[name] for name, loss in losses.items()}
            for name, loss in shares.items():
                sums[name] += float(loss.detach())
            penalty = self.backbone.penalty()
            self.joining.backward(
                batch,
                {name: loss / self.units[name] for name, loss in shares.items()},
                None if penalty is None else penalty / (len(parts) * self.workers.count),
                self.scaler,
            )
        sums = self.workers.summed(sums)
        self._check(sums)
        self.workers.add_up(self._added_up)
        self.joining.end(
            {name: value / self.units[name] for name, value in sums.items()}, self.workers, self.scaler
        )
        self.scaler.unscale_(self.optimizer)
        clip_gradients(self.weights.values(), recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        course.step += 1
        course.tokens += tokens
        course.rates.append([course.step, round(tokens / (time.monotonic() - clock), 1)])

    @property
    def _added_up(self) -> list[nn.Parameter]:
        """The weights whose gradients are summed over processes after the backward pass: in it, where they
        are cut up; under balancing, those of the backbone are before they are joined."""
        weights = {name: each for name, each in self.weights.items() if not is_cut(each)}
        if self.joining.splits:
            weights = {name: each for name, each in weights.items() if name.startswith("heads.")}
        return [*weights.values(), *self.joining.parameters]

    def _check(self, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            if not math.isfinite(value):
                raise self._diverged(f"the loss of task {name!r} became {value}", self.course.step + 1)
            self.course.losses.setdefault(name, []).append([self.course.step + 1, round(value, 6)])

    def _check_weights(self) -> None:
        """That a step after which there may be no loss has left numbers."""
        wrong = (name for name, each in self.weights.items() if not held(each).isfinite().all())
        name = next(wrong, None)
        if self.workers.any(name is not None):
            raise self._diverged(f"a weight is no number ({name or 'another process'})", self.course.step)

    def _diverged(self, what: str, step: int) -> TrainingError:
        rate = f"a lower learning rate (now lr {self.recipe.lr:g}) may help"
        return TrainingError(f"{what} in step {step}: {rate}{self._last_good}")

    def _look_at_dev(self) -> bool:
        """At each of the recipe's evaluations: dev scores, the best weights so far, and the shares."""
        course, recipe = self.course, self.recipe
        marks = {math.ceil(course.planned * (k + 1) / recipe.evaluations) for k in range(recipe.evaluations)}
        if course.step not in marks:
            return False
        self._check_weights()
        self.backbone.train(False)
        with self._averaged():
            now = self.workers.agreed(on_dev(self.backbone, self.heads, self.dev))
            better = gain(now, self.alone)
            if better > self.best[0]:
                self.best = better, {name: each.detach().clone() for name, each in self.weights.items()}
                course.best, self.stale = course.step, 0
            else:
                self.stale += 1
        for name, value in now.items():
            course.dev.setdefault(name, []).append([course.step, round(value, 6)])
        if len(now) > 1 and self.backbone.shares_weights and not self.cut:
            self._compare()
        self.joining.end_period()
        if recipe.sampling == "dynamic":
            self.stream.shares = dynamic_shares(now, self.alone)
        return True

    def _compare(self) -> None:
        """Add the inner products of the tasks' gradients, on rows of equal shares, to the course."""
        equal = dict.fromkeys(self.rows, 1 / len(self.rows))
        drawn = Stream(self.stream.tokens, self.recipe.tokens, equal, self.seed + self.course.step).draw()
        if len(drawn) < len(self.rows):
            return
        found = self.joining.gramian(MixedBatch(self.rows, drawn), self.heads, self.units)
        before = torch.tensor(self.course.gramian or torch.zeros_like(found).tolist(), dtype=found.dtype)
        self.course.gramian = (before + found).tolist()
        self.optimizer.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights, where there are any, in the place of the latest."""
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    @torch.no_grad()
    def _take_best(self) -> None:
        for name, each in self.weights.items():
            if name in self.best[1]:
                each.copy_(self.best[1][name])

    def _replan(self, timed: list[float]) -> None:
        """Once the time of a step is known: as many steps as the minutes allow."""
        if self.course.step != FEWEST_STEPS or self.recipe.steps is not None or self.recipe.minutes is None:
            return
        seconds = float(np.median(timed[1:] or timed))
        affordable = torch.tensor(int(60 * self.recipe.minutes * _SURE / seconds - self._looks_in_steps))
        if self.workers.count > 1:  # all processes must stop together
            torch.distributed.broadcast(affordable, 0)
        self.course.planned = max(FEWEST_STEPS, min(self.course.planned, int(affordable)))

    @property
    def _looks_in_steps(self) -> float:
        """About as many steps as all looks at dev take: its rows are as long as those of train in the mean,
        every process reads all of them, and the gradients that are compared are those of one more step."""
        tokens = sum(len(rows) * float(self.rows[name].tokens.mean()) for name, rows in self.dev.items())
        return self.recipe.evaluations * (self.workers.count * _FORWARDS * tokens / self.recipe.tokens + 1)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        if self.workers.rank == 0:
            self.checkpoints.save(self.course.step, *state_of(self))
        elif self.cut:
            take_part(state_of(self)[0])

    @property
    def _last_good(self) -> str:
        return "" if self.checkpoints is None else f"; {self.checkpoints.last_good()}"

    def _interrupted(self) -> Interrupted:
        self._save()
        kept = "nothing was kept, for want of a folder"
        if self.checkpoints is not None:
            kept = f"the run is kept in {self.checkpoints.folder}: the same command with --resume goes on"
        return Interrupted(f"stopped after step {self.course.step} of {self.course.planned}; {kept}")
