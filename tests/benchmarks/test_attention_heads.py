"""The benchmark of attention heads: both sides measure the same thing."""

from __future__ import annotations

import pytest


@pytest.fixture
def bench(script, monkeypatch):
    sides = script("attention_heads_sides")
    monkeypatch.setattr(sides, "find_spec", lambda _: None)  # plain hooks, whatever is installed
    return script("attention_heads"), sides


def test_the_sweep_is_the_loop(bench):
    script, _ = bench
    for shape in ((1, 16), (40, 30)):  # the second in samples
        found = script.sweep("small", shape)
        assert found["own_error"] < 1e-6
        assert found["ratio"] > 0


def test_reading_disturbs_nothing(bench):
    found = bench[0].reading("small", (2, 16))
    assert found["attached_bit_identical"]
    assert found["read_bit_identical"]


def test_nothing_is_copied_and_nothing_is_left_behind(bench):
    script, _ = bench
    found = script.loading("small")
    assert found["same_addresses"]
    assert found["none_of_its_own"]
    found = script.exceptions("small", (1, 16))
    assert found == {
        "exceptions": 6,
        "hooks_left": 0,
        "backbone_bit_identical": True,
        "model_bit_identical": True,
    }


def test_a_page_is_small_and_right(bench):
    found = bench[0].page("small", 64)
    assert found["apart_in_255ths"] <= 0.5 + 1e-3
    assert (found["heads"], found["tokens"], found["keys_a_token"]) == (12, 64, 16)
    assert found["page_mb"] < 0.1 < found["all_weights_as_text_mb"]


def test_statistics_are_those_of_eager_attention(bench):
    import torch

    sides = bench[1]
    plain = sides.model("small")
    ids = sides.tokens(plain, 1, 40)
    with torch.inference_mode():
        mine, theirs = (made(plain, ids)[0]() for made in (sides.mine_statistics, sides.eager_statistics))
    assert list(mine) == list(theirs)
    for name, values in mine.items():
        torch.testing.assert_close(values, theirs[name], atol=1e-5, rtol=1e-5)


def test_the_pruned_model_does_fewer_operations(bench):
    assert bench[0].pruning("small", (2, 16))["operations"] < 1
