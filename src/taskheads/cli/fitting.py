"""`taskheads fit`, `add` and `remove`: what changes which tasks a model has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskheads.cli.arguments import Folder, NoCache, Quiet, Sources, named_after, one_source

if TYPE_CHECKING:
    from taskheads.backbone.cache import FeatureCache
    from taskheads.model.model import Model
    from taskheads.training.joint.tuning import Watch

REPORT = "report.html"


Minutes = Annotated[float | None, typer.Option(min=0.01, help="For tuning.  [default: 10]")]
Out = Annotated[Path | None, typer.Option(help="The folder of the model.  [default: runs/<name of SOURCE>]")]


def fit(
    source: Sources,
    out: Out = None,
    backbone: Annotated[str | None, typer.Option(help="A folder or a Hub name.")] = None,
    tune: Annotated[
        str | None, typer.Option(metavar="HOW", help="What learns; see below.  [default: auto]")
    ] = None,
    minutes: Minutes = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    track: Annotated[str | None, typer.Option(help="tensorboard, wandb, mlflow, … by accelerate.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of training, made splits, intervals.")] = None,
    no_cache: NoCache = False,
    quiet: Quiet = False,
) -> None:
    """Fit one model of all tasks, score it, save it.

    SOURCE is a suite (YAML), or data files: their columns then tell the tasks.

    --tune frozen solves for a head of each task; full also tunes the backbone for all of them together; auto
    does both, and each task keeps what is best for it. The name of an edit (lora, ia3, prefix, …; `taskheads
    methods` lists them) leaves the backbone as it is, and each task learns what it changes there.
    """
    import taskheads as th
    from taskheads.cli.next_steps import next_steps
    from taskheads.cli.progress import bars
    from taskheads.report.page import page

    folder = out or Path("runs") / named_after(source[0])
    # torchrun starts this command several times; one of them speaks.
    first = os.environ.get("RANK", "0") == "0"
    with (
        bars(quiet=quiet or not first) as drawn,
        _tracked(track, folder, drawn.watch if drawn else None) as watch,
    ):
        model = th.fit(
            one_source(source),
            out=folder,
            backbone=backbone,
            tune=tune,
            training={} if minutes is None else {"minutes": minutes},
            resume=resume,
            seed=seed,
            cache=_cache(no_cache),
            progress=drawn.report if drawn else None,
            watch=watch,
        )
    if not first:
        return
    assert model.report is not None
    (folder / REPORT).write_text(page(model.report), encoding="utf-8")
    _show_scores(model, model.tasks)
    print(f"\nA report to open in a browser: {folder / REPORT}")
    print(f"\nThe model is in {folder}. What to type next:\n")
    for step in next_steps(folder, model.tasks.values(), source):
        print(f"  {step}")


def add(
    folder: Folder,
    source: Sources,
    tune: Annotated[str, typer.Option(metavar="HOW", help="frozen, or the name of an edit.")] = "frozen",
    minutes: Minutes = None,
    no_cache: NoCache = False,
    quiet: Quiet = False,
) -> None:
    """Add tasks; all other answers stay as they were.

    SOURCE is a suite (YAML), or data files: their columns then tell the tasks.
    """
    import taskheads as th
    from taskheads.cli.progress import bars

    model = th.load(folder)
    with bars(quiet=quiet) as drawn:
        added = th.add(
            model,
            one_source(source),
            tune=tune,
            training={} if minutes is None else {"minutes": minutes},
            cache=_cache(no_cache),
            progress=drawn.report if drawn else None,
            watch=drawn.watch if drawn else None,
        )
    model.save(folder)
    _show_scores(model, added)
    print(f"\n{folder} now answers {', '.join(model.tasks)}")


def remove(folder: Folder, task: Annotated[str, typer.Argument(metavar="TASK", help="Its name.")]) -> None:
    """Remove a task; all other answers stay as they were."""
    import taskheads as th

    model = th.load(folder)
    model.remove(task)
    model.save(folder)
    print(f"{folder} now answers {', '.join(model.tasks) or 'nothing'}")


@contextmanager
def _tracked(tracker: str | None, folder: Path, watch: Watch | None) -> Iterator[Watch | None]:
    if tracker is None:
        yield watch
        return
    from taskheads.training.joint.tracking import tracked

    with tracked(tracker, folder.parent / f"{folder.name}.logs", {"model": str(folder)}, watch) as both:
        yield both


def _show_scores(model: Model, names: Iterable[str]) -> None:
    from taskheads.cli.output import show
    from taskheads.report.fitted import fitted_table

    show(fitted_table({name: model.card["tasks"][name] for name in names}))


def _cache(none: bool) -> FeatureCache | None:
    from taskheads.backbone.cache import FeatureCache

    return None if none else FeatureCache()
