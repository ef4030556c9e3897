"""The demo's data: labels are facts of the source, nothing leaks between splits, bytes are stable."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

DEMO = Path(__file__).resolve().parents[2] / "demo"
sys.path.insert(0, str(DEMO))

import docstrings  # noqa: E402
import harvest  # noqa: E402
import rows  # noqa: E402
import sources  # noqa: E402

EXAMPLE = '''
"""A module."""

def blend(left, right, *, ratio=0.5):
    """Blend two Alpha colours into a new colour.

    If `ratio` is 0 then the result is `left` itself, unlike `Colour.mix`.
    Nothing else in left is ever changed.

    Parameters
    ----------
    left : Colour
        The colour that `right` is poured over.

    Returns
    -------
    Colour
    """

class Colour(tuple):
    """A colour as three numbers from zero to one.

    Raises:
        ValueError: the colour is out of range.
    """
    def __init__(self, red, green, blue, *rest, **options): ...

    @property
    def is_grey(self):
        """Whether all three numbers are the same."""

    @is_grey.setter
    def is_grey(self, value):
        """Setters are only half of a property."""

    @staticmethod
    def parse(text):
        """Read a colour from its hexadecimal name.

        :param text: six digits
        :returns: a colour
        """

    @classmethod
    def black(cls):
        """The colour of a night without stars."""

    def _hidden(self):
        """What is private does not count here."""

class Bare:
    """A class that says nothing of its parameters."""

def terse(x):
    """Too short."""

def foreign(x):
    """Возвращает новый цвет из старого цвета."""
'''


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """Two libraries: one with all the cases, a second so that there is something to tell apart."""
    root = tmp_path / "site-packages"
    texts = {
        "alpha/__init__.py": '"""Alpha."""\n',
        "alpha/colours.py": EXAMPLE,
        "alpha/broken.py": "def nope(:\n    '''This file is not Python at all.'''\n",
        "alpha/null.py": "x = '\0'\n",
        "alpha/tests/test_colours.py": "def test():\n    '''Tests are not documentation of anything.'''\n",
        "alpha/_vendor/copied.py": "def f():\n    '''Somebody else wrote this one, elsewhere.'''\n",
    }
    for number in range(12):
        for library, look in (("alpha", "round"), ("beta", "square")):
            texts[f"{library}/module{number}.py"] = "".join(
                f"def turn_{look}_{number}_{i}(angle_{i}, centre=None):\n"
                f'    """Turn the {look} shape number {number} by {i} degrees on the spot.\n\n'
                f'    The angle_{i} of shape {number} is kept by {library}, {look}, in radians.\n    """\n\n'
                for i in range(4)
            )
        # A copy of one text in every module must not reach two splits.
        texts[f"beta/module{number}.py"] += "def same():\n    '''The very same words in every module.'''\n"
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def example(site_packages: Path) -> dict[str, sources.Item]:
    found = sources.items("alpha", "alpha.colours", site_packages / "alpha/colours.py")
    return {item.qualname: item for item in found}


def test_things_and_parameters_are_what_the_code_says(example: dict[str, sources.Item]) -> None:
    assert {name: (item.thing, item.parameters) for name, item in example.items()} == {
        "blend": ("function", ("left", "right", "ratio")),
        "Colour": ("class", ("red", "green", "blue", "rest", "options")),
        "Colour.is_grey": ("property", None),
        "Colour.parse": ("method", ("text",)),
        "Colour.black": ("method", ()),
        "Bare": ("class", None),
        "terse": ("function", ("x",)),
        "foreign": ("function", ("x",)),
    }


