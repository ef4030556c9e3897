"""`taskheads merge`: fine-tuned checkpoints become one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from taskheads.cli.arguments import Quiet
from taskheads.errors import ConfigError

Paths = Annotated[
    list[Path] | None, typer.Argument(metavar="[PLAN]", help="A plan (YAML), in place of all other options.")
]
Base = Annotated[Path | None, typer.Option(help="The model which the others were fine-tuned from.")]
With = Annotated[list[Path] | None, typer.Option("--with", help="A fine-tuned model; give it several times.")]
Method = Annotated[str | None, typer.Option(help="How; `taskheads methods --family merging`.")]
Weights = Annotated[str | None, typer.Option(help="One for each model: 0.5,0.3,0.2")]
Option = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=NUMBER", help="An option of it.")]
Density = Annotated[float | None, typer.Option(help="The share of a task vector that stays.")]
Scale = Annotated[float | None, typer.Option(help="The factor of all task vectors.")]
Drop = Annotated[list[str] | None, typer.Option(help="Tensors without a part in it, as classifier.*")]
Dtype = Annotated[str | None, typer.Option(help="Of the merged weights.  [default: the base's]")]
Keep = Annotated[str | None, typer.Option(help="masks, low_rank or quantised: see below.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Of a merged adapter, or of what is kept.")]
Recalibrate = Annotated[bool, typer.Option("--recalibrate", help="With --data: heads solved anew.")]
Data = Annotated[Path | None, typer.Option(help="A suite with the models' tasks: to learn from, to score.")]
Threads = Annotated[int, typer.Option(min=1, help="Tensors merged at the same time.")]


def merge(
    paths: Paths = None,
    base: Base = None,
    models: With = None,
    method: Method = None,
    weights: Weights = None,
    density: Density = None,
    scale: Scale = None,
    options: Option = None,
    drop: Drop = None,
    dtype: Dtype = None,
    keep: Keep = None,
    rank: Rank = None,
    recalibrate: Recalibrate = False,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the merged model.")] = None,
    threads: Threads = 1,
    quiet: Quiet = False,
) -> None:
    """Merge fine-tuned checkpoints into one model.

    Folders of Hugging Face models in, one out; or taskheads models, whose trunks are merged and whose heads
    are kept; or LoRA adapters, which stay an adapter unless a base is named. Models after the first may
    follow --with too: --with A B C.

    --keep leaves each task of taskheads models its own weights, stored as small differences over one shared
    copy. --data scores every original, the merge, and the best merge without data.
    """
    from taskheads.cli.progress import bars
    from taskheads.merging.merging import merge as merge_models
    from taskheads.merging.plan import load_plan

    named: dict[str, Any] = {"base": base, "method": method, "weights": weights, "drop": drop}
    named |= {"density": density, "scale": scale, "dtype": dtype, "set": options}
    named |= {"keep": keep, "rank": rank, "recalibrate": recalibrate}
    given = [f"--{name}" for name, value in named.items() if value]
    alone = (paths or [])[0] if len(paths or []) == 1 and not models else None
    if alone is not None and alone.suffix.lower() in (".yaml", ".yml"):
        if given:
            raise ConfigError(f"{alone} says it all: {', '.join(given)} cannot go with it")
        declared = load_plan(alone)
    else:
        declared = _declared([*(models or []), *(paths or [])], named)
    to = out or declared.out
    if to is None:
        raise ConfigError("where should the merged model go? Name a folder with --out")
    with bars(quiet=quiet) as drawn:
        kept = merge_models(
            declared, to, data=data, threads=threads, progress=drawn.report if drawn else None
        )
    if kept:
        from taskheads.cli.output import show
        from taskheads.report.merged import merged_table

        show(merged_table(kept))
    print(f"The merged model is in {to}")


def _declared(models: list[Path], named: dict[str, Any]) -> Any:
    """The plan of what stands on the command line."""
    import pydantic

    from taskheads.merging.plan import Entry, Plan

    if not models:
        raise ConfigError("nothing to merge: name models with --with, or a plan")
    if named["method"] is None:
        raise ConfigError("how should they be merged? Name a method: --method task_arithmetic")
    numbers = _numbers(named["weights"], len(models))
    settings: dict[str, Any] = {key: named[key] for key in ("density", "scale") if named[key] is not None}
    for each in named["set"] or []:
        key, _, value = each.partition("=")
        settings[key] = _number(value, f"--set {each}")
    try:
        return Plan(
            method=named["method"],
            options=settings,
            base=named["base"],
            models=tuple(Entry(path=path, weight=w) for path, w in zip(models, numbers, strict=True)),
            drop=tuple(named["drop"] or ()),
            dtype=named["dtype"],
            keep=named["keep"],
            rank=named["rank"],
            recalibrate=named["recalibrate"],
        )
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        told = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
        raise ConfigError(f"--{first['loc'][0]}: {told}") from None


def _numbers(text: str | None, count: int) -> list[float]:
    numbers = [1.0] * count if text is None else [_number(part, "--weights") for part in text.split(",")]
    if len(numbers) != count:
        raise ConfigError(f"--weights has {len(numbers)} numbers for {count} models")
    return numbers


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{where}: {text!r} is not a number") from None
    return int(value) if value.is_integer() else value
