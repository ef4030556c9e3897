"""Models in which the answer travels one path: two positions back in layer 0, and one in layer 1."""

from __future__ import annotations

import numpy as np
import torch

from taskheads.attention.planted import Planted, Prompts, plant, wiring
from taskheads.attention.planted.models import _GAIN, Architecture, _maps
from taskheads.backbone.ragged import Encoded, RaggedBatch

CARRIER, RELAY = (0, 1), (1, 2)
# Positions from a row's end: where the answer stands, where it is carried to, where it is asked.
SOURCE, MIDDLE, LAST = -4, -2, -1


def relay(architecture: Architecture, loud: float = 4.0, louder: float = 1.0, noise: float = 0.0) -> Planted:
    """The carrier writes beside every token the one two before it, `loud` times as much as an embedding; the
    relay answers with what stands beside the token before, and is `louder` than the carrier."""
    planted = plant(architecture, [], noise=noise)
    every = torch.eye(wiring.BLOCK)
    rotary, shared = architecture == "llama", 2 if architecture == "llama" else 1
    # Of the opening token too: all streams are to be of one size.
    itself = {token: token for token in range(wiring.N_TOKENS)}
    carried = wiring._writing(wiring.PREVIOUS, itself, loud)
    answered = (wiring.place(wiring.PREVIOUS, every).T, wiring.place(wiring.ANSWER, every * loud * louder))
    layers = list(_maps(planted.model))
    with torch.no_grad():
        for (layer, head), distance, writes in ((CARRIER, 2, carried), (RELAY, 1, answered)):
            query, key, value, output = layers[layer]
            of_head, of_group = (
                slice(n * wiring.BLOCK, (n + 1) * wiring.BLOCK) for n in (head, head // shared)
            )
            asks, key[:, of_group] = wiring._at_distance(distance, rotary)
            # What is loud makes the rest smaller in the norm that the relay reads through.
            query[:, of_head] = asks * (1 + loud**2)
            value[:, of_group] = writes[0]
            output[of_head] = writes[1] / (1 if architecture == "bert" else _GAIN)
    return planted


def rows(count: int = 6, seed: int = 0) -> Prompts:
    draw = np.random.default_rng(seed)
    made = [
        np.array([wiring.OPENING, *draw.permutation(wiring.LETTERS)[: draw.integers(5, 10)]])
        for _ in range(count)
    ]
    answers = np.array([row[SOURCE] for row in made])
    others = np.array([row[MIDDLE] for row in made])
    return Prompts([Encoded(row) for row in made], answers, others, np.array([len(row) - 4 for row in made]))


def group(batch: RaggedBatch, position: int) -> torch.Tensor:
    """The tokens at a position from the end, bool [N]."""
    found = torch.zeros(len(batch.ids), dtype=torch.bool)
    found[batch.starts + batch.counts + position] = True
    return found
