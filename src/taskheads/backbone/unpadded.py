"""Whether a model can run without padding: it is tried."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.running import Batch, Pass
from taskheads.backbone.sites import Layout
from taskheads.errors import BackboneError

_TOLERANCE = 1e-3


def why_padded(model: Any, layout: Layout, probe: Batch) -> str | None:
    """Try the rows of `probe` end to end against padded ones; the sentence that says what is wrong, or None.

    In few bits the two differ by as much as with some models that mix rows. So there a row is also held
    against itself beside other rows, which changes nothing but where rows are mixed.
    """
    assert isinstance(probe, RaggedBatch)
    name = type(model).__name__
    if not layout.has_attention:
        return f"{name} does not use the attention interface of transformers"

    def output(batch: RaggedBatch, *, ragged: bool) -> torch.Tensor:
        return Pass(layout, ["output"], Changes(), ragged=ragged).run(model, batch)["output"]

    try:
        with torch.inference_mode():
            packed, padded = output(probe, ragged=True), output(probe, ragged=False)
            largest, digit = padded.abs().max().clamp_min(1e-12), torch.finfo(padded.dtype).eps
            apart = bool((packed - padded).abs().max() / largest < max(_TOLERANCE, 8 * digit))
            if apart and 8 * digit > _TOLERANCE:
                first = probe.lengths[0]
                moved = packed[:first] - output(_beside_others(probe), ragged=True)[:first]
                apart = bool(moved.abs().max() / largest < digit)
    except (BackboneError, RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        return f"{name} cannot run without padding ({str(error).splitlines()[0]})"
    return None if apart else f"{name} mixes rows when it runs without padding"


def _beside_others(batch: RaggedBatch) -> RaggedBatch:
    """The first row as it is, beside rows of the same lengths with other tokens."""
    first = batch.lengths[0]
    ids = torch.cat([batch.ids[:first], batch.ids[first:].flip(0)]).numpy()
    return RaggedBatch([Encoded(row) for row in np.split(ids, np.cumsum(batch.lengths)[:-1])])
