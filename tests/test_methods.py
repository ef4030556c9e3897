"""The catalogue: cards read from the source are those of the running code, and each has its evidence."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from taskheads import methods
from taskheads.errors import ConfigError
from taskheads.methods import FAMILIES, Card, card_of, catalogue, method, resolve, scan_evidence

TESTS = Path(__file__).resolve().parent
CARDS = catalogue()

MODULE = '''
import a_module_which_is_not_there
from taskheads.methods import method

@method("soft_voting", family="heads", paper="arXiv:0000.00001", applies_to=("classify", "tag"))
class SoftVoting:
    """Average what several heads
    answer.

    The rest is detail.
    """

@staticmethod
@method(
    "hard_voting",
    family="heads",
    paper="Condorcet, 1785",
)
def hard_voting(answers):
    """Take the answer of most heads."""

# @method("commented_out", family="heads", paper="none")
TEXT = """
@method("in_a_string", family="heads", paper="none")
"""
'''


@method("doubling", family="edits", paper="doi:10.0/example", applies_to=("regress",))
class Doubling:
    """Twice everything,
    and at once.

    More of it.
    """


@method("doubling_again", family="edits", paper="doi:10.0/example")
def double(x: float) -> float:
    """Twice one number."""
    return 2 * x


class Quadrupling(Doubling):
    """A child without a decorator of its own."""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with one module of methods in a folder."""
    root = tmp_path / "pack"
    (root / "voting").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "voting" / "__init__.py").write_text("raise ImportError('nobody asked for this')\n")
    (root / "voting" / "votes.py").write_text(MODULE)
    return root


def test_the_decorator_leaves_the_thing_as_it_is_and_gives_it_a_card() -> None:
    assert double(3) == 6
    assert card_of(Doubling) == Card(
        name="doubling",
        family="edits",
        summary="Twice everything, and at once.",
        paper="doi:10.0/example",
        applies_to=("regress",),
        where=f"{__name__}:Doubling",
    )
    assert card_of(double).applies_to == ("any",)
    assert resolve("doubling") is Doubling


def test_a_child_is_not_the_method_its_parent_is() -> None:
    with pytest.raises(ValueError, match="not a method"):
        card_of(Quadrupling)


def test_two_methods_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"two methods are called 'doubling': .*:Doubling and .*other"):

        @method("doubling", family="edits", paper="x")
        def other() -> None:
            """Another."""

    assert resolve("doubling") is Doubling


def test_decorating_the_same_place_again_is_not() -> None:
    def define() -> type:
        @method("reloaded", family="edits", paper="x")
        class Reloaded:
            """What a module has when it is loaded again."""

        return Reloaded

    first, second = define(), define()
    assert first is not second
    assert resolve("reloaded") is second


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Duo-Attention"}, "'Duo-Attention' is not lower case"),
        ({"family": "attention"}, "no known family: 'attention'"),
        ({"summary": ""}, "has no summary"),
        ({"paper": ""}, "has no paper"),
        ({"applies_to": "classify"}, "must be a tuple"),
        ({"applies_to": ()}, "must be a tuple"),
    ],
)
def test_a_card_that_says_too_little_is_an_error(change: dict[str, object], message: str) -> None:
    parts = {
        "name": "fine",
        "family": "heads",
        "summary": "It does.",
        "paper": "x",
        "applies_to": ("tag",),
        "where": "a:b",
    }
    Card(**parts)
    with pytest.raises(ValueError, match=message):
        Card(**parts | change)


def test_cards_are_read_without_importing(package: Path) -> None:
    hard, soft = catalogue(package)  # importing any of these modules would raise
    assert soft == Card(
        name="soft_voting",
        family="heads",
        summary="Average what several heads answer.",
        paper="arXiv:0000.00001",
        applies_to=("classify", "tag"),
        where="pack.voting.votes:SoftVoting",
    )
    assert (hard.name, hard.applies_to, hard.where) == (
        "hard_voting",
        ("any",),
        "pack.voting.votes:hard_voting",
    )


