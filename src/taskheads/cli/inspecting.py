"""`taskheads inspect` and `prune`: what a model's tasks use each attention head for, and what they can do
without."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from taskheads.attention import SCORES
from taskheads.cli.arguments import Data, Folder, NoCache, Quiet
from taskheads.errors import ConfigError

PAGE = "inspect.html"

Count = Annotated[int, typer.Option(min=2, help="Dev rows of each task, at most.")]


def inspect(
    folder: Folder,
    data: Data = None,
    rows: Count = 200,
    out: Annotated[Path | None, typer.Option(help=f"The page.  [default: DIR/{PAGE}]")] = None,
    quiet: Quiet = False,
) -> None:
    """Show which tasks use which attention heads, and for what.

    It also says what each task would score with fewer of them. The importance of an attention head to a task
    is how much the task's loss changes with a gate on it. It goes into a page for a browser, where one also
    sees what each attention head looks at in a few rows, and, beside it, into scores.safetensors and
    scores.json.
    """
    from taskheads import load
    from taskheads.attention.excerpts import excerpts
    from taskheads.attention.levels import levels
    from taskheads.attention.roles import pattern_statistics, roles
    from taskheads.attention.usage import asked_examples, heads_of, importance
    from taskheads.cli.output import show
    from taskheads.cli.progress import progress
    from taskheads.report.inspected import as_json, levels_table, top_table
    from taskheads.report.page.heads import heads_page
    from taskheads.report.page.patterns import drawn_excerpts
    from taskheads.training.joint.rows import batches_of, encoded_rows

    page = out or folder / PAGE
    if not page.parent.is_dir():
        raise ConfigError(f"--out {page}: there is no folder {page.parent}")
    model = load(folder)
    heads = heads_of(model)
    examples = asked_examples(model, model.suite(data), rows)
    asked = encoded_rows(model, examples)
    with progress(quiet=quiet) as report:
        found = importance(heads, model.heads, asked, report)
        patterns = pattern_statistics(heads, batches_of(heads.backbone, asked))
        left = levels(model, heads, found, examples, progress=report)
    facts = {
        "backbone": model.backbone.name,
        "attention heads": f"{heads.n_layers} layers of {max(heads.counts)}",
        "rows of a task": f"at most {rows:,}",
    }
    html = heads_page(
        found,
        patterns,
        title=f"Attention heads of {folder.name}",
        facts=facts,
        levels=left,
        excerpts=drawn_excerpts(excerpts(heads, asked), heads.backbone.tokens),
    )
    page.write_text(html, encoding="utf-8")
    found.save(page.with_name(SCORES))
    page.with_name(SCORES).with_suffix(".json").write_text(as_json(found, patterns, left), encoding="utf-8")
    show(top_table(found, roles(patterns)))
    print("\nOn the same rows, with this share of the attention heads and no task head solved anew:\n")
    show(levels_table(left))
    if lacking := [name for name in model.heads if name not in asked]:
        print(f"\nWithout dev or test rows in that data: {', '.join(lacking)}")
    print(f"\nA page to open in a browser: {page}")


def prune(
    folder: Folder,
    keep: Annotated[str, typer.Option(metavar="SHARE", help="Of the attention heads, as 60% or 0.6.")],
    out: Annotated[Path, typer.Option(help="The folder of the smaller model.")],
    data: Data = None,
    rows: Count = 200,
    refit: Annotated[bool, typer.Option("--refit/--no-refit", help="Solve task heads anew.")] = True,
    no_cache: NoCache = False,
    quiet: Quiet = False,
) -> None:
    """Cut out the attention heads that all tasks need least.

    They are ordered by their importance, as `inspect` has it, summed over tasks. Each task's head is then
    solved anew on the smaller backbone, and scored beside what it was. The result is a model like any other.
    """
    from taskheads import load
    from taskheads.attention.heads import AttentionHeads
    from taskheads.attention.pruning import check_prunable
    from taskheads.attention.smaller import parameters, smaller
    from taskheads.attention.smaller import refit as solve_anew
    from taskheads.attention.usage import asked_rows, heads_of, importance
    from taskheads.backbone.cache import FeatureCache
    from taskheads.backbone.timing import seconds_of_pass
    from taskheads.cli.output import show
    from taskheads.cli.progress import progress
    from taskheads.model.saving import check_writable
    from taskheads.report.inspected import pruned_table, pruned_words
    from taskheads.training.joint.rows import batches_of

    share = share_kept(keep)
    check_writable(out)
    model = load(folder)
    heads = heads_of(model)
    check_prunable(heads)
    suite = model.suite(data)
    asked = asked_rows(model, suite, rows)
    if lacking := [name for name in model.heads if name not in asked]:
        raise ConfigError(
            f"that data has no dev or test rows of task {lacking[0]!r}, so that what it needs is unknown"
        )
    cache = None if no_cache else FeatureCache()
    with progress(quiet=quiet) as report:
        before = model.evaluate(suite, cache=cache, progress=report)
        made = smaller(model, heads, importance(heads, model.heads, asked, report), share)
        if refit:
            solve_anew(made, suite, cache, report)
        after = made.evaluate(suite, cache=cache, progress=report)
    for score in after:
        made.card["tasks"][score.task]["test"] = score.to_json()
    made.save(out)
    show(pruned_table(before, after))
    backbones = model.backbone, made.backbone
    batch = next(batches_of(heads.backbone, asked))
    words = pruned_words(
        (sum(heads.counts), sum(AttentionHeads(made.backbone).counts)),
        (parameters(model.backbone), parameters(made.backbone)),
        seconds_of_pass(*backbones, batch),
        len(batch.ids),
    )
    print(f"\n{words}\n\nThe smaller model is in {out}")


def share_kept(text: str) -> float:
    """The share that "60%" or "0.6" says, above 0 and at most 1."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", text.strip())
    share = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"--keep {text!r} is no share of the attention heads: as 60% or 0.6")
    return share
