"""What may be said about a training run, and what is taken where nothing is said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from taskheads.errors import ConfigError
from taskheads.tasks.suggest import did_you_mean

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

# So high that for some thousand steps it is the growing decay of `MovingAverage` which counts.
_AVERAGE_OF_RATES = 0.999


def said_over(said: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """What was said about a training, with `more` over it: `lr` there takes the place of `rates` here, and
    the other way round."""
    given = {**said, **more}
    for one, other in (("lr", "rates"), ("rates", "lr")):
        if one in more and other not in more:
            given.pop(other, None)
    return given


class Recipe(BaseModel):
    """How the shared backbone is fine-tuned.

    tune: what learns; see `taskheads.training.fit.fit`.

    Length
    ------
    minutes: for tuning, all its stages together; how many steps that makes is measured at the start.
    epochs: the most steps there are: as many tokens as these passes over all tasks' train rows.
    steps: exactly so many steps of the joint stage, whatever time they take.
    tokens: a step's, of all tasks and all processes together.
    accumulate: parts in which a step is computed one after the other, to save memory.

    Optimiser
    ---------
    optimizer: "adamw" (Loshchilov and Hutter 2019) or "adafactor" (Shazeer and Stern 2018), which keeps less.
    lr, head_lr: highest learning rates of the backbone and of the heads, reached after the share `warmup` of
        all steps and left along `schedule`.
    rates: in the place of lr, several of which one is chosen on dev: the shared backbone is tuned at each for
        a third of its run, and what is best then goes on (successive halving, Jamieson and Talwalkar 2016).
        The same for a task's private layers, whose rate is seldom that of all tasks together, and for each
        task alone, under `alone`. Costs a third of a run for each rate after the first.
        What is compared, and goes on, is the `average` of the weights, over a tenth of the steps so far
        where nothing is said: while rates are high the weights themselves look best at the lowest of them,
        and averaging tells what lowering the rate will do (Sandler et al. 2023, arXiv:2301.02312).
    edit_lr: highest rate of what tasks change in the backbone; by default what suits the method.
    layer_decay: each layer learns at this fraction of the rate of the layer above it (Howard and Ruder 2018).
    frozen_layers: so many layers from below, and the embeddings, stay as they are.
    weight_decay, clip: decoupled decay of matrices; largest norm of the gradient of all weights.
    average: decay a step of an exponential moving average of the weights, which is what is evaluated and
        kept; 0 for none.
    precision: "auto" is bfloat16 on a GPU that has it in hardware, else float32.
    shard: cut the backbone up among the processes that train it, so that each holds its part of the weights,
        the gradients and what the optimiser keeps; for a backbone that does not fit one device.

    Sharing
    -------
    sampling, temperature: how a step's rows are shared out; see `taskheads.sharing.sampling`.
    weighting: of the losses, each in units of what an answer without input would lose.
    balance: of the tasks' gradients on the backbone, in place of a weighting, so that only one of the two may
        be said; both by name, see `taskheads methods`.
    groups: lists of tasks that share a backbone; by default all of them share one.
    private_layers: how many layers from above a task gets of its own, on top of those below as they were,
        where sharing harms it; none of the `frozen_layers`.

    Choosing
    --------
    evaluations: how often in a run dev is looked at. patience: so many times without a better mean score end
        it; while the rate is high scores go up and down, and most is gained when it falls.
    dev_rows: of each task at most, for that.
    alone: also tune a backbone for each task alone, to tell what sharing gave.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tune: str = "auto"
    minutes: Positive | None = 10.0
    epochs: Positive = 4.0
    steps: Annotated[int, Field(ge=1)] | None = None
    tokens: Annotated[int, Field(ge=16)] = 2048
    accumulate: Annotated[int, Field(ge=1)] = 1
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    lr: Positive = 1e-4
    rates: tuple[Positive, ...] = ()
    head_lr: Positive = 1e-3
    edit_lr: Positive | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    frozen_layers: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Positive = 1.0
    average: Share = 0.0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    shard: bool = False
    sampling: Literal["temperature", "proportional", "uniform", "dynamic"] = "temperature"
    temperature: Positive = 2.0
    weighting: str = "equal"
    balance: str = "none"
    groups: tuple[tuple[str, ...], ...] = ()
    private_layers: Annotated[int, Field(ge=1)] = 3
    evaluations: Annotated[int, Field(ge=1)] = 6
    patience: Annotated[int, Field(ge=1)] = 3
    dev_rows: Annotated[int, Field(ge=1)] = 500
    alone: bool = False

    @model_validator(mode="after")
    def _joined_in_one_way(self) -> Self:
        if self.balance != "none" and self.weighting != "equal":
            raise ConfigError(
                f"training has balance = {self.balance!r}, which takes the place of a weighting, and "
                f"weighting = {self.weighting!r}: say only one of the two"
            )
        return self

    @model_validator(mode="after")
    def _at_one_rate_or_several(self) -> Self:
        if self.rates and "lr" in self.model_fields_set:
            raise ConfigError(
                f"training has rates = {self.rates!r}, of which one is chosen, and lr = {self.lr!r}: "
                f"say only one of the two"
            )
        return self

    @model_validator(mode="after")
    def _what_can_be_cut_up(self) -> Self:
        whole = {
            "balance": (self.balance != "none", "compares whole gradients"),
            "optimizer": (self.optimizer == "adafactor", "looks at whole matrices"),
            "precision": (self.precision == "float16", "looks at all gradients at once"),
            "rates": (bool(self.rates), "keeps two backbones at a time"),
        }
        for name, (said, why) in whole.items():
            if self.shard and said:
                raise ConfigError(
                    f"training has shard = true, which leaves each process a part of every weight, and "
                    f"{name} = {getattr(self, name)!r}, which {why}: say only one of the two"
                )
        return self

    @classmethod
    def of(cls, said: Mapping[str, Any] | Recipe | None, **more: Any) -> Recipe:
        """The recipe of what was said, with `more` over it. Raises ConfigError, in one sentence."""
        given = said.model_dump(exclude_unset=True) if isinstance(said, Recipe) else dict(said or {})
        given = said_over(given, more)
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise ConfigError(f"training has no {name!r}{did_you_mean(name, cls.model_fields)}") from None
            raise ConfigError(f"training, {name} = {first['input']!r}: {first['msg'].lower()}") from None

    def grouped(self, tasks: Iterable[str]) -> list[Sequence[str]]:
        """The tasks group by group. Raises ConfigError where `groups` are not every task once."""
        names = list(tasks)
        if self.groups and sorted(name for group in self.groups for name in group) != sorted(names):
            held = " | ".join(", ".join(group) for group in self.groups)
            raise ConfigError(f"training, groups = {held}: each task once: {', '.join(names)}")
        return [*self.groups] or [names]

    def at(self, rate: float) -> Recipe:
        """The same at one of `rates`, with so many of the minutes that the others have theirs."""
        others = (len(self.rates) - 1) * self.tried_for / self.evaluations
        minutes = None if self.minutes is None else self.minutes / (1 + others)
        average = self.average or _AVERAGE_OF_RATES
        return self.model_copy(update={"lr": rate, "rates": (), "minutes": minutes, "average": average})

    @property
    def tried_for(self) -> int:
        """After so many looks at dev one of the `rates` is chosen."""
        return math.ceil(self.evaluations / 3)

    def planned(self, tokens: int) -> int:
        """How many steps a run over so many train tokens has, if time allows."""
        return self.steps or max(1, math.ceil(self.epochs * tokens / self.tokens))
