"""Metrics of rows, against scikit-learn and scipy, and the registry."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as reference

from taskheads.errors import ConfigError
from taskheads.tasks import metrics
from taskheads.tasks.metrics import DEFAULT_METRIC, METRICS, default_metric, metric_named, metrics_of
from taskheads.tasks.metrics.metric import KINDS


def score(name, *data, **options):
    return METRICS[name].compute(*data, **options)


def labels(rng, n, classes):
    truth = rng.integers(classes, size=n)
    predicted = np.where(rng.random(n) < 0.6, truth, rng.integers(classes, size=n))
    scores = rng.random((n, classes)).round(1)  # rounded: many ties
    scores[np.arange(n), predicted] += 0.5
    return truth, predicted, scores


SIZES = [(1, 2), (2, 2), (7, 3), (40, 2), (200, 5), (300, 60)]


@pytest.mark.parametrize(("n", "classes"), SIZES)
def test_classification_equals_scikit_learn(n, classes):
    truth, predicted, _ = labels(np.random.default_rng(n), n, classes)
    assert score("accuracy", truth, predicted) == pytest.approx(reference.accuracy_score(truth, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        balanced = reference.balanced_accuracy_score(truth, predicted)
        macro = reference.f1_score(truth, predicted, average="macro")
    assert score("balanced_accuracy", truth, predicted) == pytest.approx(balanced)
    assert score("macro_f1", truth, predicted) == pytest.approx(macro)


@pytest.mark.parametrize(("n", "classes"), SIZES)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
def test_multilabel_equals_scikit_learn(n, classes, density):
    rng = np.random.default_rng(n)
    truth = rng.random((n, classes)) < density
    predicted = truth ^ (rng.random((n, classes)) < 0.2)
    micro = reference.f1_score(truth, predicted, average="micro", zero_division=0)
    assert score("micro_f1", truth, predicted) == pytest.approx(micro)
    # A label nobody has or predicts has no F1: scikit-learn's mean over the defined ones is ours.
    macro = reference.f1_score(truth, predicted, average="macro", zero_division=np.nan)
    assert score("macro_f1", truth, predicted) == pytest.approx(0.0 if np.isnan(macro) else macro)
    assert score("exact_match", truth, predicted) == pytest.approx((truth == predicted).all(1).mean())


@pytest.mark.parametrize(("n", "classes"), SIZES)
def test_scores_of_labels_equal_scikit_learn(n, classes):
    rng = np.random.default_rng(n)
    truth, predicted, scores = labels(rng, n, classes)
    several = rng.random((n, classes)) < 0.3
    for data, sets in ((truth, truth[:, None] == np.arange(classes)), (several, several)):
        precisions = [
            reference.average_precision_score(sets[:, c], scores[:, c])
            for c in range(classes)
            if sets[:, c].any()
        ]
        areas = [
            reference.roc_auc_score(sets[:, c], scores[:, c])
            for c in range(classes)
            if sets[:, c].any() and not sets[:, c].all()
        ]
        expected = np.mean(precisions) if precisions else 0.0
        assert score("average_precision", data, predicted, scores) == pytest.approx(expected)
        assert score("roc_auc", data, predicted, scores) == pytest.approx(np.mean(areas) if areas else 0.5)


def test_scores_of_one_column_are_of_label_1():
    rng = np.random.default_rng(3)
    truth, predicted, scores = labels(rng, 50, 2)
    column = scores[:, 1]
    expected = reference.average_precision_score(truth, column)
    assert score("average_precision", truth, predicted, column) == pytest.approx(expected)
    assert score("roc_auc", truth, predicted, column) == pytest.approx(reference.roc_auc_score(truth, column))


def test_constant_scores_have_the_base_rate_and_no_area():
    truth = np.array([True, False, False, False])[:, None]
    assert score("average_precision", truth, truth, np.ones((4, 1))) == 0.25
    assert score("roc_auc", truth, truth, np.ones((4, 1))) == 0.5


def test_without_positives_nothing_is_ranked():
    truth = np.zeros((5, 3), dtype=bool)
    scores = np.random.default_rng(0).random((5, 3))
    assert score("average_precision", truth, truth, scores) == 0.0
    assert score("roc_auc", truth, truth, scores) == 0.5
    assert score("micro_f1", truth, truth) == 0.0
    assert score("macro_f1", truth, truth) == 0.0
    assert score("exact_match", truth, truth) == 1.0


@pytest.mark.parametrize("n", [2, 3, 10, 500])
@pytest.mark.parametrize("decimals", [0, 8])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_regression_equals_scipy_and_scikit_learn(n, decimals, offset):
    rng = np.random.default_rng(n)
    truth = offset + np.arange(n) + rng.normal(size=n).round(decimals)
    predicted = truth + 2 * rng.normal(size=n).round(decimals)
    assert score("mae", truth, predicted) == pytest.approx(reference.mean_absolute_error(truth, predicted))
    expected = reference.root_mean_squared_error(truth, predicted)
    assert score("rmse", truth, predicted) == pytest.approx(expected)
    assert score("r2", truth, predicted) == pytest.approx(reference.r2_score(truth, predicted), abs=1e-8)
    if len(set(truth)) > 1 and len(set(predicted)) > 1:
        expected = scipy.stats.pearsonr(truth, predicted).statistic
        assert score("pearson", truth, predicted) == pytest.approx(expected, abs=1e-8)
        expected = scipy.stats.spearmanr(truth, predicted).statistic
        assert score("spearman", truth, predicted) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 / 3])
@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_a_constant_correlates_with_nothing(name, constant):
    varied = np.random.default_rng(0).normal(size=49)
    assert score(name, varied, np.full(49, constant)) == 0.0
    assert score(name, np.full(49, constant), varied) == 0.0
    assert score(name, [1.0], [2.0]) == 0.0


def test_correlations_do_not_depend_on_the_scale():
    x = np.random.default_rng(0).normal(size=30)
    for name in ("spearman", "pearson", "r2"):
        assert score(name, 1e-150 * x, 1e-150 * x) == pytest.approx(1.0)
        assert score(name, 1e140 * x, 1e140 * x) == pytest.approx(1.0)


def test_r2_of_a_constant_truth():
    assert score("r2", np.full(7, 0.1), np.full(7, 0.1)) == 1.0
    assert score("r2", np.full(7, 0.1), np.full(7, 0.2)) == 0.0


@pytest.mark.parametrize(("n", "levels"), [(2, 2), (10, 3), (400, 5), (400, 40)])
def test_kappa_equals_scikit_learn(n, levels):
    rng = np.random.default_rng(n + levels)
    truth = rng.integers(levels, size=n)
    truth[0] = 0
    predicted = np.clip(truth + rng.integers(-2, 3, size=n), 0, levels - 1)
    predicted[0] = 1
    expected = reference.cohen_kappa_score(truth, predicted, weights="quadratic", labels=np.arange(levels))
    assert score("quadratic_kappa", truth, predicted) == pytest.approx(expected)


def test_kappa_measures_distance_between_levels_that_occur_or_not():
    truth, predicted = np.array([0, 0, 4, 4]), np.array([0, 4, 4, 4])
    near = np.array([0, 1, 4, 4])
    assert score("quadratic_kappa", truth, near) > score("quadratic_kappa", truth, predicted)


def test_kappa_of_a_constant_is_0():
    assert score("quadratic_kappa", np.array([0, 1, 2, 2]), np.full(4, 2)) == 0.0
    assert score("quadratic_kappa", np.full(3, 2), np.full(3, 2)) == 0.0


def test_an_error_is_turned_into_a_utility():
    assert {m.name for m in METRICS.values() if not m.higher_is_better} == {"mae", "rmse"}
    assert METRICS["mae"].sign == -1
    assert METRICS["mae"].utility(2.5) == -2.5
    assert METRICS["accuracy"].utility(0.5) == 0.5


def test_every_kind_has_a_default_among_its_metrics():
    assert set(DEFAULT_METRIC) == set(KINDS) == set().union(*(m.kinds for m in METRICS.values()))
    for kind in KINDS:
        assert metric_named(default_metric(kind), kind) is METRICS[DEFAULT_METRIC[kind]]
        assert metrics_of(kind)[0].name == DEFAULT_METRIC[kind]
        assert metric_named(default_metric(kind, flat=True), kind)
    assert default_metric("tag") == "entity_f1"
    assert default_metric("tag", flat=True) == "accuracy"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("macro-F1", "classify", ["no metric 'macro-F1'", "did you mean 'macro_f1'?", "balanced_accuracy"]),
        ("spearman", "classify", ["'spearman' is not for classify tasks", "accuracy"]),
        ("recall", "embed", ["did you mean 'recall@", "ndcg@10"]),
        ("zzz", "regress", ["no metric 'zzz'", "mae"]),
        ("accuracy", "clasify", ["no kind of task 'clasify'", "classify"]),
    ],
)
def test_an_unknown_metric_is_a_sentence(name, kind, words):
    with pytest.raises(ConfigError) as error:
        metric_named(name, kind)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("accuracy", ([], []), "accuracy of no rows"),
        ("ndcg@10", ([], None, np.zeros((0, 3))), "of no rows"),
        ("accuracy", ([1, 2], [1]), "one prediction a row: 1 for 2"),
        ("accuracy", ([0.5], [1.0]), "label indices"),
        ("accuracy", ([0, 1], [0, -1]), "-1 in row 1"),
        ("macro_f1", ([[True]], [[True]]), "lists of tags"),
        ("micro_f1", (np.ones((2, 2)), np.ones((2, 3))), r"\[2, 2\] and \[2, 3\]"),
        ("mae", ([1.0, 2.0], [1.0, np.nan]), "predicted has nan in row 1"),
        ("average_precision", ([0, 1], [0, 1]), "needs `scores`"),
        ("average_precision", ([0, 3], [0, 1], np.zeros((2, 2))), "label index 3"),
        ("roc_auc", ([0, 1], [0, 1], np.array([[0, 1], [np.nan, 1]])), "NaN in row 1"),
    ],
)
def test_data_that_cannot_be_scored_is_a_sentence(name, data, words):
    with pytest.raises(ValueError, match=words):
        score(name, *data)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [np.nan, 1.0], [0.0, 0.0]])
def test_weights_that_cannot_be_are_a_sentence(weights):
    with pytest.raises(ValueError, match="weigh"):
        score("accuracy", [0, 1], [0, 1], weights=weights)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "mae", "r2", "pearson"])
def test_row_weights_equal_scikit_learn(name):
    rng = np.random.default_rng(1)
    truth, predicted, _ = labels(rng, 100, 4)
    weights = rng.random(100)
    expected = {
        "accuracy": lambda: reference.accuracy_score(truth, predicted, sample_weight=weights),
        "macro_f1": lambda: reference.f1_score(truth, predicted, average="macro", sample_weight=weights),
        "mae": lambda: reference.mean_absolute_error(truth, predicted, sample_weight=weights),
        "r2": lambda: reference.r2_score(truth, predicted, sample_weight=weights),
        "pearson": lambda: _weighted_correlation(truth, predicted, weights),
    }[name]()
    assert score(name, truth, predicted, weights=weights) == pytest.approx(expected)


def _weighted_correlation(x, y, weights):
    covariance = np.cov(x, y, aweights=weights)
    return covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])


def test_importing_the_metrics_imports_neither_torch_nor_scipy_nor_scikit_learn():
    code = (
        "import sys, taskheads.tasks.metrics; "
        "print([m for m in ('torch', 'scipy', 'sklearn', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_metric_says_what_it_is_and_where_from():
    for metric in METRICS.values():
        assert metric.summary
        assert "\n" not in metric.summary
        assert getattr(metric.reduce, "func", metric.reduce).__doc__
    assert set(metrics.__all__) <= set(dir(metrics))
