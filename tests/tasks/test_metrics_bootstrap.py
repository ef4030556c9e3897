"""A weighted row is a repeated row, for every metric; and what the bootstrap makes of it."""

import time
import tracemalloc

import numpy as np
import pytest

from taskheads.tasks.metrics import METRICS, Interval, interval, paired_difference
from taskheads.tasks.metrics.bootstrap import resampled_rows, resampled_values

EVERY = [(metric.name, kind) for metric in METRICS.values() for kind in sorted(metric.kinds)]


def example(kind, rng, n):
    """(truth, predicted, scores) of n rows, with ties and rare classes."""
    if kind in ("classify", "pair", "ordinal"):
        truth = np.minimum(rng.geometric(0.4, size=n) - 1, 6)
        predicted = np.where(rng.random(n) < 0.5, truth, rng.integers(7, size=n))
        return truth, predicted, rng.random((n, 7)).round(1)
    if kind == "multilabel":
        truth = rng.random((n, 5)) < 0.2
        return truth, truth ^ (rng.random((n, 5)) < 0.1), (truth + 2 * rng.random((n, 5))).round(1)
    if kind in ("regress", "similarity"):
        truth = rng.normal(size=n).round(1) + 100
        return truth, (truth + rng.normal(size=n)).round(1), None
    if kind == "tag":
        tags = ["O", "O", "B-A", "I-A", "I-B"]
        truth = [list(rng.choice(tags, size=rng.integers(0, 8))) for _ in range(n)]
        truth[0] = ["B-A"]
        return truth, [[t if rng.random() < 0.7 else "O" for t in sentence] for sentence in truth], None
    relevant = [rng.choice(30, size=rng.integers(0, 4), replace=False) for _ in range(n)]
    relevant[0] = np.array([1])
    return relevant, None, rng.random((n, 30)).round(1)


def take(data, rows):
    def of(values):
        if values is None:
            return None
        return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]

    return tuple(of(values) for values in data)


@pytest.mark.parametrize(("name", "kind"), EVERY)
@pytest.mark.parametrize("n", [1, 3, 60])
def test_a_weight_is_a_number_of_repeats(name, kind, n):
    rng = np.random.default_rng(n)
    data = example(kind, rng, n)
    weights = rng.integers(0, 4, size=n)
    weights[0] = 1
    repeated = METRICS[name].compute(*take(data, np.repeat(np.arange(n), weights)))
    assert METRICS[name].compute(*data, weights=weights) == pytest.approx(repeated, abs=1e-10)
    plain = METRICS[name].compute(*data)
    assert METRICS[name].compute(*data, weights=np.full(n, 0.7)) == pytest.approx(plain, abs=1e-10)
    assert np.isfinite(plain)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_resampled_values_equal_the_metric_of_the_resampled_rows(name, kind):
    data = example(kind, np.random.default_rng(5), 80)
    fast = resampled_values([METRICS[name].sums(*data)], 12, seed=3)[0]
    slow = [METRICS[name].compute(*take(data, rows)) for rows in resampled_rows(80, 12, seed=3)]
    assert fast == pytest.approx(slow, abs=1e-10)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_perfect_predictions_have_the_best_value(name, kind):
    truth, predicted, scores = example(kind, np.random.default_rng(1), 50)
    if kind == "embed":
        truth = [[query] for query in range(len(truth))]
        scores = np.eye(len(truth))
    else:
        predicted = truth
        if scores is not None:
            scores = truth if kind == "multilabel" else (truth[:, None] == np.arange(7)).astype(float)
    value = METRICS[name].compute(truth, predicted, scores)
    assert value == pytest.approx(1.0 if METRICS[name].higher_is_better else 0.0)
    assert interval(METRICS[name], truth, predicted, scores, resamples=9).value == value


def test_the_ends_are_the_quantiles_of_the_resamples():
    data = example("classify", np.random.default_rng(0), 100)
    slow = [METRICS["macro_f1"].compute(*take(data, rows)) for rows in resampled_rows(100, 200, seed=7)]
    found = interval(METRICS["macro_f1"], *data, resamples=200, seed=7, level=0.9)
    assert found.value == METRICS["macro_f1"].compute(*data)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.05, 0.95])))


