"""Features are what the model gives for each item alone; they are computed once, and reads do not meet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.features import Words, extract
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.reads import Read, pool
from taskheads.errors import BackboneError
from tests.backbone.models import CONFIGS, DEBERTA, tiny
from tests.backbone.tokenizers import CORPUS, KINDS

A, B, C = Read("layers.0.output", "mean"), Read("output", "max"), Read("layers.1.attention.heads", "first")
LAST, WORDS, HIDDEN = Read("output", "last"), Read("output", "words"), Read("layers.2.mlp.hidden", "words")
VOCABULARY = [*CORPUS[0].split(), *CORPUS[1].split(), "", "\x00"]


def backbone_of(architecture: str = "bert", kind: str = "wordpiece", limit: int = 24) -> Backbone:
    config = DEBERTA if architecture == "deberta" else CONFIGS[architecture]
    if kind.startswith("byte"):
        config = type(config).from_dict(config.to_dict() | {"vocab_size": 330})
    return Backbone(tiny(config), KINDS[kind](), limit=limit)


def texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(VOCABULARY, rng.integers(0, 9))) for _ in range(n)]


def sentences(n: int, longest: int = 9, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [list(map(str, rng.choice(VOCABULARY, rng.integers(0, longest)))) for _ in range(n)]


def alone(backbone: Backbone, row: Encoded, read: Read) -> torch.Tensor:
    """A read of one row that is run by itself."""
    if not len(row):
        n = 1 if not read.of_words else row.n_words
        return torch.zeros(n, backbone.width_of(read.site))
    batch = RaggedBatch([row])
    with torch.inference_mode():
        return pool(backbone.run(batch, [read.site])[read.site], batch, read.pooling)


def vectors(values: torch.Tensor | Words) -> torch.Tensor:
    return values.values if isinstance(values, Words) else values


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("bert", "wordpiece"), ("gpt2", "byte_level"), ("t5", "unigram"), ("deberta", "wordpiece")],
)
def test_features_are_those_of_each_item_alone(architecture: str, kind: str) -> None:
    backbone = backbone_of(architecture, kind, limit=40)
    tokens = backbone.tokens
    assert tokens is not None
    reads = [A, B, LAST]
    singles, pairs, rows = texts(23), list(zip(texts(9, 1), texts(9, 2), strict=True)), sentences(17, 4)
    encoded = {
        "text": tokens.texts(singles),
        "pair": tokens.pairs(*zip(*pairs, strict=True)),
        "words": tokens.words(rows),
    }
    for form, items in (("text", singles), ("pair", pairs), ("words", rows)):
        mine = reads + ([WORDS] if form == "words" else [])
        found = extract(backbone, form, items, mine, budget=40)
        for read in mine:
            expected = torch.cat([alone(backbone, row, read) for row in encoded[form]])
            got = vectors(found[read])
            assert got.dtype == torch.float32
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        if form == "words":
            assert found[WORDS].lengths == [len(row) for row in rows]


def test_other_reads_change_no_bit() -> None:
    backbone = backbone_of()
    items = sentences(60, longest=60)
    every = extract(backbone, "words", items, [A, B, C, WORDS, HIDDEN], budget=64)
    for reads in ([A], [B], [C, A], [WORDS], [HIDDEN, B]):
        for read, values in extract(backbone, "words", items, reads, budget=64).items():
            assert torch.equal(vectors(values), vectors(every[read])), read


def test_equal_items_are_computed_once() -> None:
    backbone = backbone_of()
    seen: list[tuple[int, int]] = []
    items = [*texts(12), *texts(12)[::-1], *texts(5)]
    found = extract(backbone, "text", items, [B], progress=lambda *at: seen.append(at), budget=20)[B]
    once = extract(backbone, "text", list(dict.fromkeys(items)), [B], budget=20)[B]
    assert torch.equal(found[:12], found[12:24].flip(0))
    assert torch.equal(found[:5], found[24:])
    assert torch.equal(once, found[[items.index(item) for item in dict.fromkeys(items)]])
    assert backbone.tokens is not None
    total = sum(map(len, backbone.tokens.texts(list(dict.fromkeys(items)))))
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level", "byte_level_special", "unigram"])
def test_long_rows_have_features_for_every_word(kind: str) -> None:
    backbone = backbone_of("gpt2" if kind == "byte_level" else "bert", kind, limit=16)
    long = CORPUS[0].split() * 6
    items = [long, ["fox"], long[:4], ["x" * 300, "dog"]]
    found = extract(backbone, "words", items, [WORDS, A])
    assert backbone.tokens is not None
    values = found[WORDS].values.split(found[WORDS].lengths)
    assert all((rows != 0).any(1).all() for rows in values)
    # What stands before the first cut is untouched by it.
    first = backbone.tokens.words([long])[0]
    n = int((backbone.tokens.windows([long])[0][0].words >= 0).sum())
    torch.testing.assert_close(values[0][:n], alone(backbone, first, WORDS)[:n], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[A][:1], alone(backbone, first, A), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level"])
def test_rows_without_a_token_have_zeros(kind: str) -> None:
    backbone = backbone_of("bert" if kind == "wordpiece" else "gpt2", kind)
    reads = [A, B, LAST, C]
    empty = extract(backbone, "text", ["", ""], reads)
    mixed = extract(backbone, "text", ["", "fox", ""], reads)
    for read in reads:
        assert empty[read].shape == (2, backbone.width_of(read.site))
        assert torch.isfinite(mixed[read]).all()
        assert mixed[read][1].any()
        # A tokenizer with special tokens has something to say about an empty text.
        assert mixed[read][0].any() == (kind == "wordpiece")
    words = extract(backbone, "words", [[], [""], ["", "fox"]], [WORDS, A])[WORDS]
    assert words.lengths == [0, 1, 2]
    assert words.values.any(1).tolist() == [False, False, True]
    assert extract(backbone, "text", [], [A])[A].shape == (0, backbone.width)
    assert extract(backbone, "words", [[]], [WORDS])[WORDS].values.shape == (0, backbone.width)
    assert extract(backbone, "pair", [("", "")], [A])[A].shape == (1, backbone.width)
    assert extract(backbone, "text", ["fox"], []) == {}


@pytest.mark.parametrize("pooling", ["mean", "max", "first", "last"])
@pytest.mark.parametrize("lengths", [[3, 0, 2, 0], [0, 1], [2, 0, 3], [0, 0], [4, 4, 1]])
def test_pooling_of_rows_of_no_token(pooling: str, lengths: list[int]) -> None:
    batch = RaggedBatch([Encoded(np.arange(length)) for length in lengths])
    values = torch.randn(sum(lengths), 5)
    take = {
        "mean": lambda rows: rows.mean(0),
        "max": lambda rows: rows.amax(0),
        "first": lambda rows: rows[0],
        "last": lambda rows: rows[-1],
    }[pooling]
    expected = [take(rows) if len(rows) else torch.zeros(5) for rows in values.split(lengths)]
    torch.testing.assert_close(pool(values, batch, pooling), torch.stack(expected))  # type: ignore[arg-type]


def test_means_of_short_numbers_are_not_cut_as_short() -> None:
    lengths = [3, 0, 7, 3]
    values = torch.randn(sum(lengths), 5).bfloat16()
    batch = RaggedBatch([Encoded(np.arange(length)) for length in lengths])
    means = pool(values, batch, "mean")
    torch.testing.assert_close(means, pool(values.float(), batch, "mean"), rtol=1e-6, atol=1e-6)
    assert pool(values.double(), batch, "mean").dtype == torch.float64


@pytest.mark.parametrize("pooling", ["mean", "max", "first", "last", "words"])
def test_a_batch_that_was_only_run_may_be_learnt_from(pooling: str) -> None:
    backbone = backbone_of()
    assert backbone.tokens is not None
    rows = backbone.tokens.words([["fox", "dog"], ["a"], ["the", "quick", "fox"]])
    batch = RaggedBatch(rows)
    with torch.inference_mode():
        pool(backbone.run(batch)["output"], batch, pooling)  # type: ignore[arg-type]
    pool(backbone.run(batch)["output"], batch, pooling).square().sum().backward()  # type: ignore[arg-type]
    assert all(weight.grad is not None for weight in backbone.model.encoder.layer.parameters())


def test_features_can_be_learnt_from() -> None:
    values = extract(backbone_of(), "text", texts(6), [A])[A]
    head = torch.nn.Linear(values.shape[1], 2)
    head(values).sum().backward()
    assert head.weight.grad is not None


def test_the_order_of_forms_and_items_is_the_callers() -> None:
    backbone = backbone_of()
    items = texts(40)
    straight = extract(backbone, "text", items, [A])[A]
    turned = extract(backbone, "text", items[::-1], [A])[A]
    torch.testing.assert_close(straight, turned.flip(0), atol=1e-5, rtol=1e-5)


def test_what_cannot_be_read_is_said_before_anything_runs() -> None:
    backbone = backbone_of()
    with pytest.raises(BackboneError, match="output:words reads words, but the input is of the form 'text'"):
        extract(backbone, "text", ["fox"], [WORDS])
    with pytest.raises(BackboneError, match=r"no site 'layers\.7\.output'"):
        extract(backbone, "text", ["fox"], [Read("layers.7.output", "mean")])
    with pytest.raises(BackboneError, match="'image' is not a form of input"):
        extract(backbone, "image", ["fox"], [A])  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match="has no tokenizer"):
        extract(Backbone(tiny(CONFIGS["bert"])), "text", ["fox"], [A])


def test_passes_run_one_at_a_time_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from taskheads.backbone import computing
    from tests.small_models import tiny_backbone

    backbone, lengths = tiny_backbone(), np.full(400, 8)
    monkeypatch.setattr(computing.torch, "get_num_threads", lambda: 4)
    assert computing._plan(backbone, lengths)[1] == 4
    backbone.one_at_a_time = True
    assert computing._plan(backbone, lengths)[1] == 1
