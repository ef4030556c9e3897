"""The page as a browser gets it: whole, offline, every number where it belongs, nothing unescaped."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from taskheads.report.page import page
from tests.report.page_example import INTENTS, SHAPES, example

VOID = {"meta", "link", "img", "br", "hr", "input", "source"}
SMALL = ("question_type", "similarity", "entities")


class Parsed(HTMLParser):
    """Elements with their attributes, tables cell by cell, scripts, and the text that is read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} is closed where it is not open"

    def handle_data(self, data: str) -> None:
        inside = set(self.open)
        if "script" in inside:
            self.scripts[-1] += data
        elif not {"style", "title"} & inside:
            self.words.append(data)
            if {"td", "th"} & inside:
                self.tables[-1][-1][-1] += data + " "

    def attributes(self, name: str) -> Iterator[str | None]:
        return (attributes[name] for _, attributes in self.elements if name in attributes)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def through_json(report: dict[str, Any]) -> dict[str, Any]:
    """As it comes from a file."""
    return json.loads(json.dumps(report))


@pytest.fixture(scope="module")
def html() -> str:
    return page(through_json(example()))


@pytest.fixture(scope="module")
def parsed(html: str) -> Parsed:
    return Parsed(html)


def test_elements_are_closed_and_names_are_unique(parsed: Parsed) -> None:
    assert parsed.open == []
    ids = list(parsed.attributes("id"))
    assert len(ids) == len(set(ids))
    counts = Counter(tag for tag, _ in parsed.elements)
    assert (counts["html"], counts["main"], counts["h1"]) == (1, 1, 1)
    for table in parsed.tables:
        assert len({len(row) for row in table}) == 1, table[0]


def test_links_inside_lead_somewhere(parsed: Parsed) -> None:
    ids = set(parsed.attributes("id"))
    inside = [href[1:] for href in parsed.attributes("href") if href and href.startswith("#")]
    assert len(inside) >= len(SHAPES) + 5
    assert set(inside) <= ids
    assert set(parsed.attributes("for")) <= ids


