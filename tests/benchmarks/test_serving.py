"""The server's benchmark: both sides are asked the same, and figures are of what was answered."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest

TASKS = ("words", "polite", "topics")


@pytest.fixture
def serving(script, monkeypatch):
    """The script, with three of the ten tasks and few clients."""
    ten = script("ten_tasks")
    monkeypatch.setattr(ten, "KINDS", {name: ten.KINDS[name] for name in TASKS})
    made = script("serving")
    monkeypatch.setattr(made, "CLIENTS", 2)
    return made


def test_throughput_asks_both_servers_and_none(serving, tmp_path, capsys):
    out = tmp_path / "serving.json"
    serving.main(["--parts", "throughput", "--limit", "30", "--threads", "1", "--out", str(out)])
    kept = json.loads(out.read_text())
    assert set(kept) == {"benchmark", "facts", "limit", "throughput"}
    found = kept["throughput"]
    assert set(found["cpu_per_request"]) == {"mine", "peer", "offline"}
    assert all(seconds > 0 for seconds in found["cpu_per_request"].values())
    assert [bar["sign"] for bar in found["bars"]] == [">=", ">="]
    times, share = (bar["value"] for bar in found["bars"])
    # Of the same rates: the server's beside the peer's, and beside that of no server.
    assert found["rate"] / times == pytest.approx(found["peer_rate"])
    assert found["rate"] / share == pytest.approx(30 / found["offline"]["wall"])
    assert f"2 clients, one text a request, {len(TASKS)} tasks" in capsys.readouterr().out


def test_load_is_what_clients_saw(serving):
    load = serving.Load([0.4, 0.1, 0.3, 0.2], wall=2.0, cpu=1.0)
    assert load.rate == 2
    assert (load.at(0.5), load.at(0.99), load.at(0)) == (0.3, 0.4, 0.1)


class Server:
    """What stands for a server: it counts, and grows with what it is asked."""

    started, cpu = 4.0, 3.0

    def __init__(self, asked):
        self.asked = asked

    @property
    def memory(self):
        return 100.0 + len(self.asked)

    def closed(self, texts):
        self.asked.extend(texts)


def test_every_request_of_the_memory_part_is_another(serving, monkeypatch):
    """So that the cache fills, and what grows is seen: measured before the first and after each tenth."""
    asked = []
    monkeypatch.setattr(serving, "running", lambda *_: nullcontext(Server(asked)))
    found = serving.memory(None, ["a", "b"], 50, 1)
    assert len(asked) == len(set(asked)) == 50
    assert found["megabytes"] == [100.0 + 5 * tenth for tenth in range(11)]
    assert found["bars"][0]["value"] == pytest.approx(150 / 105)
    assert found["bars"][0]["met"] is False


def test_the_start_is_the_least_of_some(serving, monkeypatch):
    starts = iter([6.0, 4.5, 5.5])

    def running(*_):
        server = Server([])
        server.started = next(starts)
        return nullcontext(server)

    monkeypatch.setattr(serving, "running", running)
    found = serving.start(None, 1, rounds=3)
    assert found["seconds"] == {"wall": 4.5, "cpu": 3.0}
    assert found["bars"][0]["met"] is True
