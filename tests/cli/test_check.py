"""`taskheads check`: what it understood of real data, for people and for programs."""

from __future__ import annotations

import pytest


def test_check_says_what_it_understood_and_why(run, data_dir) -> None:
    done = run("check", data_dir / "trec", data_dir / "stsbenchmark")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("3 tasks on the backbone minilm, seed 0\n")
    for said in (
        "trec.coarse  classify, judged by accuracy",
        "test 500",
        "ENTY (1,062)",
        "numbers from 0 to 5",
    ):
        assert said in done.out
    assert "two texts and numbers in 'similarity'" in done.out
    assert "dev (15%) made from train, seed 0" in done.out


def test_check_is_plain_text_in_a_pipe(run, data_dir) -> None:
    done = run("check", data_dir / "nlupp_banking")
    assert "\x1b" not in done.out
    assert not any(line.endswith(" ") for line in done.out.splitlines())
    assert max(map(len, done.out.splitlines())) > 80  # nothing is wrapped


def test_check_as_json(run, data_dir) -> None:
    said = run("check", "--json", data_dir / "trec").json
    assert (said["backbone"], said["seed"]) == ("minilm", 0)
    assert [task["name"] for task in said["tasks"]] == ["trec.coarse", "trec.fine"]
    assert said["tasks"][0]["rows"]["test"] == 500


@pytest.mark.parametrize("arguments", [("check",), ("check", "--jsn", "a"), ("chek", "a"), ("--verson",)])
def test_usage_errors_exit_with_2(run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


def test_a_misspelt_command_and_option_are_recognised(run) -> None:
    assert "Did you mean 'check'" in run("chek").err
    assert "--json" in run("check", "--jsn", "a").err
