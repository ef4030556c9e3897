"""The playground in a real browser: what it shows is what the API answers, for every hand, eye and width."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.model.model import Model
from tests.serve.browser import Browser
from tests.serve.conftest import Served, serving, until
from tests.serve.suite import fitted
from tests.serve.test_attention import inspected

TEXT = "who sings about John Smith in New York"
INPUT = """const [id, value] = arguments, field = document.getElementById(id);
field.value = value; field.dispatchEvent(new Event("input", {bubbles: true}));"""


@pytest.fixture(scope="module")
def served(minilm: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two models of the same tasks, of which the first was inspected and the other mistakes intents, and
    documents to search."""
    folder = tmp_path_factory.mktemp("page")
    first = fitted(folder, minilm)
    other = Model.load(first)
    inspected(other, first)
    with torch.no_grad():
        for parameter in other.heads["intent"].parameters():
            parameter.neg_()
    other.save(folder / "other")
    with serving(first, folder / "other", collections={"find": folder / "docs.jsonl"}) as served:
        yield served


@pytest.fixture
def page(window: Browser, served: Served) -> Browser:
    """The page, freshly opened, wide and light."""
    window.look(1200, 900)
    window.open(served.address)
    window.wait("#tasks", "intent")
    return window


def ask(page: Browser, text: str = TEXT) -> None:
    page.type("#text", text)
    page.wait("#status", "answered")


def look_into(page: Browser, task: str = "intent") -> str:
    """Open the part about attention heads, and give its selector."""
    part = f"[data-task={task}] .leaning"
    page.click(f"{part} summary")
    page.wait(part, "Each number is")
    return part


def test_every_task_answers_at_once_as_the_api_does(page: Browser, served: Served) -> None:
    ask(page)
    row = {"text": TEXT, "words": TEXT, "query": TEXT}
    (answer,) = served.post("/v1/predict", {"inputs": row, "scores": True}).json()["answers"]
    cards = page.run("return [...document.querySelectorAll('article')].map(a => a.dataset.task)")
    assert set(cards) == set(answer)
    assert page.text("[data-task=intent] .said") == answer["intent"]["label"]
    label, score = next(iter(answer["intent"]["scores"].items()))
    assert page.text("[data-task=intent] .bars .chosen").split("\n") == [label, f"{score:.3f}"]
    width = "return document.querySelector('[data-task=intent] .chosen b').style.width"
    assert float(page.run(width).rstrip("%")) == pytest.approx(100 * score, abs=0.01)
    marks = page.run("return [...document.querySelectorAll('mark')].map(m => m.innerText)")
    assert marks == [f"{span['text']}{span['label']}" for span in answer["entities"]["spans"]]
    hits = served.post("/v1/search", {"query": TEXT, "top_k": 5}).json()["results"][0]
    assert page.text("[data-task=find] ol").split("\n") == [
        f"{hit['document']['doc']} {hit['score']:.3f}" for hit in hits
    ]
    assert " ms" in page.text("#status")


def test_which_attention_heads_an_answer_leaned_on(page: Browser, served: Served) -> None:
    """Asked for when somebody looks; the strongest in words, each one as a square."""
    ask(page)
    asked = "return performance.getEntriesByType('resource').filter(e => e.name.includes('attention')).length"
    assert page.run(asked) == 0
    part = look_into(page)
    assert page.run(asked) == 1
    row = {"text": TEXT, "words": TEXT, "query": TEXT}
    found = served.post("/v1/attention", {"inputs": row, "tasks": ["intent"]}).json()["answers"]["intent"]
    by_value = sorted(
        (value, layer, head)
        for layer, values in enumerate(found["leaning"])
        for head, value in enumerate(values)
    )
    (least, low, far), (most, layer, head) = by_value[0], by_value[-1]
    words = page.text(part)
    assert f"For the answer layer {layer}, head {head} (+{most:.2f})" in words
    assert f"Against it layer {low}, head {far} (−{-least:.2f})" in words
    labels = page.run(
        f"return [...document.querySelectorAll('{part} [role=gridcell]')].map(e => e.ariaLabel)"
    )
    assert len(labels) == len(set(labels)) == len(by_value) == 72
    assert labels[12 * layer + head].startswith(f"layer {layer}, head {head}: +{most:.2f} log-odds; ")
    assert page.run(f"return document.querySelectorAll('{part} .ringed').length") == 5
    page.type("#text", " and Rome")
    until(lambda: page.run(asked) == 2)  # it stays open from one answer to the next
    page.wait(part, "Each number is")


