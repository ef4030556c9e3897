"""The cache gives back what was computed, to the bit, through kills, rivals, damage and full disks."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from taskheads.backbone import features, shards
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache, default_folder
from taskheads.backbone.features import Words, extract
from taskheads.backbone.reads import Read
from tests.backbone.cached import MEAN, rows
from tests.backbone.test_features import backbone_of, sentences, texts

LOW, WORDS = Read("layers.0.output", "mean"), Read("output", "words")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return backbone_of()


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path)


class Ran:
    """How many tokens were computed."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, _done: int, total: int) -> None:
        self.tokens = total


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def get(
    cache: FeatureCache, keys: np.ndarray, width: int = 3, table: str = "f"
) -> tuple[np.ndarray, torch.Tensor]:
    out = torch.zeros(len(keys), width)
    n = len(keys)
    return cache.load(table, MEAN, keys, out, np.arange(n), np.ones(n, np.int64)), out


@pytest.mark.parametrize("form", ["text", "pair", "words"])
def test_a_second_time_nothing_is_computed(backbone: Backbone, cache: FeatureCache, form: str) -> None:
    items = {
        "text": texts(20),
        "pair": list(zip(texts(20), texts(20, 1), strict=True)),
        "words": sentences(20, longest=40),
    }[form]
    reads = [MEAN, LOW] + [WORDS] * (form == "words")
    once, twice, reopened = Ran(), Ran(), Ran()
    first = extract(backbone, form, items, reads, cache=cache, progress=once)
    again = extract(backbone, form, items[::-1], reads, cache=cache, progress=twice)
    other = FeatureCache(cache.folder)
    later = extract(backbone, form, items, reads, cache=other, progress=reopened)
    assert once.tokens > 0
    assert twice.tokens == reopened.tokens == 0
    for read in reads:
        if isinstance(first[read], Words):
            assert torch.equal(first[read].values, later[read].values)
            assert again[read].lengths == first[read].lengths[::-1]
        else:
            assert torch.equal(first[read], again[read].flip(0))
            assert torch.equal(first[read], later[read])


def test_only_what_is_missing_is_computed(backbone: Backbone, cache: FeatureCache) -> None:
    assert backbone.tokens is not None
    few, many = texts(8), list(dict.fromkeys(texts(20)))
    first = extract(backbone, "text", few, [MEAN], cache=cache)[MEAN]
    ran = Ran()
    both = extract(backbone, "text", many, [MEAN], cache=cache, progress=ran)[MEAN]
    assert ran.tokens == sum(map(len, backbone.tokens.texts(many[8:])))
    assert torch.equal(both[:8], first)
    # Another read of the same texts is computed for all of them, and what was kept stays as it is.
    found = extract(backbone, "text", many, [MEAN, LOW], cache=cache, budget=7)
    assert torch.equal(found[MEAN], both)
    assert torch.equal(found[LOW], extract(backbone, "text", many, [LOW], cache=cache)[LOW])


def test_what_differs_is_kept_apart(backbone: Backbone, cache: FeatureCache) -> None:
    keys = [
        features._keys(form, [item]).tobytes()
        for form, item in [
            ("text", "a b"),
            ("words", ["a", "b"]),
            ("words", ["b", "a"]),
            ("words", ["a b"]),
            ("words", ["a", "b", ""]),
            ("words", ["a\n1:b"]),
            ("pair", ("a", "b")),
            ("pair", ("b", "a")),
            ("pair", ("a b", "")),
            ("text", "\ud800"),
        ]
    ]
    assert len(set(keys)) == len(keys)
    row, turned = ["fox", "dog", "lazy"], ["dog", "fox", "lazy"]
    extract(backbone, "words", [row], [MEAN], cache=cache)
    mine = extract(backbone, "words", [turned], [MEAN], cache=cache)[MEAN]
    assert torch.equal(mine, extract(backbone, "words", [turned], [MEAN])[MEAN])
    other = backbone_of(limit=5)
    long = texts(5)
    extract(backbone, "text", long, [MEAN], cache=cache)
    assert torch.equal(
        extract(other, "text", long, [MEAN], cache=cache)[MEAN], extract(other, "text", long, [MEAN])[MEAN]
    )