def test_two_of_a_name_in_the_sources_are_an_error(package: Path) -> None:
    (package / "copy.py").write_text(MODULE)
    with pytest.raises(
        ValueError, match=r"two methods are called 'soft_voting': pack\.copy:.* and pack\.voting"
    ):
        catalogue(package)


def test_an_argument_that_cannot_be_read_is_an_error(package: Path) -> None:
    (package / "clever.py").write_text("@method(NAME, family='heads', paper='x')\ndef f():\n    'Do.'\n")
    with pytest.raises(ValueError, match=r"pack\.clever:f, line 1: .*must be literals"):
        catalogue(package)


def test_a_method_is_imported_when_it_is_asked_for(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "voting" / "__init__.py").write_text("")
    (package / "voting" / "votes.py").write_text(MODULE.replace("import a_module_which_is_not_there", ""))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(methods, "catalogue", lambda: catalogue(package))
    assert "pack.voting.votes" not in sys.modules
    found = resolve("soft_voting")
    assert card_of(found) == methods.find("soft_voting")
    assert resolve("soft_voting") is found


def test_an_unknown_name_is_answered_with_the_nearest(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "catalogue", lambda: catalogue(package))
    with pytest.raises(ConfigError, match=r"no method is called 'soft_votes': did you mean 'soft_voting'\?"):
        resolve("soft_votes")
    with pytest.raises(ConfigError, match="`taskheads methods` lists"):
        resolve("zzz")


def test_evidence_is_found_wherever_the_mark_stands(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    (tests / "deep").mkdir(parents=True)
    (tests / "test_a.py").write_text(
        "import pytest\n"
        "@pytest.mark.method('one')\n@pytest.mark.slow\ndef test_f(): ...\n"
        "@pytest.mark.method('two')\nclass TestC:\n"
        "    def test_g(self): ...\n"
        "    @pytest.mark.method('one')\n    def test_h(self): ...\n"
        "    def helper(self): ...\n"
        "@pytest.mark.method('one')\ndef helper(): ...\n"
    )
    (tests / "deep" / "test_b.py").write_text(
        "import pytest\npytestmark = [pytest.mark.slow, pytest.mark.method('three')]\ndef test_i(): ...\n"
    )
    assert scan_evidence(tests) == {
        "one": ["tests/test_a.py::test_f", "tests/test_a.py::TestC::test_h"],
        "three": ["tests/deep/test_b.py::test_i"],
        "two": ["tests/test_a.py::TestC::test_g", "tests/test_a.py::TestC::test_h"],
    }


def test_the_recorded_evidence_is_up_to_date() -> None:
    assert methods.EVIDENCE.read_text(encoding="utf-8") == methods.evidence_text(scan_evidence(TESTS)), (
        "run: python -m taskheads.methods --write-evidence"
    )


def test_evidence_is_of_methods_that_exist() -> None:
    assert set(scan_evidence(TESTS)) <= {card.name for card in CARDS}


def test_evidence_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "EVIDENCE", tmp_path / "evidence.json")
    assert methods.main(["--write-evidence"]) == 0
    assert json.loads((tmp_path / "evidence.json").read_text()) == scan_evidence(TESTS)
    assert methods.main([]) == 2


def test_families_are_told_apart() -> None:
    assert len(set(FAMILIES)) == len(FAMILIES) == 15


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_each_card_is_that_of_the_running_code_and_has_evidence(card: Card) -> None:
    assert card_of(resolve(card.name)) == card
    assert card.evidence, f"no test is marked @pytest.mark.method({card.name!r})"
    assert json.loads(json.dumps(card.to_json()))["evidence"] == list(card.evidence)


def test_no_method_is_missed_by_reading() -> None:
    """A decorator which `catalogue()` does not see (not at the top of its module) would hide its method."""
    seen = {card.name for card in CARDS}
    for path in methods.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for decorator in getattr(node, "decorator_list", []):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in {
                    "method",
                    "methods.method",
                }:
                    assert ast.literal_eval(decorator.args[0]) in seen, f"{path}, line {decorator.lineno}"


def test_the_list_costs_no_torch() -> None:
    code = "import sys, taskheads.methods as m; m.catalogue(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