def test_nothing_is_asked_of_the_network(html: str, parsed: Parsed) -> None:
    loads = {"src", "srcset", "data", "action", "poster", "xlink:href", "background", "manifest", "ping"}
    assert not [(tag, attributes) for tag, attributes in parsed.elements if loads & set(attributes)]
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "image", "use", "form"}
    outside = [
        (tag, at["href"]) for tag, at in parsed.elements if not (at.get("href") or "#").startswith("#")
    ]
    assert outside
    assert all(tag == "a" and re.match(r"https://arxiv\.org/abs/", href or "") for tag, href in outside)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", html)
    policy = next(at["content"] for _, at in parsed.elements if at.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_table_has_each_score_interval_and_gain(parsed: Parsed) -> None:
    head, *rows = parsed.tables[0]
    assert [cell.strip() for cell in head] == [
        *("task", "rows", "majority", "frozen alone", "tuned alone", "shared", "private top", "gain")
    ]
    found = {row[0].split()[0]: [" ".join(cell.split()) for cell in row] for row in rows}
    assert list(found) == list(SHAPES)
    assert found["intent"][1:] == [
        *("4,500", "0.007", "0.912 0.904 to 0.919", "0.951 0.943 to 0.958"),
        *("✓ 0.948 0.940 to 0.955", "–", "▲ +0.036 +0.031 to +0.040"),
    ]
    assert found["similarity"][3].startswith("✓ 0.853")
    assert found["similarity"][-1].startswith("= 0.000")
    assert found["banking"][-1] == "○ +0.003 −0.007 to +0.012"
    # Less error is a gain, and "lower is better" says so.
    assert "lower is better" in found["minutes_to_answer"][0]
    assert found["minutes_to_answer"][-1].startswith("○ +0.700")


def test_a_loss_has_its_sign_and_its_colour() -> None:
    report = example(["question_type"])
    report["tasks"]["question_type"]["gain"] = {"value": -0.02, "low": -0.03, "high": -0.01}
    html = page(report)
    assert re.search(r'<span class="gain worse">▼ −0\.020</span>', html)
    assert "worse on 1 task," in Parsed(html).text
    assert "The largest loss −0.020 on question_type." in Parsed(html).text


def test_the_summary_says_what_happened(parsed: Parsed) -> None:
    for said in (
        "One model for 8 tasks on all-MiniLM-L6-v2, made in 12 min 49 s.",
        "6 tasks on the backbone tuned for all, 1 task on a private copy of its top layers and 1 task on the",
        "better beyond the 95 % interval on 5 tasks, worse on no tasks, and not told apart on 3 tasks.",
        "The largest gain is +0.062 on sentiment.",
        "as good or better on 2 of 7 tasks; it is worse beyond its interval on banking.",
    ):
        assert said in parsed.text


def test_a_matrix_of_150_labels_can_be_read(parsed: Parsed) -> None:
    """What a reader points at is what was counted, and every label stands beside its row and its column."""
    data = json.loads(parsed.scripts[0])
    assert sorted(data["labels"]) == sorted(INTENTS)
    confusion = through_json(example())["tasks"]["intent"]["findings"]["confusion"]
    name = confusion["labels"]
    expected = {(name[truth], name[answer]): count for truth, answer, count in confusion["cells"]}
    shown = {(data["labels"][i], data["labels"][j]): count for i, j, count in data["cells"]}
    assert shown == expected
    assert data["totals"] == [30] * 150
    items = Counter(attributes["title"] for tag, attributes in parsed.elements if tag == "li")
    assert all(items[label] == 2 for label in INTENTS)
    drawing = next(at for tag, at in parsed.elements if at.get("class") == "cells")
    assert (drawing["tabindex"], drawing["viewBox"] if "viewBox" in drawing else drawing["viewbox"]) == (
        "0",
        "0 0 150 150",
    )


def test_every_part_of_a_task_is_there(parsed: Parsed) -> None:
    for said in ("Confusion matrix", "Most frequent confusions", "Reliability of words", "Worst errors"):
        assert said in parsed.text
    errors = next(table for table in parsed.tables if table[0][0].strip() == "text")
    first = through_json(example())["tasks"]["intent"]["findings"]["errors"]["rows"][0]
    cells = [" ".join(cell.split()) for cell in errors[1]]
    assert cells[:4] == [first["inputs"]["text"], first["truth"], first["answer"], "0.999"]
    assert cells[4] == f"data/test.jsonl, row {first['row']:,}"


def test_calibration_before_and_after(parsed: Parsed) -> None:
    trust = through_json(example())["tasks"]["intent"]["findings"]["reliability"]
    table = next(table for table in parsed.tables if "calibration error" in table[0][0])
    for row, when in zip(table[1:], ("before", "after"), strict=True):
        assert [cell.strip() for cell in row] == [
            f"{when} scaling",
            *(f"{trust[when][binning]['ece']:.3f}" for binning in ("equal_width", "equal_mass")),
        ]


def test_time_and_memory_by_stage(parsed: Parsed) -> None:
    rows = [[" ".join(cell.split()) for cell in row] for row in parsed.tables[-1][1:]]
    assert rows[0] == ["features", "41 s", "", "1.4 GB"]
    assert rows[2][1] == "10 min 12 s"
    assert rows[-1] == ["scores", "8.8 s", "", "–"]


EVIL = "<script>alert(1)</script><b>'\"&</b>]]>"


def evil(value: Any) -> Any:
    """The same report with markup in every text and every name that a user gives."""
    if isinstance(value, dict):
        # The names of the report's own parts stay; those of tasks, columns, metrics and splits do not.
        return {
            f"{EVIL}{key}" if key in {*SHAPES, "text", "other", "macro_f1", "test"} else key: evil(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [evil(each) for each in value]
    return f"{EVIL}{value}" if isinstance(value, str) else value


def test_every_text_is_escaped() -> None:
    report = example(SMALL)
    wicked = evil(report)
    for name, task in wicked["tasks"].items():
        task["kept"] = report["tasks"][name.removeprefix(EVIL)]["kept"]
    html = page(wicked)
    mine, clean = Parsed(html), Parsed(page(report))
    assert mine.open == []
    assert (
        Counter(tag for tag, _ in mine.elements)["script"]
        == Counter(tag for tag, _ in clean.elements)["script"]
    )
    assert "b" not in {tag for tag, _ in mine.elements} - {tag for tag, _ in clean.elements}
    assert len([tag for tag, _ in mine.elements if tag == "b"]) == len(
        [tag for tag, _ in clean.elements if tag == "b"]
    )
    assert not any(name.startswith("on") for _, attributes in mine.elements for name in attributes)
    assert "<script>alert" not in html
    # It is there, as text, and in the data of the matrices too.
    assert EVIL.split("</b>")[0] in "".join(mine.words)
    data = [json.loads(script) for script in mine.scripts[:-1]]
    assert data
    assert all(label.startswith(EVIL) for each in data for label in each["labels"])


def test_ten_large_tasks_stay_small() -> None:
    report = example(["intent"])
    report["tasks"] = {f"intent_{i}": report["tasks"]["intent"] for i in range(10)}
    assert len(page(report).encode()) < 1_500_000


def paths(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield (*at, key)
            yield from paths(each, (*at, key))


def short_example() -> dict[str, Any]:
    """One task with every part, and curves of few points."""
    report = example(["entities"])
    for curves in (report["curves"]["loss"], report["curves"]["dev"]):
        curves["entities"] = curves["entities"][:3]
    for run in ("tokens_per_second", "learning_rate"):
        report["curves"][run] = report["curves"][run][:3]
    return report


@pytest.mark.parametrize("missing", ["absent", "null"])
def test_any_part_may_be_missing(missing: str) -> None:
    whole = short_example()
    every = list(paths(whole))
    assert len(every) > 70
    for path in every:
        report = copy.deepcopy(whole)
        inside = report
        for key in path[:-1]:
            inside = inside[key]
        if missing == "null":
            inside[path[-1]] = None
        else:
            del inside[path[-1]]
        assert Parsed(page(report)).open == [], path


def test_nothing_at_all_and_one_bare_task() -> None:
    assert "One model for no tasks." in Parsed(page({})).text
    bare = Parsed(page({"tasks": {"lonely": {}}}))
    assert "lonely" in bare.text
    assert "None" not in bare.text
    assert "nan" not in bare.text


def test_numbers_that_are_none() -> None:
    """What json.dumps writes as NaN and Infinity is a gap, not a word on the page."""
    report = example(["question_type"])
    task = report["tasks"]["question_type"]
    task["scores"]["shared"] = {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    task["gain"]["low"] = float("-inf")
    report["curves"]["loss"]["question_type"][3][1] = float("nan")
    report["similarity"]["gradient"][0][0] = float("nan")
    html = page(through_json(report))
    assert not re.search(r"\b(nan|inf|NaN|Infinity|None)\b", html.replace("'none'", ""))


def test_the_same_report_gives_the_same_page(html: str) -> None:
    assert page(through_json(example())) == html