def test_shared_rows(example: dict[str, sources.Item]) -> None:
    entries = rows.usable(example.values())
    made = {row["name"]: row for row in rows.doc_rows(entries, {"alpha.colours": "train"})}
    assert set(made) == {"blend", "Colour", "Colour.is_grey", "Colour.parse", "Colour.black", "Bare"}
    assert made["blend"] == {
        "text": "Blend two colours into a new colour.",  # "Alpha" would give the answer away
        "library": "alpha",
        "thing": "function",
        "sections": ["Parameters", "Returns"],
        "parameters": 3,
        "length": pytest.approx(5.426, abs=0.5),
        "split": "train",
        "module": "alpha.colours",
        "name": "blend",
    }
    assert made["Colour"]["sections"] == ["Raises"]
    assert made["Colour"]["parameters"] == 5
    assert made["Colour.parse"]["sections"] == ["Parameters", "Returns"]
    assert made["Colour.is_grey"]["parameters"] is None


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        (
            "One.\n\nArgs:\n    x: a\n\nYields:\n    y\n\nExample::\n\n    >>> 1",
            ["Parameters", "Yields", "Examples"],
        ),
        ("One.\n\nNotes\n-----\nN.\n\nSee Also\n--------\nother", ["Notes", "See Also"]),
        ("One.\n\n:param int x: a\n:raises ValueError: b\n:rtype: c", ["Parameters", "Returns", "Raises"]),
        ("One.\n\n.. note:: N.\n\n.. seealso:: other", ["Notes", "See Also"]),
        ("One.\n\nReturns: the sum.", ["Returns"]),
        ("Returns the sum.\n\nThe parameters are as in the example: none.", []),
        ("One.\n\n```\nArgs:\n    in a code block\n```", []),
        ("", []),
    ],
)
def test_sections_are_the_headings(text: str, sections: list[str]) -> None:
    assert list(docstrings.parse(text).sections) == sorted(sections, key=list(docstrings.SECTIONS).index)


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("Sum of ``x`` and\n:class:`~a.b.Table`, *really*.\n\nMore.", "Sum of x and Table, really."),
        ("total(a, b) -> int\n\nAdd them up.", "Add them up."),
        ("Parameters\n----------\nx : int\n    A number.", ""),
        ("Add.\nArgs:\n    x: a", "Add."),
        (".. deprecated:: 1.0\n\nAdd them up.", "Add them up."),
        ("See [the `Hub`](https://example.org) or `here <https://example.org>`_.", "See the `Hub` or here."),
    ],
)
def test_summary_is_the_first_paragraph_without_markup(text: str, summary: str) -> None:
    assert docstrings.parse(text, "total").summary == summary


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("If `axis` is None then ``x_max`` is used.", ["axis", "x_max"]),
        ("With `axis=0` the sum goes down, by n_rows in all.", ["axis", "n_rows"]),
        ("It takes `*args` and the `Table` as they come.", ["args"]),
        ("The axis may be an axis of the data.", None),  # unmarked English: a mention, or not?
        ("It calls `sum(axis=0)` for all of the rows.", None),  # another function's parameter
        ("It calls `Table` for each of the rows.", None),  # no mention at all
    ],
)
def test_tags_mark_the_function_s_own_parameters(text: str, mentions: list[str] | None) -> None:
    tagged = rows.tag_parameters(docstrings.mark(text), {"axis", "x_max", "n_rows", "args"})
    assert (tagged and [w for w, t in zip(*tagged, strict=True) if t == "B-parameter"]) == mentions


def test_sentences_of_the_example(example: dict[str, sources.Item]) -> None:
    made = rows.name_rows(rows.usable([example["blend"]]), {"alpha.colours": "dev"})
    told = {" ".join(row["words"]): row["tags"] for row in made}
    assert told == {
        "If ratio is 0 then the result is left itself , unlike Colour . mix .": (
            ["O", "B-parameter", *["O"] * 6, "B-parameter", *["O"] * 7]
        ),
        "The colour that right is poured over .": ["O", "O", "O", "B-parameter", *["O"] * 4],
    }


def test_queries_are_the_words_of_the_name() -> None:
    assert rows.name_words("DataFrame.drop_duplicates") == ["data", "frame", "drop", "duplicates"]
    assert rows.name_words("HTTPServer2D.from_url") == ["http", "server", "2", "d", "from", "url"]


def _tables(root: Path) -> dict[str, list[rows.Row]]:
    return harvest.tables(harvest.gather(root, ("alpha", "beta", "absent"), limit=400), limit=400)