@pytest.mark.parametrize("damage", ["empty", "half", "header", "byte", "text", "key"])
def test_a_damaged_shard_is_ignored_and_removed(tmp_path: Path, damage: str) -> None:
    keys, values, sizes = rows(50)
    FeatureCache(tmp_path).save("f", MEAN, keys, values, sizes)
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "byte":
        data[-1] ^= 1
    elif damage == "key":
        data[int.from_bytes(data[:8], "little") + 40] ^= 1
    damaged = {
        "empty": b"",
        "half": data[: len(data) // 2],
        "header": data[:5],
        "byte": data,
        "key": data,
        "text": b"not a shard at all, but long enough to look into",
    }[damage]
    path.write_bytes(damaged)
    cache = FeatureCache(tmp_path)
    found, out = get(cache, keys)
    assert not found.any()
    assert not out.any()
    assert files(tmp_path) == []
    cache.save("f", MEAN, keys, values, sizes)
    found, out = get(FeatureCache(tmp_path), keys)
    assert found.all()
    assert torch.equal(out, values)


def test_a_shard_of_another_width_is_not_used(tmp_path: Path) -> None:
    keys, values, sizes = rows(5)
    FeatureCache(tmp_path).save("f", MEAN, keys, values, sizes)
    assert not get(FeatureCache(tmp_path), keys, width=4)[0].any()


def writer(folder: Path, start: int, stop: int, killed: int = -1) -> subprocess.Popen:
    """Another process that saves 40 rows for each seed; it is killed while it writes those of `killed`."""
    numbers = map(str, (start, stop, 40, 3, killed))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.backbone.cached", str(folder), *numbers], cwd=Path(__file__).parents[2]
    )


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    # Enough small shards for both to join them while the other looks on.
    both = [writer(tmp_path, 0, 70), writer(tmp_path, 50, 120)]
    assert [process.wait(300) for process in both] == [0, 0]
    cache = FeatureCache(tmp_path)
    for seed in range(120):
        keys, values, _ = rows(40, seed=seed)
        found, out = get(cache, keys)
        # Joining may lose a race, never a bit: what is found is right.
        assert torch.equal(out[torch.from_numpy(found)], values[torch.from_numpy(found)])
    last = rows(40, seed=119)[0]
    assert get(cache, last)[0].all()
    assert not [path for path in files(tmp_path) if path.suffix != ".safetensors"]
    assert len(files(tmp_path)) <= 70


def test_a_kill_in_the_middle_of_writing_breaks_nothing(tmp_path: Path) -> None:
    assert writer(tmp_path, 0, 9, killed=2).wait(300) == -signal.SIGKILL
    (left,) = (path for path in files(tmp_path) if path.suffix != ".safetensors")
    assert len(files(tmp_path)) == 3
    cache = FeatureCache(tmp_path)
    for seed in range(4):
        keys, values, sizes = rows(40, seed=seed)
        found, out = get(cache, keys)
        assert found.all() == found.any() == (seed < 2)
        assert torch.equal(out, values * (seed < 2))
    # What was left half-written goes with a later write, once nobody can be at it any more.
    cache.save("f", MEAN, keys, values, sizes)
    assert left.exists()
    os.utime(left, (0, 0))
    cache.save("f", LOW, keys, values, sizes)
    assert not left.exists()


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_done_without(
    backbone: Backbone,
    cache: FeatureCache,
    problem: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def write(path: Path, data: bytes) -> int:
        path.open("wb").write(data[:100])
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr(Path, "write_bytes", write)
    items = texts(10)
    with caplog.at_level(logging.WARNING):
        first = extract(backbone, "text", items, [MEAN, LOW], cache=cache)
        ran = Ran()
        again = extract(backbone, "text", items, [MEAN, LOW], cache=cache, progress=ran)
    assert torch.equal(first[MEAN], again[MEAN])
    assert ran.tokens == 0
    assert len([r for r in caplog.records if "features are kept in memory only" in r.message]) == 1
    assert files(cache.folder) == []


def test_a_folder_that_cannot_be_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = FeatureCache(tmp_path / "file" / "below")
    keys, values, sizes = rows(4)
    cache.save("f", MEAN, keys, values, sizes)
    assert get(cache, keys)[0].all()
    assert cache.entries() == []
    assert "features are kept in memory only" in caplog.text


def test_the_disk_is_bounded_by_what_was_used_last(tmp_path: Path) -> None:
    one = rows(1000, 300)[1].numel() * 4
    cache = FeatureCache(tmp_path, limit_bytes=int(3.5 * one), memory_bytes=1)
    batches = [rows(1000, 300, seed=seed) for seed in range(5)]
    for age, batch in enumerate(batches[:3]):
        cache.save("f", MEAN, *batch)
        newest = max(files(tmp_path), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1000 + age, 1000 + age))
    assert get(cache, batches[0][0], 300)[0].all()  # used again: now the second is the oldest
    cache.save("f", MEAN, *batches[3])
    held = [get(FeatureCache(tmp_path), batch[0], 300)[0].all() for batch in batches]
    assert held == [True, False, True, True, False]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= cache.folder.stat().st_size + 3.5 * one


