"""`taskheads lower`: a model with its backbone in fewer bits, beside what it was."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from taskheads.cli.arguments import Data, Folder, NoCache, Quiet
from taskheads.errors import ConfigError

# Test rows of each task, at most, that a pass is timed on.
_TIMED = 50


class Lowered(StrEnum):
    """What the weights of a backbone can be lowered to."""

    bfloat16 = "bfloat16"
    int8 = "int8"


def lower(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="The folder of the lowered model.")],
    precision: Annotated[Lowered, typer.Option(help="What the weights become.")] = Lowered.bfloat16,
    data: Data = None,
    no_cache: NoCache = False,
    quiet: Quiet = False,
) -> None:
    """Keep a model's backbone in fewer bits.

    The scores of both stand beside each other. bfloat16 takes half the memory, and is several times as fast
    where the processor multiplies in it, as GPUs do and CPUs with AMX. int8 takes a quarter for the weights
    of linear maps, and is slower: it computes in float32. Task heads and edits stay as they are. The result
    is a model like any other.
    """
    from taskheads import load
    from taskheads.backbone.cache import FeatureCache
    from taskheads.backbone.timing import seconds_of_pass
    from taskheads.cli.output import show
    from taskheads.cli.progress import progress
    from taskheads.model.saving import check_writable
    from taskheads.report.variants import variants_table
    from taskheads.training.joint.rows import batches_of, encoded_rows

    check_writable(out)
    model = load(folder)
    if model.backbone.precision == precision:
        raise ConfigError(f"the backbone of {folder} is in {precision} already")
    lowered = load(folder, precision=precision.value)
    suite = model.suite(data)
    cache = None if no_cache else FeatureCache()
    with progress(quiet=quiet) as report:
        before, after = (each.evaluate(suite, cache=cache, progress=report) for each in (model, lowered))
    for score in after:
        lowered.card["tasks"][score.task]["test"] = score.to_json()
    lowered.save(out)
    show(variants_table({model.backbone.precision: before, precision.value: after}))
    rows = {name: some.thinned(_TIMED) for name, some in model.labelled(suite).items()}
    batch = next(batches_of(model.backbone, encoded_rows(model, rows)))
    was, now = (1000 * each for each in seconds_of_pass(model.backbone, lowered.backbone, batch))
    print(
        f"\nA pass over {len(batch.ids):,} tokens takes {now:.1f} ms here instead of {was:.1f} ms "
        f"({was / now:.2f} times as fast).\n\nThe lowered model is in {out}"
    )