def test_nothing_leaks_between_splits(site_packages: Path) -> None:
    _assert_nothing_leaks(_tables(site_packages))


def test_broken_tests_and_vendored_files_are_left_out(site_packages: Path) -> None:
    modules = {row["module"] for row in _tables(site_packages)["docs.jsonl"]}
    assert modules == {f"{name}.module{i}" for name in ("alpha", "beta") for i in range(12)} | {
        "alpha.colours"
    }


def test_pairs_are_balanced_and_true(site_packages: Path) -> None:
    files = _tables(site_packages)
    module = {row["text"]: row["module"] for row in files["docs.jsonl"]}
    relations: Counter[str] = Counter()
    for row in files["pairs.jsonl"]:
        first, second = module[row["first"]], module[row["second"]]
        assert (row["same"] == "yes") == (first == second)
        same_library = first.split(".")[0] == second.split(".")[0]
        relations["yes" if first == second else "no, one library" if same_library else "no, two"] += 1
    assert relations["yes"] == pytest.approx(sum(relations.values()) / 2, abs=3)
    assert relations["no, one library"] == pytest.approx(relations["no, two"], abs=3)


def test_find_leaves_out_what_letters_would_find(site_packages: Path) -> None:
    entries = harvest.gather(site_packages, ("alpha", "beta"), limit=400)
    made = rows.find_rows(entries, rows.split_modules(entries))
    assert "colour black" in {row["query"] for row in made}  # "black" is not in its summary
    assert not [row for row in made if row["query"].startswith("turn")]  # every word is in the summary


def test_a_label_that_training_lacks_is_no_answer() -> None:
    made = [
        {"split": "train", "library": "a", "sections": ["Notes"]},
        {"split": "test", "library": "b", "sections": ["Notes", "Yields"]},
    ]
    known = rows.known_labels(made, ("library", "sections"))
    assert known[1] == {"split": "test", "library": None, "sections": ["Notes"]}


def test_same_sources_same_bytes(site_packages: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        harvest.write(tmp_path / name, _tables(site_packages))
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert set(one) == {"docs.jsonl", "names.jsonl", "pairs.jsonl", "find.jsonl", "tasks.yaml"}


def test_nothing_to_harvest_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harvest.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    assert harvest.main(["--out", str(tmp_path / "data")]) == 2
    assert "no documented library" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_the_installed_packages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harvest.main(["--out", str(tmp_path), "--limit", "340"]) == 0
    assert "docs.jsonl" in capsys.readouterr().out
    files = {
        path.name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in tmp_path.glob("*.jsonl")
    }
    _assert_nothing_leaks(files)
    purelib = Path(sysconfig.get_paths()["purelib"])
    present = {name for name in harvest.LIBRARIES if (purelib / name).is_dir()}
    assert {row["library"] for row in files["docs.jsonl"]} - {None} == present
    suite = yaml.safe_load((tmp_path / "tasks.yaml").read_text(encoding="utf-8"))
    assert len(suite["tasks"]) >= 7
    assert len({task["kind"] for task in suite["tasks"].values()}) >= 6
    for task in suite["tasks"].values():
        inputs = task["input"] if isinstance(task["input"], list) else [task["input"]]
        columns = {*inputs, *filter(None, [task.get("label")]), task["split"]["column"]}
        for row in files[task["data"]]:
            assert columns <= set(row)
        assert {row["split"] for row in files[task["data"]]} == {"train", "dev", "test"}


def _assert_nothing_leaks(files: dict[str, list[rows.Row]]) -> None:
    """A module in one split, a text in one split, over all files together."""
    splits: dict[str, set[object]] = defaultdict(set)
    for file in files.values():
        for row in file:
            for column in {"text", "doc", "first", "second", "module"} & set(row):
                splits[f"{column == 'module'} {str(row[column]).casefold()}"].add(row["split"])
            if "words" in row:
                splits[" ".join(row["words"]).casefold()].add(row["split"])
    assert files["docs.jsonl"]
    assert not {value: found for value, found in splits.items() if len(found) > 1}