def test_a_model_that_was_not_inspected_shows_no_attention_heads(page: Browser, served: Served) -> None:
    _, other = served.service.registry.current()
    page.run(INPUT, "model", str(other))
    ask(page)
    assert page.run("return document.querySelector('.leaning')") is None


def test_attention_heads_are_walked_through_with_the_keyboard(page: Browser) -> None:
    ask(page)
    page.run("document.querySelector('[data-task=intent] summary').focus()")
    part = "[data-task=intent] .leaning"
    page.press("space")
    page.wait(part, "Each number is")
    page.press("tab")
    where = "return document.activeElement.dataset.at"
    places = [page.run(where)]
    for key in ("right", "down", "left", "up", "up"):
        page.press(key)
        places.append(page.run(where))
    assert places == ["0.0", "0.1", "1.1", "1.0", "0.0", "0.0"]
    assert page.text(f"{part} .cell").startswith("layer 0, head 0: ")
    page.press("tab")
    assert not page.run("return document.activeElement.closest('[data-task=intent] .heads') !== null")


def test_out_of_scope_and_no_answer_are_in_plain_sight(page: Browser, served: Served) -> None:
    mixed = [f"{one} {two}" for one in ("pay", "rain", "sing", "why") for two in ("love", "my bill", "snow")]
    answers = served.post("/v1/predict", {"inputs": mixed, "tasks": ["intent"]}).json()["answers"]
    score, unsure = min(
        (answer["intent"]["score"], text) for answer, text in zip(answers, mixed, strict=True)
    )
    assert score < 1
    flag = "return document.querySelector('[data-task=intent] .flag')?.innerText ?? null"
    ask(page, "play some jazz")
    assert page.run(flag) is None
    page.run(INPUT, "text", "why is the sky blue")
    page.wait("[data-task=intent] .flag", "out of scope")
    page.run(INPUT, "text", unsure)
    page.run(INPUT, "below", "1")
    page.wait("[data-task=intent] .flag", "no answer")
    assert page.run("return document.querySelector('[data-task=intent] .said')") is None


def test_two_versions_side_by_side(page: Browser, served: Served) -> None:
    ask(page)
    first, other = (str(each) for each in served.service.registry.current())
    page.run(INPUT, "other", other)
    page.wait("[data-task=intent] h3", other)
    assert page.run(
        "return [...document.querySelectorAll('[data-task=intent] h3')].map(e => e.innerText)"
    ) == [
        first,
        other,
    ]
    assert page.text("[data-task=intent] h2").endswith("differs")
    for task in ("intent", "about"):
        said = page.run(
            f"return [...document.querySelectorAll('[data-task={task}] .said')].map(e => e.innerText)"
        )
        differs = page.run(f"return document.querySelector('[data-task={task}] h2 .flag') !== null")
        assert len(said) == 2
        assert differs == (said[0] != said[1])


def test_everything_can_be_done_with_the_keyboard(page: Browser) -> None:
    """From the text over every control to the answers, and a task left out, without a mouse."""
    page.run("document.body.focus()")
    seen: list[str] = []
    while len(seen) < 20 and "python" not in seen:
        page.press("tab")
        seen.append(page.run("return document.activeElement.id || document.activeElement.value || 'ask'"))
        if seen[-1] == "text":
            for key in "home":
                page.press(key)
            page.press("control", "enter")
            page.wait("#status", "4 tasks")
        if seen[-1] == "entities":
            page.press("space")
            page.wait("#status", "3 tasks")
    fields, tasks = ["text", "column-doc", "model", "other", "below"], ["intent", "about", "entities", "find"]
    assert seen == [*fields, *tasks, "ask", "curl", "python"]
    page.run("document.getElementById('text').focus()")
    ring = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(ring) == "solid"