def test_blocks_do_not_change_the_resamples(monkeypatch):
    sums = [METRICS["accuracy"].sums(*example("classify", np.random.default_rng(0), 50))]
    whole = resampled_values(sums, 40, seed=1)
    monkeypatch.setattr("taskheads.tasks.metrics.bootstrap._NUMBERS_AT_ONCE", 400)
    assert np.array_equal(resampled_values(sums, 40, seed=1), whole)
    assert np.array_equal(resampled_values(sums, 15, seed=1), whole[:, :15])


def test_a_seed_gives_the_same_interval_and_another_another():
    data = example("regress", np.random.default_rng(0), 100)
    metric = METRICS["spearman"]
    assert interval(metric, *data, resamples=100) == interval(metric, *data, resamples=100)
    assert interval(metric, *data, resamples=100) != interval(metric, *data, resamples=100, seed=1)


def test_one_row_has_an_interval_without_width():
    assert interval(METRICS["accuracy"], [1], [1]) == Interval(1.0, 1.0, 1.0)
    assert interval(METRICS["spearman"], [1.0], [1.0]) == Interval(0.0, 0.0, 0.0)


def test_coverage_of_a_known_mean_is_about_its_level():
    rng = np.random.default_rng(11)
    truth = np.zeros(150, dtype=int)
    covered = 0
    for trial in range(400):
        predicted = (rng.random(150) < 0.3).astype(int)  # accuracy 0.7
        found = interval(METRICS["accuracy"], truth, predicted, resamples=250, seed=trial)
        covered += found.low <= 0.7 <= found.high
    assert 0.91 <= covered / 400 <= 0.98


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_equal_predictions_differ_by_exactly_0(name, kind):
    truth, predicted, scores = example(kind, np.random.default_rng(2), 30)
    found = paired_difference(
        METRICS[name], truth, predicted, predicted, scores_a=scores, scores_b=scores, resamples=20
    )
    assert found == Interval(0.0, 0.0, 0.0)


def test_a_difference_is_of_the_same_resamples():
    rng = np.random.default_rng(4)
    truth, a, _ = example("classify", rng, 90)
    b = np.where(rng.random(90) < 0.1, 0, a)
    metric = METRICS["macro_f1"]
    slow = [
        metric.compute(truth[rows], a[rows]) - metric.compute(truth[rows], b[rows])
        for rows in resampled_rows(90, 100, seed=0)
    ]
    found = paired_difference(metric, truth, a, b, resamples=100)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    other = paired_difference(metric, truth, b, a, resamples=100)
    assert (other.value, other.low, other.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_a_pairing_sees_what_two_intervals_cannot():
    rng = np.random.default_rng(6)
    truth = rng.normal(size=400)
    noise = rng.normal(size=400)
    a, b = truth + noise, truth + 1.05 * noise
    for name in ("mae", "rmse", "spearman", "r2"):
        difference = paired_difference(METRICS[name], truth, a, b, resamples=300)
        assert difference.low > 0, name  # a is better, whether the metric is an error or not
        of_a, of_b = (interval(METRICS[name], truth, p, resamples=300) for p in (a, b))
        assert of_a.low < of_b.high
        assert of_b.low < of_a.high


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_a_level_is_a_share(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval(METRICS["accuracy"], [1], [1], level=level)


def test_a_thousand_resamples_of_ten_thousand_rows_are_quick_and_small():
    rng = np.random.default_rng(0)
    truth = rng.integers(150, size=10_000)
    predicted = np.where(rng.random(10_000) < 0.8, truth, rng.integers(150, size=10_000))
    interval(METRICS["macro_f1"], truth, predicted, resamples=1)
    start = time.perf_counter()
    interval(METRICS["macro_f1"], truth, predicted)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    interval(METRICS["macro_f1"], truth, predicted, resamples=400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 3  # 0.3 s where nothing else runs
    assert peak < 100e6
