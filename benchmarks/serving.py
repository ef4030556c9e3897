"""What HTTP costs: `taskheads serve` with ten tasks, beside ten pipelines and beside no server at all.

throughput  Requests a second of 32 clients that each wait for their answer, one short text a request
            (clinc150, no text twice, the cache of answers off), beside Hugging Face pipelines behind the same
            FastAPI (`serving_peer.py`) and beside the model's own offline answers to the same texts.
latency     p50 and p99 at 70 % of that rate, requests arriving at random (a Poisson process).
memory      The server's resident memory over many requests, with a cache of answers that is full after the
            first tenth: then and at the end.
start       From the command to the first answer to /readyz.

Servers are processes of their own, whose processor time is read from /proc; the clients are in this one, and
cost little. Where others share the machine, compare processor times.

    python benchmarks/serving.py --out serving.json
    python benchmarks/serving.py --parts throughput --limit 1000
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from report import Seconds, data_folder, facts, keep, parser, show, show_facts, timed, use_threads
from ten_tasks import ten_tasks, unseen_texts

PARTS = ("throughput", "latency", "memory", "start")
CLIENTS = 32
TEXTS = 4000
REQUESTS = 100_000
LOAD = 0.7
TRAIN = 1500  # rows that heads are fitted to: how good they are does not matter here
Figures = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """What came of some requests: seconds of each, in all by the clock, and of the server's processors."""

    seconds: list[float]
    wall: float
    cpu: float

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.wall

    def at(self, share: float) -> float:
        """The time within which this share of the requests was answered."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


class Running:
    """A server process, ready."""

    def __init__(self, process: subprocess.Popen, port: int, started: float) -> None:
        self.process, self.port, self.started = process, port, started

    @property
    def cpu(self) -> float:
        """Processor seconds until now."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> float:
        """Resident megabytes now."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def closed(self, texts: Iterable[str], clients: int = CLIENTS) -> Load:
        """Clients that send their next request when they have the answer to the last."""
        waiting = iter(texts)

        async def all_clients(seconds: list[float]) -> None:
            await asyncio.gather(*(self._client(waiting, seconds) for _ in range(clients)))

        return self._loaded(all_clients)

    def open(self, texts: Sequence[str], rate: float) -> Load:
        """Requests that arrive at random, `rate` a second, whether others are answered or not."""
        draw = random.Random(0)

        async def all_arrivals(seconds: list[float]) -> None:
            begun, due, sent = time.perf_counter(), 0.0, []
            for text in texts:
                due += draw.expovariate(rate)
                await asyncio.sleep(max(0.0, begun + due - time.perf_counter()))
                sent.append(asyncio.ensure_future(self._client(iter([text]), seconds)))
            await asyncio.gather(*sent)

        return self._loaded(all_arrivals)

    def _loaded(self, work: Callable[[list[float]], Any]) -> Load:
        seconds: list[float] = []
        before, start = self.cpu, time.perf_counter()
        asyncio.run(work(seconds))
        return Load(seconds, time.perf_counter() - start, self.cpu - before)

    async def _client(self, texts: Iterator[str], seconds: list[float]) -> None:
        """One connection; plain sockets, since clients of any comfort cost as much as the server."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for text in texts:
            body = json.dumps({"inputs": text}).encode()
            head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            start = time.perf_counter()
            writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.splitlines()[0].decode())
            await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            seconds.append(time.perf_counter() - start)
        writer.close()


@contextmanager
def running(command: Sequence[str], threads: int) -> Iterator[Running]:
    """A server, from when it is ready to its end; `{port}` in the command is a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    process = subprocess.Popen(
        [each.format(port=port) for each in command], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{command[1]} ended before it was ready")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield Running(process, port, time.perf_counter() - start)
    finally:
        process.terminate()
        process.wait(30)


def product(folder: Path, *more: str) -> list[str]:
    """The command of the server that is measured."""
    return [sys.executable, "-m", "taskheads", "serve", str(folder), "--port", "{port}", *more]


def peer(model: Any, threads: int) -> list[str]:
    """The command of the pipelines' server."""
    tasks = {name: [head.kind, head.outputs] for name, head in model.heads.items()}
    script = Path(__file__).with_name("serving_peer.py")
    # Braces are the port's.
    about = json.dumps(tasks).replace("{", "{{").replace("}", "}}")
    return [sys.executable, str(script), about, "--port", "{port}", "--threads", str(threads)]


def bar(name: str, value: float, sign: str, bound: float, cpu: float | None = None) -> Figures:
    """A bar of the project and whether it is met, by the clock on the wall."""
    met = value <= bound if sign == "<=" else value >= bound
    beside = "" if cpu is None else f" (processor time {cpu:.2f})"
    print(f"{name}: {value:.2f}{beside}, to be {sign} {bound}: {'met' if met else 'MISSED'}", flush=True)
    return {"name": name, "value": value, "cpu": cpu, "sign": sign, "bound": bound, "met": met}


