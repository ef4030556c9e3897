"""A report as a real run makes it: eight tasks, one of 150 labels, all parts there. All of it is made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

VERBS = ("ask", "set", "cancel", "find", "change", "report", "book", "pay", "play", "tell")
NOUNS = (
    *("flight", "card", "alarm", "meeting", "recipe", "account", "route", "song"),
    *("weather", "reminder", "bill", "hotel", "ticket", "timer", "joke"),
)
INTENTS = [f"{verb}_{noun}" for verb in VERBS for noun in NOUNS]
TREC = ["abbreviation", "description", "entity", "human", "location", "number"]
BIO = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
POS = ["ADJ", "ADP", "ADV", "NOUN", "PRON", "VERB"]
BANKING = ["account", "cancel", "card", "loan"]
TEXTS = (
    "could you move the meeting with Anna to next Thursday, please",
    "what is the fastest way from the airport to the old town at night",
    "I was charged twice for the same ticket and nobody answers the phone; this is the third time that I "
    "write about it, and I would like to know when somebody is going to look into it",
    "play something calm",
    "the film is neither as deep nor as funny as it believes itself to be",
)

# name: kind, metric, labels, kept, half an interval; scores of majority, frozen, alone, shared, private.
SHAPES: dict[str, tuple[str, str, list, str, float, tuple]] = {
    "intent": ("classify", "accuracy", INTENTS, "shared", 0.008, (0.007, 0.912, 0.951, 0.948, None)),
    "question_type": ("classify", "accuracy", TREC, "shared", 0.026, (0.276, 0.848, 0.89, 0.902, None)),
    "sentiment": (
        *("ordinal", "quadratic_kappa", [1, 2, 3, 4, 5], "shared", 0.02),
        (0.0, 0.671, 0.742, 0.733, None),
    ),
    "similarity": ("pair", "spearman", [], "frozen", 0.015, (0.412, 0.853, 0.861, 0.822, 0.848)),
    "entities": ("tag", "entity_f1", BIO, "private", 0.035, (0.0, 0.421, 0.462, 0.447, 0.455)),
    "slots": ("tag", "accuracy", POS, "shared", 0.006, (0.61, 0.921, 0.954, 0.957, None)),
    "banking": ("multilabel", "micro_f1", BANKING, "shared", 0.016, (0.184, 0.871, 0.889, 0.874, None)),
    "minutes_to_answer": ("regress", "mae", [], "shared", 1.8, (41.2, 23.6, None, 22.9, None)),
}


def example(names: Sequence[str] = tuple(SHAPES), seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    tasks = {name: _task(draw, *SHAPES[name]) for name in names}
    return {
        "title": "One model for a help desk",
        "created": "2026-11-21 06:30 UTC",
        "backbone": "all-MiniLM-L6-v2",
        "version": "0.2.0",
        "hardware": "8 cores, 16 GiB of memory, no GPU",
        "tune": "auto",
        "stages": [
            {"name": "features", "seconds": 41.2, "peak_bytes": 1_400_000_000},
            {"name": "frozen heads", "seconds": 12.3, "peak_bytes": 900_000_000},
            {"name": "joint tuning", "seconds": 612.0, "peak_bytes": 3_100_000_000},
            {"name": "private top layers", "seconds": 95.0, "peak_bytes": 2_200_000_000},
            {"name": "scores", "seconds": 8.8, "peak_bytes": None},
        ],
        "tasks": tasks,
        "curves": _curves(draw, tasks),
        "similarity": _similarity(draw, list(names)),
    }


def confusion(draw: np.random.Generator, labels: list, rows: int = 30, right: float = 0.93) -> dict[str, Any]:
    """Labels in families of three, drawn apart, within which nearly all confusions lie."""
    size = len(labels)
    family = draw.permutation(size) // 3
    cells: dict[tuple[int, int], int] = {}
    for truth in range(size):
        near = [each for each in np.flatnonzero(family == family[truth]) if each != truth]
        for _ in range(rows):
            answer = truth
            if draw.uniform() > right:
                answer = (
                    int(draw.choice(near)) if near and draw.uniform() < 0.85 else int(draw.integers(size))
                )
            cells[truth, answer] = cells.get((truth, answer), 0) + 1
    return {
        "labels": [str(label) for label in labels],
        "cells": [[*at, count] for at, count in sorted(cells.items())],
    }


def _task(
    draw: np.random.Generator, kind: str, metric: str, labels: list, kept: str, half: float, values: tuple
) -> dict[str, Any]:
    majority, frozen, alone, shared, private = values

    def measured(value: float | None, width: float = half) -> dict[str, float] | None:
        return None if value is None else {"value": value, "low": value - width, "high": value + width * 0.9}

    scores = {"frozen": frozen, "shared": shared, "private": private}
    gain = (scores[kept] - frozen) * (-1 if metric == "mae" else 1)
    return {
        "kind": kind,
        "metric": metric,
        "rows": {"train": 15000, "dev": 3000, "test": 4500},
        "labels": labels,
        "scores": {"majority": {"value": majority}, "alone": measured(alone)}
        | {key: measured(value) for key, value in scores.items()},
        "dev": {key: value + 0.004 for key, value in scores.items() if value is not None},
        "kept": kept,
        "gain": measured(gain, half * 0.6 if gain else 0.0),
        "others": {"macro_f1": 0.9012} if kind == "classify" else {},
        "findings": {
            "confusion": confusion(draw, labels) if labels and kind != "multilabel" else None,
            "reliability": _reliability(draw, kind) if labels else None,
            "errors": _errors(draw, kind, labels),
        },
    }


def _reliability(draw: np.random.Generator, kind: str) -> dict[str, Any]:
    def bins(bent: float) -> dict[str, Any]:
        made = []
        for at in range(2, 15):
            confidence = (at + 0.5) / 15
            accuracy = float(np.clip(confidence**bent + draw.normal(scale=0.012), 0, 1))
            made.append(
                {
                    "low": at / 15,
                    "high": (at + 1) / 15,
                    "confidence": confidence,
                    "accuracy": accuracy,
                    "count": int(3 * 1.55**at),
                }
            )
        total = sum(each["count"] for each in made)
        ece = sum(each["count"] * abs(each["accuracy"] - each["confidence"]) for each in made) / total
        return {"equal_width": {"ece": ece, "bins": made}, "equal_mass": {"ece": ece * 1.04, "bins": made}}

    scaled = kind in ("classify", "tag", "pair")
    of = {"tag": "words", "multilabel": "labels"}.get(kind, "rows")
    return {"of": of, "before": bins(1.6) if scaled else None, "after": bins(1.05)}


def _errors(draw: np.random.Generator, kind: str, labels: list) -> dict[str, Any]:
    measure = {"regress": "distance", "tag": "wrong tags", "multilabel": "wrong labels"}.get(
        kind, "confidence"
    )
    rows = []
    for at in range(12):
        text = str(draw.choice(TEXTS))
        truth, answer = draw.choice(labels, 2, replace=False).tolist() if labels else (12.5, 48.25)
        if kind == "tag":
            word = text.split()[at % 3]
            truth, answer = [f"{word}/{truth}"], [f"{word}/{answer}"]
        elif kind == "multilabel":
            truth, answer = [truth], [answer, truth]
        rows.append(
            {
                "inputs": {"text": text, "other": text.title()} if kind == "pair" else {"text": text},
                "truth": truth,
                "answer": answer,
                "score": 0.999 - at * 0.017,
                "file": "data/test.jsonl",
                "row": int(draw.integers(1, 4500)),
            }
        )
    return {"measure": measure, "wrong": 219, "rows": rows}


def _curves(draw: np.random.Generator, tasks: dict[str, Any]) -> dict[str, Any]:
    steps = np.arange(1, 1201)
    loss = {}
    dev = {}
    for name, task in tasks.items():
        start, end = draw.uniform(1.5, 4), draw.uniform(0.1, 0.8)
        values = end + (start - end) * np.exp(-steps / 180) + draw.normal(scale=0.12, size=len(steps))
        loss[name] = [[int(step), float(value)] for step, value in zip(steps, np.abs(values), strict=True)]
        last, frozen = task["dev"]["shared"], task["dev"]["frozen"]
        low = frozen * 0.85
        dev[name] = [
            [step, float(low + (last - low) * (1 - np.exp(-step / 250)) + draw.normal(scale=0.003 * last))]
            for step in range(100, 1201, 100)
        ]
    warm = [[int(step), float(5e-5 * min(step / 120, (1200 - step) / 1080))] for step in steps[::10]]
    speed = [[int(step), float(draw.normal(9400, 250))] for step in steps[::10]]
    return {"loss": loss, "dev": dev, "tokens_per_second": speed, "learning_rate": warm}


def _similarity(draw: np.random.Generator, names: list[str]) -> dict[str, Any]:
    """Groups are every third task."""
    count = len(names)
    group = np.arange(count) % 3
    gradient = np.where(
        group[:, None] == group,
        draw.uniform(0.3, 0.7, (count, count)),
        draw.uniform(-0.25, 0.05, (count, count)),
    )
    gradient = (gradient + gradient.T) / 2
    np.fill_diagonal(gradient, 1.0)
    return {
        "tasks": names,
        "gradient": gradient.tolist(),
        "representation": (np.abs(gradient) ** 0.5).tolist(),
        "groups": [[names[i] for i in np.flatnonzero(group == each)] for each in np.unique(group)],
    }
