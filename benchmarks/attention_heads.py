"""What reading and changing attention heads costs, beside a loop of hooked passes (TransformerLens, if it is
installed), on a GPT-2 of the usual small size with random weights.

  sweep        silencing every head alone: one hooked pass for each, against `effects`; and how far both are
               from passes in double precision, at worst and in the mean, over the same heads. What is left is
               the rounding of float32, which both have.
  attribution  all heads from gradients, and how well the best of them agree with the exact sweep.
  edges        every edge between two heads, from gradients.
  reading      the outputs of all heads, and an attached backbone that is not used, beside a plain pass.
  statistics   six numbers of the patterns of one layer at 2,048 positions, beside eager attention.
  pruning      a model with 60 % of its heads: its time beside what its operations say.
  loading      what a backbone adds to a model that is in memory.
  exceptions   what a change that fails inside a pass leaves behind.
  page         the bytes of a page with the patterns of all heads over 512 tokens, beside all weights as text.

Times are those of processors, the least of several. A loop over all heads is one pass, many times.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import numpy as np

from attention_heads_clocks import in_turn, least, watched
from attention_heads_kept import exceptions, loading, page
from attention_heads_sides import PEER, SIZES, Mine, Peer, eager_statistics, mine_statistics, model, tokens
from report import facts, keep, parser, show, show_facts, timed, use_threads

PARTS = (
    *("sweep", "attribution", "edges", "reading", "statistics", "pruning"),
    *("loading", "exceptions", "page"),
)


def sweep(size: str, shape: tuple[int, int]) -> dict[str, Any]:
    """At more than 1,024 tokens one head stands for its layer, and every third layer, with the last two, for
    all: the heads of a layer cost the same, and the layers between lie on a line."""
    plain = model(size)
    ids = tokens(plain, *shape)
    mine, peer = Mine(plain, ids), Peer(plain, ids)
    layers, heads = mine.heads.shape
    whole = ids.size <= 1024
    sampled = range(layers) if whole else sorted({*range(0, layers, 3), layers - 2, layers - 1})
    which = [(n, h) for n in sampled for h in range(heads if whole else 1)]
    middle = layers // 2
    theirs = least(lambda: peer.without(middle, 0), 2) * layers * heads
    if whole:
        exact, seconds = timed(mine.sweep)
        own = min(seconds.cpu, least(mine.sweep, 2))
    else:
        shared = least(lambda: mine.sweep([]), 2)  # what all heads share is paid once
        costs = [least(lambda head=head: mine.sweep([head]), 2) - shared for head in which]
        own = shared + heads * float(np.interp(range(layers), sampled, costs).sum())
        exact = mine.sweep(which)
    truth = Peer(plain.double(), ids, hooks_alone=True)
    off, theirs_off = [], []
    # Coprime to the heads of a layer, so that these are of all layers and of all numbers.
    for layer, head in which[:: 5 if whole else max(1, len(which) // 6)]:
        right = truth.effect(layer, head)
        off.append(abs(float(exact[layer, head]) - right))
        theirs_off.append(abs(peer.effect(layer, head) - right))
    return {
        "rows": shape[0],
        "tokens": shape[1],
        "peer_s": theirs,
        "own_s": own,
        "ratio": theirs / own,
        "own_error": max(off),
        "peer_error": max(theirs_off),
        "own_mean_error": float(np.mean(off)),
        "peer_mean_error": float(np.mean(theirs_off)),
        "compared": len(off),
    }


def attribution(size: str, shape: tuple[int, int]) -> dict[str, Any]:
    from taskheads.attention.scores import HeadScores

    plain = model(size)
    ids = tokens(plain, *shape)
    mine, peer = Mine(plain, ids), Peer(plain, ids)
    own, other = in_turn(mine.estimated, lambda: peer.without(0, 0), times=4)
    layers, heads = mine.heads.shape
    estimate, exact = HeadScores.of(mine.estimated()), HeadScores.of(mine.sweep())
    sizes = [HeadScores.of(each.values.abs()) for each in (estimate, exact)]
    top = [set(each.top(20)) for each in sizes]
    return {
        "own_s": own,
        "peer_s": other * layers * heads,
        "ratio": other * layers * heads / own,
        "rank_correlation": estimate.rank_correlation(exact),
        "top_20_in_common": len(top[0] & top[1]),
    }


def edges(size: str, shape: tuple[int, int]) -> dict[str, Any]:
    plain = model(size)
    mine = Mine(plain, tokens(plain, *shape))
    values = mine.edges()
    layers, heads = mine.heads.shape
    return {
        "own_s": least(mine.edges),
        "edges": layers * (layers - 1) // 2 * heads * heads * 3,
        "finite": bool(values.isfinite().all()),
    }


def reading(size: str, shape: tuple[int, int]) -> dict[str, Any]:
    import torch

    plain = model(size)
    ids = tokens(plain, *shape)
    other = model(size)
    mine = Mine(other, ids)
    rows = torch.from_numpy(ids)
    with torch.inference_mode():
        same = bool(torch.equal(plain(input_ids=rows).logits, other(input_ids=rows).logits))
        bare, attached, ran, read = in_turn(
            lambda: plain(input_ids=rows), lambda: other(input_ids=rows), mine.forward, mine.read
        )
        logits, _ = mine.read()
        undisturbed = bool(torch.equal(logits, mine.forward()))
    return {
        "plain_s": bare,
        "attached": attached / bare,
        "run": ran / bare,
        "read_all_heads": read / bare,
        "attached_bit_identical": same,
        "read_bit_identical": undisturbed,
    }


def statistics(size: str, length: int) -> dict[str, Any]:
    import torch

    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = {side: pool.apply(_statistics, (side, size, length)) for side in ("eager", "mine")}
    apart = 0.0  # beside the number itself, where that is above 1
    for name, values in found["mine"]["values"].items():
        theirs = torch.tensor(found["eager"]["values"][name])
        apart = max(apart, float(((torch.tensor(values) - theirs).abs() / theirs.abs().clamp_min(1)).max()))
    eager, mine = found["eager"], found["mine"]
    return {
        "eager_s": eager["cpu"],
        "own_s": mine["cpu"],
        "time": mine["cpu"] / eager["cpu"],
        "eager_mb": eager["mb"],
        "own_mb": mine["mb"],
        "memory": mine["mb"] / eager["mb"],
        "apart": apart,
    }


def _statistics(side: str, size: str, length: int) -> dict[str, Any]:
    """In a process of its own: seconds, memory at its highest above that of the plain pass, and values."""
    import torch

    use_threads(1)
    import transformers as hf

    SIZES[size] = SIZES[size] | {"n_positions": max(1024, length)}
    plain: hf.GPT2LMHeadModel = model(size)
    ids = tokens(plain, 1, length)
    with torch.inference_mode():
        work, base = (mine_statistics if side == "mine" else eager_statistics)(plain, ids)
        base()
        values, megabytes = watched(work)
        seconds, alone = least(work, 3), least(base, 3)
    return {
        "cpu": max(seconds - alone, 1e-9),
        "mb": max(megabytes, 0.1),
        "values": {name: each.tolist() for name, each in values.items()},
    }


def pruning(size: str, shape: tuple[int, int]) -> dict[str, Any]:
    import torch

    from taskheads.attention.pruning import pruned, weakest
    from taskheads.attention.scores import HeadScores

    plain = model(size)
    mine = Mine(plain, tokens(plain, *shape))
    scores = HeadScores.of(torch.rand(mine.heads.shape, generator=torch.Generator().manual_seed(0)))
    small = pruned(mine.heads, weakest(mine.heads, scores, 0.6))
    with torch.inference_mode():
        whole, less = in_turn(lambda: mine.backbone.run(mine.batch), lambda: small.run(mine.batch))
    wide, narrow = (_operations(each.model, shape[1]) for each in (mine.backbone, small))
    return {"time": less / whole, "operations": narrow / wide, "off": (less / whole) / (narrow / wide) - 1}


def _operations(body: Any, length: int) -> float:
    """Multiplications a token: of all linear maps, and of attention over half of the row on average."""
    maps = sum(m.weight.numel() for m in body.modules() if type(m).__name__ == "Conv1D")
    attention = sum(block.attn.c_proj.nx for block in body.h) * length
    return float(maps + attention)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--size", choices=list(SIZES), default="gpt2")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--rows", type=int, default=32, help="of 64 tokens, in the larger sweep; default 32")
    options.add_argument("--length", type=int, default=2048, help="positions of the statistics; default 2048")
    given = options.parse_args()
    use_threads(given.threads)
    known = facts(given.threads)
    show_facts(known)
    record: dict[str, Any] = {"facts": known, "peer": PEER, "size": given.size}
    if "sweep" in given.parts:
        record["sweep"] = [sweep(given.size, (rows, 64)) for rows in dict.fromkeys((1, given.rows))]
        columns = ["rows x 64", f"{PEER}, s", "taskheads, s", "ratio"]
        columns += ["its error", "our error", "its mean error", "our mean error", "over heads"]
        lines = [
            [
                r["rows"],
                f"{r['peer_s']:.1f}",
                f"{r['own_s']:.2f}",
                f"{r['ratio']:.2f}",
                f"{r['peer_error']:.1e}",
                f"{r['own_error']:.1e}",
                f"{r['peer_mean_error']:.1e}",
                f"{r['own_mean_error']:.1e}",
                r["compared"],
            ]
            for r in record["sweep"]
        ]
        show("Every head silenced alone, exactly", columns, lines)
    for name, measured in _one_line_each(given).items():
        record[name] = measured()
        show(name, list(record[name]), [[_short(value) for value in record[name].values()]])
    keep(given.out, record)


def _one_line_each(given: Any) -> dict[str, Callable[[], dict[str, Any]]]:
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "attribution": lambda: attribution(given.size, (1, 64)),
        "edges": lambda: edges(given.size, (1, 64)),
        "reading": lambda: reading(given.size, (min(8, given.rows), 64)),
        "statistics": lambda: statistics(given.size, given.length),
        "pruning": lambda: pruning(given.size, (min(8, given.rows), 64)),
        "loading": lambda: loading(given.size),
        "exceptions": lambda: exceptions(given.size, (1, 64)),
        "page": lambda: page(given.size, min(512, given.length)),
    }
    return {name: work for name, work in found.items() if name in given.parts}


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
