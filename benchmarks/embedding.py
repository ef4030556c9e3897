"""Texts of mixed length embedded with one encoder: taskheads, sentence-transformers, and naive padding.

Ten thousand texts: equal parts of requests, reviews, sentences, questions, tweets and paragraphs of articles,
shuffled. Every side gives the normalised mean of the last layer, cut at the same number of tokens, computed
in float32, which the bars are about, or in what `--precision` says.

taskheads                   `extract`, nothing cached
sentence-transformers       `encode` at its defaults (it sorts by length and pads batches of 32), and at the
                            batch size that suits it best
naive padding               batches of 32 as the texts come, padded to the longest

Sides take turns in one process; the least of several rounds counts, for wall and processor seconds apart.

    python benchmarks/embedding.py --out embedding.json
    python benchmarks/embedding.py --limit 1000 --rounds 5
    python benchmarks/embedding.py --precision bfloat16
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from report import (
    Seconds,
    data_folder,
    facts,
    keep,
    model_folder,
    parser,
    show,
    show_facts,
    timed,
    use_threads,
)

TEXTS = 10_000
DEFAULT = 32
BATCH_SIZES = (8, 16, DEFAULT, 64, 128)
SENTENCES = ("clinc150", "movie_review", "sst5", "trec", "tweet_offensive", "subjectivity")
PARAGRAPHS = "clickbait_spoiling_2023"
BARS = {
    "times sentence-transformers' defaults": 1.6,
    "times its best batch size": 1.0,
    "times naive padding": 3.0,
}
Embed = Callable[[Sequence[str]], Any]
Figures = dict[str, Any]


def mixed_texts(folder: Path, count: int, seed: int = 0) -> list[str]:
    """`count` different texts, as many from each set as from any other."""
    sets = [[row["text"] for row in _rows(folder / name / "train.jsonl")] for name in SENTENCES]
    articles = [
        row for split in ("validation", "test") for row in _rows(folder / PARAGRAPHS / f"{split}.jsonl")
    ]
    sets.append([paragraph for row in articles for paragraph in row["targetParagraphs"]])
    rng = random.Random(seed)
    share = -(-count // len(sets))
    chosen = [text for texts in sets for text in rng.sample(sorted(set(texts)), share)]
    rng.shuffle(chosen)
    return chosen[:count]


def _rows(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def sentence_transformers(peer: Any, batch_size: int) -> Embed:
    return lambda texts: peer.encode(
        list(texts),
        batch_size=batch_size,
        normalize_embeddings=True,
        show_progress_bar=False,
        convert_to_tensor=True,
    )


def naive_padding(limit: int, precision: str) -> Embed:
    """What a first script does with transformers alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    model = AutoModel.from_pretrained(model_folder(), dtype=precision).eval()

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> Any:
        parts = []
        for start in range(0, len(texts), DEFAULT):
            some = list(texts[start : start + DEFAULT])
            inputs = tokenizer(some, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            mask = inputs["attention_mask"].unsqueeze(-1)
            parts.append((model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1))
        return torch.nn.functional.normalize(torch.cat(parts))

    return embed


def taskheads(limit: int, precision: Any) -> Embed:
    import torch

    from taskheads.backbone.backbone import Backbone
    from taskheads.backbone.features import extract
    from taskheads.backbone.reads import Read

    backbone = Backbone.load("minilm", limit=limit, precision=precision)
    mean = Read("output", "mean")
    return lambda texts: torch.nn.functional.normalize(extract(backbone, "text", texts, [mean])[mean])


def race(sides: dict[str, Embed], texts: Sequence[str], rounds: int) -> tuple[dict[str, Seconds], Figures]:
    """The least seconds of each side, and how far its vectors are from the first side's."""
    taken: dict[str, list[Seconds]] = {name: [] for name in sides}
    apart: Figures = {}
    for _ in range(rounds):
        reference = None
        for name, embed in sides.items():
            vectors, seconds = timed(lambda embed=embed: embed(texts))
            taken[name].append(seconds)
            reference = vectors if reference is None else reference
            apart[name] = float((vectors - reference).abs().max())
    return {name: Seconds.best(several) for name, several in taken.items()}, apart


def multiplications(
    tokens: int, backbone_widths: tuple[int, int, int], precision: str, repeats: int = 3
) -> Seconds:
    """The encoder's linear maps alone, on so many tokens at once, one thread, in seconds for all `tokens`.

    What no side can fall below, attention, norms and activations being free: processor seconds; on the wall,
    divided by the threads.
    """
    import torch

    width, hidden, layers = backbone_widths
    shapes = [(width, width)] * 4 + [(width, hidden), (hidden, width)]
    some = 2048
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dtype = getattr(torch, precision)
    maps = [torch.nn.Linear(*shape, dtype=dtype) for shape in shapes]
    inputs = {size: torch.randn(some, size, dtype=dtype) for size in {width, hidden}}

    @torch.inference_mode()
    def multiply() -> None:
        for _ in range(layers):
            for each in maps:
                each(inputs[each.in_features])

    best = Seconds.best([timed(multiply)[1] for _ in range(repeats)])
    torch.set_num_threads(threads)
    return Seconds(best.wall * tokens / some / threads, best.cpu * tokens / some)


def main(arguments: Sequence[str] | None = None) -> Figures:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="least of so many counts; default: 3")
    options.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what every side computes in; default: float32, which the bars are about",
    )
    chosen = options.parse_args(arguments)
    use_threads(chosen.threads)
    known = facts(chosen.threads)
    show_facts(known)
    texts = mixed_texts(data_folder(), min(chosen.limit or TEXTS, TEXTS))

    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    precision = chosen.precision
    peer = SentenceTransformer(model_folder(), device="cpu", model_kwargs={"dtype": precision})
    limit = int(peer.max_seq_length)
    lengths = [min(len(ids), limit) for ids in peer.tokenizer(list(texts))["input_ids"]]

    # The peer's best batch size is found on a part of the texts that is as mixed as the whole.
    some = texts[: max(len(texts) // 5, 1)]
    tried, _ = race({str(size): sentence_transformers(peer, size) for size in BATCH_SIZES}, some, 2)
    best = int(min(tried, key=lambda size: tried[size].wall))
    default, at_best = "sentence-transformers, defaults", f"sentence-transformers, batches of {best}"
    mine, naive = "taskheads", "naive padding, batches of 32"
    sides = {
        default: sentence_transformers(peer, DEFAULT),
        mine: taskheads(limit, precision),
        at_best: sentence_transformers(peer, best),
        naive: naive_padding(limit, precision),
    }
    seconds, apart = race(sides, texts, chosen.rounds)
    floor = multiplications(sum(lengths), (384, 1536, 6), precision)

    title = f"{len(texts)} texts, {sum(lengths)} tokens, at most {limit} a text, {precision}"
    rows = [
        [
            name,
            f"{s.wall:.2f}",
            f"{s.cpu:.2f}",
            f"{len(texts) / s.wall:.0f}",
            f"{s.wall / seconds[mine].wall:.2f}",
        ]
        for name, s in seconds.items()
    ]
    rows.append(["its linear maps alone", f"{floor.wall:.2f}", f"{floor.cpu:.2f}", "", ""])
    for row, name in zip(rows, sides, strict=False):
        row.append(f"{apart[name]:.0e}")
    rows[-1].append("")
    show(title, ("side", "wall s", "processor s", "texts/s", "x taskheads", "largest difference"), rows)
    values = [seconds[name].wall / seconds[mine].wall for name in (default, at_best, naive)]
    bars = []
    bounds = BARS if precision == "float32" else {}
    for (name, bound), value in zip(bounds.items(), values, strict=False):
        bars.append({"name": name, "value": value, "sign": ">=", "bound": bound, "met": value >= bound})
        print(f"{name}: {value:.2f}, to be >= {bound}: {'met' if value >= bound else 'MISSED'}")
    record = {
        "benchmark": "embedding",
        "facts": known,
        "texts": len(texts),
        "tokens": sum(lengths),
        "limit": limit,
        "precision": precision,
        "batch_sizes": {size: asdict(each) for size, each in tried.items()},
        "seconds": {name: asdict(each) for name, each in seconds.items()},
        "linear_maps": asdict(floor),
        "largest_difference": apart,
        "bars": bars,
    }
    keep(chosen.out, record)
    return record


if __name__ == "__main__":
    main()