def test_a_screen_reader_knows_what_everything_is(page: Browser) -> None:
    ask(page)
    look_into(page)
    nodes = page.chrome("Accessibility.getFullAXTree")["nodes"]
    named: dict[str, set[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            named.setdefault(node["role"]["value"], set()).add(node.get("name", {}).get("value", ""))
    for role in ("textbox", "combobox", "checkbox", "button", "spinbutton", "link", "heading", "listitem"):
        assert role in named
        assert all(named[role]) or role == "listitem", f"a {role} without a name"
    assert {"Text", "doc for find"} <= named["textbox"]
    assert {"intent classify", "find embed"} <= named["checkbox"]
    assert "Tasks" in named["group"]
    assert "Scores of intent" in named["list"]
    assert named["grid"] == {"Attention heads of intent: layers down, heads across"}
    assert all(each.startswith("layer ") for each in named["gridcell"])
    assert {"status", "alert"} & set(named) == {"status"}
    assert page.run("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(page: Browser, scheme: str) -> None:
    """At least 4.5 to 1, as WCAG 2.2 (1.4.3) asks, of every text on the page."""
    page.look(1200, 900, scheme)
    ask(page, "why is the sky blue")
    look_into(page)
    contrasts = page.run(Path(__file__).with_name("contrast.js").read_text(encoding="utf-8"))
    assert len(contrasts) > 30
    assert {text: ratio for text, ratio in contrasts.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_wider_than_the_window(page: Browser, width: int) -> None:
    page.look(width, 800)
    ask(page, "a" * 60 + " " + TEXT)
    look_into(page)
    inside = page.run("return document.documentElement.scrollWidth")
    assert inside <= width
    cut = "return [...document.querySelectorAll('button, select, textarea')].filter(isCut).length"
    cut = f"const isCut = (each) => each.getBoundingClientRect().right > innerWidth; {cut}"
    assert page.run(cut) == 0


def test_nothing_comes_from_elsewhere_and_nothing_is_complained_of(page: Browser, served: Served) -> None:
    page.console()
    page.open(served.address)
    page.wait("#tasks", "intent")
    ask(page)
    loaded = page.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert len(loaded) >= 5
    assert all(each.startswith(served.address) for each in loaded)
    assert page.console() == []


def test_what_is_copied_asks_the_same(page: Browser, served: Served, tmp_path: Path) -> None:
    """A text with quotes of every kind, answered by curl and by Python as by the page."""
    page.run("window.copied = []; navigator.clipboard.writeText = async (text) => { copied.push(text) }")
    ask(page, """it's "quoted" \\ $HOME `x` é true""")
    page.click("#curl")
    page.click("#python")
    page.wait("#status", "in the clipboard")
    curl, python = page.run("return copied")
    shown = page.text("[data-task=intent] .bars")
    program = tmp_path / "asked.py"
    program.write_text(python, encoding="utf-8")
    arguments = shlex.split(curl.replace("\\\n", " "))
    assert arguments[:2] == ["curl", f"{served.address}/v1/predict"]
    by_curl = served.client.post(
        "/v1/predict", content=arguments[-1].encode(), headers={"Content-Type": "application/json"}
    ).json()
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{by_curl}\n"
    for label, score in by_curl["answers"][0]["intent"]["scores"].items():
        assert f"{label}\n{score:.3f}" in shown


def test_a_server_with_a_token_is_asked_with_it(window: Browser, tmp_path: Path, served: Served) -> None:
    first = served.version.folder
    with serving(first, token="secret") as guarded:
        window.look(1200, 900)
        window.open(guarded.address)
        window.wait("#problem", "token")
        window.type("#token", "secret" + "\ue007")
        window.wait("#tasks", "intent")
        ask(window)
        assert "Authorization" in window.run(
            "return new Promise(done => { navigator.clipboard.writeText = async (text) => done(text); "
            "document.getElementById('curl').click() })"
        )
        assert "secret" not in window.run("return document.body.innerText")


def test_a_problem_is_shown_and_said(page: Browser, served: Served) -> None:
    ask(page)
    page.run(INPUT, "text", "a" * 1_000_001)
    page.wait("#problem", "so much cannot wait at once")
    assert page.run("return document.getElementById('problem').getAttribute('role')") == "alert"
    page.run(INPUT, "text", "home")
    page.wait("#status", "answered")
    assert page.run("return document.getElementById('problem').hidden")
