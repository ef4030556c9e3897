"""The page of attention heads: small, and in a browser it shows the very patterns that it was given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from taskheads.attention.excerpts import Excerpt, excerpts
from taskheads.attention.levels import Level
from taskheads.attention.scores import HeadScores
from taskheads.attention.usage import heads_of
from taskheads.model.evaluation import Score
from taskheads.report.page.heads import heads_page
from taskheads.report.page.patterns import drawn_excerpts
from taskheads.training.joint.rows import encoded_rows
from tests.attention.test_usage import labelled
from tests.report.test_page import Parsed
from tests.serve.browser import Browser
from tests.small_models import tiny_model

TASKS = ("topic", "<b>&size")
EVERY = {"previous token": 0.2, "first token": 0.6, "entropy": 1.5}


def scored(layers: int, heads: int, tasks: int = 2) -> tuple[HeadScores, dict[str, HeadScores]]:
    values = torch.rand(tasks, layers, heads, generator=torch.Generator().manual_seed(0))
    patterns = {name: HeadScores.of(torch.full((layers, heads), value)) for name, value in EVERY.items()}
    return HeadScores(values, values / 10, tasks=TASKS[:tasks]), patterns


def some_levels() -> list[Level]:
    return [
        Level(
            keep, left, {task: Score(task, "classify", "accuracy", v, v - 0.1, v + 0.1, 40) for task in TASKS}
        )
        for keep, left, v in ((1.0, 12, 0.9), (0.6, 7, 0.8), (0.3, 4, 0.31))
    ]


@pytest.fixture(scope="module")
def shown() -> tuple[list[Excerpt], list[dict], str]:
    model = tiny_model(["topic", "other"])
    rows = encoded_rows(model, {name: labelled(name) for name in model.heads})
    found = excerpts(heads_of(model), rows)
    drawn = drawn_excerpts(found, model.backbone.tokens)
    importance, patterns = scored(3, 4)
    return found, drawn, heads_page(importance, patterns, title="t", levels=some_levels(), excerpts=drawn)


def test_a_row_takes_the_bytes_of_its_weights_and_no_more(shown: tuple) -> None:
    found, drawn, html = shown
    importance, patterns = scored(3, 4)
    sizes = [
        len(heads_page(importance, patterns, title="t", levels=some_levels(), excerpts=drawn[:count]))
        for count in range(1, len(drawn) + 1)
    ]
    assert sizes[-1] == len(html)
    for each, before, after in zip(found[1:], sizes, sizes[1:], strict=False):
        assert 4 / 3 * each.nbytes <= after - before <= 4 / 3 * each.nbytes + 40 * len(each.ids) + 400


def test_the_scores_with_fewer_heads_are_on_the_page_and_texts_are_escaped(shown: tuple) -> None:
    html = shown[2]
    assert "<b>&size" not in html
    levels = next(table for table in Parsed(html).tables if table[0][0].startswith("attention heads left"))
    assert [each.split()[0] for each in levels[0][1:]] == ["100", "60", "30"]
    assert ["".join(each.split()) for each in levels[1]] == [
        *("topicaccuracy", "0.9000.80to1.00", "0.8000.70to0.90", "0.3100.21to0.41")
    ]
    assert "topic: accuracy from 0.900 with 100 % of the attention heads to 0.310 with 30 %" in html
    without = heads_page(*scored(3, 4), title="t")
    assert 'id="fewer"' not in without
    assert "No row of these tasks is short enough" in without


def test_the_browser_tells_the_pattern(shown: tuple, window: Browser, tmp_path: Path) -> None:
    found, drawn, html = shown
    page = tmp_path / "heads.html"
    page.write_text(html, encoding="utf-8")
    window.look(1200, 900)
    window.open(page.as_uri())
    number = max(range(len(found)), key=lambda each: len(found[each].ids))
    window.run("picker.value = arguments[0]; picker.dispatchEvent(new Event('change'))", number)
    told = [each.strip() for each in drawn[number]["tokens"]]
    assert window.run("return places.map(each => each.textContent)") == told
    for layer, head, place in ((0, 0, 0), (2, 3, len(told) - 1), (1, 2, 3)):
        window.run("settleOn(arguments[0], arguments[1]); settle(arguments[2])", layer, head, place)
        assert window.text("#whose") == f"Layer {layer}, head {head}"
        assert window.text("#looked").startswith(words(found[number], told, layer, head, place))
        shades = window.run("return places.map(each => Number(each.style.getPropertyValue('--weight')))")
        for key, weight in zip(
            found[number].keys[layer, head, place], found[number].weights[layer, head, place], strict=True
        ):
            assert shades[key] == pytest.approx((weight / 255) ** 0.5, abs=1e-3)
    assert window.console() == []


def words(excerpt: Excerpt, told: list[str], layer: int, head: int, place: int) -> str:
    keys, weights = (each[layer, head, place].tolist() for each in (excerpt.keys, excerpt.weights))
    pairs = [
        f"“{told[k]}” ({k + 1}) {int(w / 2.55 + 0.5)} %" for k, w in zip(keys, weights, strict=True) if w
    ]
    return f"“{told[place]}” ({place + 1}) looks at {', '.join(pairs[:5])}"


def test_the_keyboard_is_enough(shown: tuple, window: Browser, tmp_path: Path) -> None:
    page = tmp_path / "heads.html"
    page.write_text(shown[2], encoding="utf-8")
    for width, scheme in ((1200, "light"), (360, "dark")):
        window.look(width, 900, scheme)
        window.open(page.as_uri())
        window.run("choose(0, 0); document.querySelector('#patterns .map').focus()")
        window.press("down")
        window.press("right")
        assert window.text("#whose") == "Layer 1, head 1"
        assert window.text("#reading").startswith("Layer 1, head 1")
        window.run("document.querySelector('#text').focus(); settle(1)")
        window.press("right")
        window.press("down")  # which scrolls
        chosen = "return [...text.querySelectorAll('[aria-selected=true]')].map(each => each.id)"
        assert (
            window.run(chosen)
            == ["token-2"]
            == [window.run("return text.getAttribute('aria-activedescendant')")]
        )
        assert window.text("#looked").startswith(f"“{window.text('#token-2')}” (3) looks at")
        assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    assert window.console() == []
