"""The parts of `attention_heads.py` about what stays as it was, and about the bytes of a page."""

from __future__ import annotations

import json
from multiprocessing import get_context
from typing import Any

import numpy as np

from attention_heads_clocks import watched
from attention_heads_sides import Mine, model, tokens
from report import use_threads


def loading(size: str) -> dict[str, Any]:
    """Bytes that a backbone and its attention heads add to a model that is there, in a process of its own."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(_loading, (size,))


def _loading(size: str) -> dict[str, Any]:
    use_threads(1)
    Mine(model("small"), tokens(model("small"), 1, 8))  # what is imported and made once is not the model's
    plain = model(size)
    weights = plain.state_dict()
    before = {name: each.data_ptr() for name, each in weights.items()}
    ids = tokens(plain, 1, 8)
    made, megabytes = watched(lambda: Mine(plain, ids))
    found = {each.data_ptr() for each in made.backbone.model.parameters()}
    return {
        "weights_mb": sum(
            each.nbytes for each in {each.data_ptr(): each for each in weights.values()}.values()
        )
        / 2**20,
        "added_mb": megabytes,
        "same_addresses": before == {name: each.data_ptr() for name, each in plain.state_dict().items()},
        "none_of_its_own": found <= set(before.values()),
    }


def exceptions(size: str, shape: tuple[int, int]) -> dict[str, Any]:
    """A change of each layer's attention heads fails inside a pass: what is left behind, and what comes out
    afterwards."""
    import torch

    plain = model(size)
    ids = tokens(plain, *shape)
    mine, rows = Mine(plain, ids), torch.from_numpy(ids)

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with torch.inference_mode():
        outputs = mine.forward(), plain(input_ids=rows).logits
        hooks, raised = _hooks(plain), 0
        for layer in range(mine.heads.n_layers):
            for part in ("heads", "pattern"):
                try:
                    mine.backbone.run(mine.batch, changes={f"layers.{layer}.attention.{part}": fail})
                except ZeroDivisionError:
                    raised += 1
        same = [
            bool(torch.equal(*pair))
            for pair in zip(outputs, (mine.forward(), plain(input_ids=rows).logits), strict=True)
        ]
    return {
        "exceptions": raised,
        "hooks_left": _hooks(plain) - hooks,
        "backbone_bit_identical": same[0],
        "model_bit_identical": same[1],
    }


def page(size: str, length: int) -> dict[str, Any]:
    """The page of all attention heads with their patterns over one row, beside all weights as text, which is
    what viewers put into theirs."""
    import torch

    from taskheads.attention.excerpts import excerpts
    from taskheads.attention.scores import HeadScores
    from taskheads.backbone.ragged import Encoded
    from taskheads.report.page.heads import heads_page
    from taskheads.report.page.patterns import drawn_excerpts
    from taskheads.training.joint.rows import TaskRows

    plain = model(size)
    mine = Mine(plain, tokens(plain, 1, length))
    row = Encoded(mine.batch.ids.numpy())
    rows = TaskRows(([row],), torch.zeros(1), None, np.asarray([length]))
    (found,) = excerpts(mine.heads, {"task": rows})
    drawn = torch.rand(1, *mine.heads.shape, generator=torch.Generator().manual_seed(0))
    patterns = {name: HeadScores.of(drawn[0]) for name in ("previous token", "first token", "entropy")}
    html = heads_page(
        HeadScores(drawn, drawn / 10, tasks=("task",)),
        patterns,
        title="Attention heads",
        excerpts=drawn_excerpts([found], None),
    )
    site = "layers.0.attention.pattern"
    with torch.inference_mode():
        whole = mine.backbone.run(mine.batch, [site])[site].transpose(0, 1)
    keys, weights = (torch.from_numpy(each[0].astype(np.int64)) for each in (found.keys, found.weights))
    apart = (whole.gather(2, keys) - weights / 255)[weights > 0].abs().max()
    layers, heads = mine.heads.shape
    text = len(json.dumps(whole[0].tolist())) * layers * heads
    return {
        "heads": layers * heads,
        "tokens": length,
        "keys_a_token": found.keys.shape[3],
        "page_mb": len(html.encode()) / 1e6,
        "all_weights_as_text_mb": text / 1e6,
        "ratio": text / len(html.encode()),
        "apart_in_255ths": 255 * float(apart),
    }


def _hooks(plain: Any) -> int:
    """How many functions stand on the modules of a model, beside their own."""
    return sum(
        len(each)
        for module in plain.modules()
        for name, each in vars(module).items()
        if name.endswith("hooks") and each
    ) + sum("forward" in vars(module) for module in plain.modules())