def throughput(model: Any, folder: Path, texts: Sequence[str], threads: int) -> Figures:
    """Both servers under closed load, and the model without a server."""
    model.predict(texts[:64])
    offline = timed(lambda: model.predict(texts))[1]
    with running(product(folder, "--cache-mb", "0"), threads) as server:
        server.closed(texts[:128])
        mine = server.closed(texts)
    some = texts[: max(CLIENTS, len(texts) // 10)]
    with running(peer(model, threads), threads) as server:
        server.closed(some[:CLIENTS])
        theirs = server.closed(some)
    count = len(texts)
    rows = [
        ["offline, no server", f"{count / offline.wall:.0f}", f"{1000 * offline.cpu / count:.2f}", "", ""],
        ["taskheads serve", *_row(mine)],
        ["ten pipelines, FastAPI", *_row(theirs)],
    ]
    title = f"{CLIENTS} clients, one text a request, {len(model.heads)} tasks"
    show(title, ("side", "requests/s", "processor ms", "p50 ms", "p99 ms"), rows)
    cost = {"mine": mine.cpu / count, "peer": theirs.cpu / len(some), "offline": offline.cpu / count}
    bars = [
        bar(
            "times the requests of ten pipelines",
            mine.rate / theirs.rate,
            ">=",
            8.0,
            cost["peer"] / cost["mine"],
        ),
        bar(
            "share of the offline rate",
            mine.rate * offline.wall / count,
            ">=",
            0.8,
            cost["offline"] / cost["mine"],
        ),
    ]
    rates = {"rate": mine.rate, "peer_rate": theirs.rate}
    return {"offline": asdict(offline), **rates, "cpu_per_request": cost, "bars": bars}


def _row(load: Load) -> list[str]:
    per = 1000 * load.cpu / len(load.seconds)
    return [f"{load.rate:.0f}", f"{per:.2f}", f"{1000 * load.at(0.5):.0f}", f"{1000 * load.at(0.99):.0f}"]


def latency(folder: Path, texts: Sequence[str], threads: int) -> Figures:
    """Percentiles at a share of the rate that the same server has just shown."""
    with running(product(folder, "--cache-mb", "0"), threads) as server:
        server.closed(texts[:128])
        rate = server.closed(texts).rate
        load = server.open(texts, LOAD * rate)
    show(
        f"At {LOAD:.0%} of {rate:.0f} requests a second",
        ("", "requests/s", "processor ms", "p50 ms", "p99 ms"),
        [["", *_row(load)]],
    )
    tail = load.at(0.99) / load.at(0.5)
    return {"p50": load.at(0.5), "p99": load.at(0.99), "bars": [bar("p99 in terms of p50", tail, "<=", 3.0)]}


def memory(folder: Path, texts: Sequence[str], requests: int, threads: int) -> Figures:
    """Resident memory after each tenth of the requests, whose texts are all different."""
    every = (f"{text} {number}" for number in itertools.count() for text in texts)
    with running(product(folder, "--cache-mb", "4"), threads) as server:
        measured = [server.memory]
        for _ in range(10):
            server.closed(itertools.islice(every, requests // 10))
            measured.append(server.memory)
    print("resident MB: " + " ".join(f"{each:.0f}" for each in measured))
    growth = measured[-1] / measured[1]
    return {
        "megabytes": measured,
        "bars": [bar(f"memory after {requests:,} requests, to a tenth", growth, "<=", 1.05)],
    }


def start(folder: Path, threads: int, rounds: int) -> Figures:
    """The least of some starts."""
    taken = []
    for _ in range(rounds):
        with running(product(folder), threads) as server:
            taken.append(Seconds(server.started, server.cpu))
    best = Seconds.best(taken)
    return {
        "seconds": asdict(best),
        "bars": [bar("seconds from start to ready", best.wall, "<=", 5.0, best.cpu)],
    }


def main(arguments: Sequence[str] | None = None) -> Figures:
    options = parser(__doc__)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    options.add_argument("--requests", type=int, default=REQUESTS, help="of `memory`; default: 100,000")
    options.add_argument("--rounds", type=int, default=3, help="of `start`; default: 3")
    chosen = options.parse_args(arguments)
    record: Figures = {"benchmark": "serving", "facts": facts(chosen.threads), "limit": chosen.limit}
    show_facts(record["facts"])
    use_threads(chosen.threads)
    import taskheads as th

    source, threads = data_folder() / "clinc150", chosen.threads
    texts = unseen_texts(source, min(chosen.limit or TEXTS, TEXTS))
    with tempfile.TemporaryDirectory() as temporary:
        model = th.fit(ten_tasks(source, Path(temporary), chosen.limit or TRAIN), tune="frozen")
        model.save(folder := Path(temporary) / "model")
        measured: dict[str, Callable[[], Figures]] = {
            "throughput": lambda: throughput(model, folder, texts, threads),
            "latency": lambda: latency(folder, texts, threads),
            "memory": lambda: memory(folder, texts, chosen.requests, threads),
            "start": lambda: start(folder, threads, chosen.rounds),
        }
        for part in chosen.parts:
            record[part] = measured[part]()
            keep(chosen.out, record)
    return record


if __name__ == "__main__":
    main()
