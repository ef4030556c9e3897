"""Which reads a head may stand on: the choice that each task makes on dev."""

from __future__ import annotations

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.reads import Pooling, Read
from taskheads.heads import Head
from taskheads.heads.head import Form
from taskheads.tasks.task import Task

# Features wider than this cost more to solve for than they bring; vectors that are kept and searched, as
# those of `embed` tasks are, should be short.
WIDEST = 3200
WIDEST_EMBEDDING = 1024


def candidates(backbone: Backbone, form: Form) -> list[tuple[Read, ...]]:
    """Sets of reads, simplest first: the last hidden state; two and three heights of the backbone; all of
    them, as far as `WIDEST` allows.

    Rows are pooled by their mean, words by their first token; a decoder's last token is one more candidate,
    since there it alone has seen the whole row.
    """
    pooling: Pooling = "words" if form == "words" else "mean"
    sites = ["embeddings", *(f"layers.{k}.output" for k in range(backbone.n_layers - 1)), "output"]
    counts = [1, 2, 3]
    if form != "words":
        counts.append(max(3, min(len(sites), WIDEST // backbone.width)))
    found = [tuple(Read(site, pooling) for site in _spread(sites, count)) for count in counts]
    if backbone.causal and form != "words":
        found.insert(1, (Read("output", "last"),))
    return list(dict.fromkeys(found))


def candidates_for(backbone: Backbone, head: type[Head], task: Task) -> list[tuple[Read, ...]]:
    """The candidates of a task, those left out whose features would be too wide."""
    widest = WIDEST_EMBEDDING if task.kind == "embed" else WIDEST
    found = candidates(backbone, head.requests_of(task)[0].form)
    return [reads for reads in found if head(task, reads, backbone.width).features <= widest] or found[:1]


def single_candidates(backbone: Backbone, head: type[Head], task: Task) -> list[tuple[Read, ...]]:
    """The candidates of a task that are one read of the backbone's output."""
    return [reads for reads in candidates_for(backbone, head, task) if len(reads) == 1]


def _spread(sites: list[str], count: int) -> list[str]:
    """`count` of the sites, evenly spaced from the last one down; the embeddings only where all are taken."""
    if count < len(sites):
        sites = sites[1:]
    count = min(count, len(sites))
    step = len(sites) / count
    return [sites[round(len(sites) - 1 - step * k)] for k in range(count)]