def test_memory_is_bounded_and_the_disk_steps_in(tmp_path: Path) -> None:
    one = rows(1000, 300)[1].numel() * 4
    batches = [rows(1000, 300, seed=seed) for seed in range(4)]
    small = FeatureCache(tmp_path, memory_bytes=int(2.5 * one))
    alone = FeatureCache(tmp_path / "none", limit_bytes=0, memory_bytes=int(2.5 * one))
    for batch in batches:
        small.save("f", MEAN, *batch)
        alone.save("f", MEAN, *batch)
    assert sum(shard.bytes for shard in small._memory.values()) <= 2.5 * one
    assert all(get(small, batch[0], 300)[0].all() for batch in batches)
    assert [get(alone, batch[0], 300)[0].all() for batch in batches] == [False, False, True, True]
    assert not (tmp_path / "none").exists()


def test_many_small_shards_become_one(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    for seed in range(200):
        cache.save("f", MEAN, *rows(2, seed=seed))
    assert len(files(tmp_path)) <= 40
    for seed in range(200):
        keys, values, _ = rows(2, seed=seed)
        found, out = get(cache, keys)
        assert found.all()
        assert torch.equal(out, values)


def test_long_work_is_kept_as_it_goes(
    backbone: Backbone, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_PORTION_BYTES", 2000)
    items = list(dict.fromkeys(texts(60)))

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise Stopped

    with pytest.raises(Stopped):
        extract(backbone, "text", items, [MEAN], cache=cache, budget=30, progress=stop)
    kept = sum(entry.rows for entry in cache.entries())
    assert len(items) / 4 < kept < len(items)
    found = extract(backbone, "text", items, [MEAN], cache=cache)[MEAN]
    torch.testing.assert_close(found, extract(backbone, "text", items, [MEAN])[MEAN], atol=1e-5, rtol=1e-5)


def test_entries_and_clear(backbone: Backbone, cache: FeatureCache) -> None:
    before = time.time() - 1
    items = list(dict.fromkeys(texts(10)))
    extract(backbone, "text", items, [MEAN, LOW], cache=cache)
    stranger = cache.folder / "notes.txt"
    stranger.write_text("not ours")
    entries = FeatureCache(cache.folder).entries()
    assert {(entry.fingerprint, entry.read) for entry in entries} == {
        (backbone.fingerprint, "output:mean"),
        (backbone.fingerprint, "layers.0.output:mean"),
    }
    assert all(entry.rows == len(items) and entry.last_used >= before for entry in entries)
    assert sum(e.bytes for e in entries) == sum(
        p.stat().st_size for p in files(cache.folder) if p != stranger
    )
    cache.clear()
    assert cache.entries() == []
    assert files(cache.folder) == [stranger]
    ran = Ran()
    extract(backbone, "text", items, [MEAN], cache=cache, progress=ran)
    assert ran.tokens > 0


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TASKHEADS_CACHE", str(tmp_path / "chosen"))
    assert FeatureCache().folder == tmp_path / "chosen"
    monkeypatch.delenv("TASKHEADS_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "taskheads"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "taskheads"


def test_nothing_is_written_but_safetensors(cache: FeatureCache) -> None:
    cache.save("f", WORDS, *rows(3))
    (path,) = files(cache.folder)
    assert path.suffix == ".safetensors"
    assert set(shards.load(path.read_bytes())) == {"keys", "sizes", "values", "crc32"}
