import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sklearn_metrics

from rsq_backbone.metrics import (
    ClassificationMetrics,
    Interval,
    PairedDifference,
    SegmentationMetrics,
    _bonett_price,
    classification_metrics,
    confusion_matrix,
    mean_iou,
    paired_difference,
    segmentation_metrics,
)


def names(classes):
    return [f'class {i}' for i in range(classes)]


@pytest.fixture
def cases():
    """Seven unequal classes, about 70 % right."""
    random = np.random.default_rng(0)
    targets = random.choice(7, 400, p=[0.4, 0.2, 0.15, 0.1, 0.08, 0.05, 0.02])
    predictions = np.where(random.random(400) < 0.65, targets, random.integers(0, 7, 400))
    return targets, predictions


def test_three_classes_as_computed_by_hand():
    """        predicted
    true     a  b  c
        a    5  1  0    TP 5, FN 1, FP 2
        b    2  3  1    TP 3, FN 3, FP 1
        c    0  0  8    TP 8, FN 0, FP 1
    """
    result = classification_metrics(np.array([[5, 1, 0], [2, 3, 1], [0, 0, 8]]), ['a', 'b', 'c'])
    assert result.n == 20
    assert result.accuracy == 16 / 20
    assert [c.support for c in result.classes] == [6, 6, 8]
    assert [c.precision for c in result.classes] == [5 / 7, 3 / 4, 8 / 9]
    assert [c.recall for c in result.classes] == [5 / 6, 3 / 6, 1]
    assert [c.iou for c in result.classes] == [5 / 8, 3 / 7, 8 / 9]
    assert [c.f1 for c in result.classes] == [10 / 13, 6 / 10, 16 / 17]
    assert result.mean_iou == pytest.approx((5 / 8 + 3 / 7 + 8 / 9) / 3)
    assert result.balanced_accuracy == pytest.approx((5 / 6 + 3 / 6 + 1) / 3)
    assert result.macro_f1 == pytest.approx((10 / 13 + 6 / 10 + 16 / 17) / 3)
    assert result.confusion_matrix == ((5, 1, 0), (2, 3, 1), (0, 0, 8))


def test_confusion_matrix_counts_true_classes_in_rows():
    np.testing.assert_array_equal(
        confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 0, 2], 4),
        [[1, 1, 0, 0], [0, 1, 0, 0], [2, 0, 1, 0], [0, 0, 0, 0]])
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


def test_small_integer_types_do_not_overflow():
    targets = np.full((3, 4), 250, np.uint8)  # a mask's pixels
    confusion = confusion_matrix(targets, targets, 251)
    assert confusion[250, 250] == confusion.sum() == 12


@pytest.mark.parametrize(('targets', 'predictions', 'says'), [
    ([0, 3], [0, 1], r'targets should be 0 \.\. 2, got 0 \.\. 3'),
    ([0, 1], [-1, 1], r'predictions should be 0 \.\. 2, got -1 \.\. 1'),
    ([0, 1], [0, 1, 2], 'one shape'),
    ([0.0, 1.0], [0, 1], 'whole numbers'),
    ([0, 1], [0, math.nan], 'whole numbers'),
])
def test_wrong_cases_are_refused(targets, predictions, says):
    with pytest.raises(ValueError, match=says):
        confusion_matrix(targets, predictions, 3)


@pytest.mark.parametrize(('confusion', 'says'), [
    (np.zeros((2, 2), int), 'no cases'),
    (np.ones((3, 3), int), 'square'),
    (np.ones((2, 3), int), 'square'),
    (np.ones(4, int), 'square'),
    (np.array([[1, -1], [0, 1]]), 'counts'),
    (np.array([[0.5, 0.5], [0.0, 1.0]]), 'counts'),
])
def test_wrong_matrices_are_refused(confusion, says):
    with pytest.raises(ValueError, match=says):
        classification_metrics(confusion, ['a', 'b'])


def test_scikit_learn_agrees(cases):
    targets, predictions = cases
    confusion = confusion_matrix(targets, predictions, 7)
    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(targets, predictions))
    result = classification_metrics(confusion, names(7))
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(targets, predictions)
    np.testing.assert_allclose([c.precision for c in result.classes], precision)
    np.testing.assert_allclose([c.recall for c in result.classes], recall)
    np.testing.assert_allclose([c.f1 for c in result.classes], f1)
    np.testing.assert_array_equal([c.support for c in result.classes], support)
    iou = sklearn_metrics.jaccard_score(targets, predictions, average=None)
    np.testing.assert_allclose([c.iou for c in result.classes], iou)
    assert result.accuracy == sklearn_metrics.accuracy_score(targets, predictions)
    assert result.balanced_accuracy == pytest.approx(sklearn_metrics.balanced_accuracy_score(targets, predictions))
    assert result.mean_iou == pytest.approx(iou.mean())
    assert result.macro_f1 == pytest.approx(f1.mean())


def test_torchmetrics_agrees(cases):
    import torch
    from torchmetrics.functional import classification

    targets, predictions = (torch.from_numpy(values) for values in cases)
    result = classification_metrics(confusion_matrix(targets, predictions, 7), names(7))
    judge = {
        'accuracy': classification.multiclass_accuracy(predictions, targets, 7, average='micro'),
        'balanced_accuracy': classification.multiclass_accuracy(predictions, targets, 7, average='macro'),
        'macro_f1': classification.multiclass_f1_score(predictions, targets, 7, average='macro'),
        'mean_iou': classification.multiclass_jaccard_index(predictions, targets, 7, average='macro'),
    }
    for name, value in judge.items():
        assert getattr(result, name) == pytest.approx(float(value), abs=1e-6), name


def test_undefined_values_are_none_and_left_out_of_means():
    """c occurs and is never predicted, d is predicted and never occurs, e does neither."""
    targets, predictions = [0, 0, 0, 1, 1, 2], [0, 0, 3, 1, 0, 1]
    result = classification_metrics(confusion_matrix(targets, predictions, 5), ['a', 'b', 'c', 'd', 'e'])
    assert [c.precision for c in result.classes] == [2 / 3, 1 / 2, None, 0, None]
    assert [c.recall for c in result.classes] == [2 / 3, 1 / 2, 0, None, None]
    assert [c.iou for c in result.classes] == [2 / 4, 1 / 3, 0, 0, None]
    assert [c.f1 for c in result.classes] == [4 / 6, 2 / 4, 0, 0, None]
    assert result.mean_iou == pytest.approx((2 / 4 + 1 / 3) / 4)
    assert result.macro_f1 == pytest.approx((4 / 6 + 2 / 4) / 4)
    # scikit-learn's balanced accuracy is over the classes that occur, and says so of d's absence.
    with pytest.warns(UserWarning, match='not in y_true'):
        balanced = sklearn_metrics.balanced_accuracy_score(targets, predictions)
    assert result.balanced_accuracy == pytest.approx(balanced)


@pytest.mark.parametrize(('confusion', 'name'), [
    ([[0, 3], [0, 5]], 'b'), ([[3, 0], [5, 0]], 'a'), ([[3, 0], [4, 1]], None), ([[3, 0], [0, 0]], 'a'),
    ([[0, 1], [0, 0]], None),  # of a single case that says nothing
])
def test_a_classifier_that_takes_every_case_for_the_same_class_is_told(confusion, name):
    assert classification_metrics(confusion, ['a', 'b']).only_prediction == name


@pytest.mark.parametrize(('correct', 'n', 'low', 'high'), [
    (81, 263, 0.2553, 0.3662),  # Newcombe, Two-sided confidence intervals for the single proportion (1998), table I
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
])
def test_accuracy_interval_is_that_of_newcombes_published_examples(correct, n, low, high):
    interval = classification_metrics(np.array([[correct, n - correct], [0, 0]]), ['a', 'b']).accuracy_interval
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@pytest.mark.parametrize(('correct', 'n'), [(0, 1), (1, 1), (7, 9), (247, 292), (292, 292), (9 * 10**9, 10**10)])
def test_scipy_agrees_on_the_accuracy_interval(correct, n):
    interval = classification_metrics(np.array([[correct, n - correct], [0, 0]]), ['a', 'b']).accuracy_interval
    judge = scipy.stats.binomtest(correct, n).proportion_ci(method='wilson')
    assert (interval.low, interval.high) == pytest.approx((judge.low, judge.high), abs=1e-12)
    assert 0 <= interval.low < interval.high <= 1


def test_resampling_the_cases_themselves_gives_the_same_mean_iou_interval(cases):
    targets, predictions = cases
    result = classification_metrics(confusion_matrix(targets, predictions, 7), names(7)).mean_iou_interval

    def mean_iou(targets, predictions, axis):
        both = [((targets == c) & (predictions == c)).sum(axis) for c in range(7)]
        either = [((targets == c) | (predictions == c)).sum(axis) for c in range(7)]
        return (np.array(both) / either).mean(0)

    judge = scipy.stats.bootstrap(
        cases, mean_iou, paired=True, n_resamples=20_000, batch=2000, method='percentile', rng=1)
    # The standard error of a 2.5 % quantile is 2.67 times the spread over the root of the draws; take two of them.
    tolerance = 2 * 2.67 * np.sqrt(1 / 2000 + 1 / 20_000) * judge.standard_error
    assert result.low == pytest.approx(judge.confidence_interval.low, abs=tolerance)
    assert result.high == pytest.approx(judge.confidence_interval.high, abs=tolerance)
    assert tolerance < (result.high - result.low) / 30


def test_equal_seeds_give_equal_intervals(cases):
    confusion = confusion_matrix(*cases, 7)
    assert classification_metrics(confusion, names(7), 3) == classification_metrics(confusion, names(7), 3)
    assert (classification_metrics(confusion, names(7), 3).mean_iou_interval
            != classification_metrics(confusion, names(7), 4).mean_iou_interval)


@pytest.mark.parametrize(('correct', 'printed'), [
    (241, 0.8253), (248, 0.8493), (257, 0.8801), (255, 0.8733), (256, 0.8767), (247, 0.8459)])
def test_table_1_of_the_paper_follows_from_whole_counts(correct, printed):
    confusion = np.diag([correct - 100, 100, 0])
    confusion[2, 0] = 292 - correct
    assert round(classification_metrics(confusion, ['a', 'b', 'c']).accuracy, 4) == printed


def test_one_picture_of_292_is_a_third_of_a_point():
    one, two = (classification_metrics(np.array([[c, 292 - c], [0, 0]]), ['a', 'b']).accuracy for c in (247, 248))
    assert round(100 * (two - one), 2) == 0.34


def test_counts_of_pixels_do_not_overflow():
    confusion = np.full((19, 19), 10**8) + np.diag(np.full(19, 10**10))
    result = classification_metrics(confusion, names(19))
    assert result.n == 19 * 10**10 + 361 * 10**8
    assert result.accuracy == pytest.approx((10**10 + 10**8) / (10**10 + 19 * 10**8))
    assert result.mean_iou == pytest.approx((10**10 + 10**8) / (10**10 + 37 * 10**8))
    assert result.mean_iou_interval.low < result.mean_iou < result.mean_iou_interval.high


def test_nothing_wrong_is_all_ones():
    result = classification_metrics(np.diag([3, 4]), ['a', 'b'])
    assert (result.accuracy, result.mean_iou, result.balanced_accuracy, result.macro_f1) == (1, 1, 1, 1)
    assert result.mean_iou_interval == Interval(1, 1)
    assert result.accuracy_interval.low == pytest.approx(7 / (7 + 1.959964**2))  # Wilson at p = 1: n / (n + z^2)


def test_metrics_survive_json(cases):
    result = classification_metrics(confusion_matrix(*cases, 8), names(8))  # the last class has undefined values
    text = json.dumps(dataclasses.asdict(result), allow_nan=False)
    assert ClassificationMetrics.from_json(json.loads(text)) == result


def test_paired_difference_is_that_of_the_metrics_and_its_interval_that_of_scipy():
    """Two classifiers that are mostly right on the same 300 cases; scipy resamples the cases themselves."""
    random = np.random.default_rng(0)
    targets = random.integers(0, 3, 300)
    guesses = [np.where(random.random(300) < share, targets, random.integers(0, 3, 300)) for share in (0.8, 0.6)]
    found = paired_difference(targets, *guesses, 3)
    both = [classification_metrics(confusion_matrix(targets, one, 3), names(3)) for one in guesses]
    assert found.accuracy == pytest.approx(both[0].accuracy - both[1].accuracy)
    assert found.mean_iou == pytest.approx(both[0].mean_iou - both[1].mean_iou)

    def statistics(targets, one, other):
        return [sklearn_metrics.accuracy_score(targets, one) - sklearn_metrics.accuracy_score(targets, other),
                mean_iou(confusion_matrix(targets, one, 3)) - mean_iou(confusion_matrix(targets, other, 3))]

    expected = scipy.stats.bootstrap(
        (targets, *guesses), statistics, paired=True, vectorized=False, method='percentile', n_resamples=2000,
        rng=np.random.default_rng(1)).confidence_interval
    for interval, low, high in zip((found.accuracy_interval, found.mean_iou_interval), *expected, strict=True):
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.015)
    assert PairedDifference.from_json(json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_the_same_predictions_do_not_differ():
    found = paired_difference([0, 1, 1], [0, 1, 0], [0, 1, 0], 2)
    assert (found.accuracy, found.mean_iou, found.mean_iou_interval) == (0, 0, Interval(0, 0))
    assert found.accuracy_interval.low < 0 < found.accuracy_interval.high


@pytest.mark.parametrize('n', [1, 2, 5])
def test_a_few_cases_show_no_difference(n):
    found = paired_difference([0] * n, [0] * n, [1] * n, 2)
    assert found.accuracy == 1
    assert (found.accuracy_interval.low > 0) == (n == 5)  # 0.03 is what a sign test gives both sides of five


def test_classifiers_that_are_equal_are_told_apart_as_seldom_as_promised():
    random = np.random.default_rng(0)
    for n in (12, 40):
        wrong = 0
        for _ in range(400):
            one, other = random.random((2, n)) < 0.7
            found = _bonett_price(int((one & ~other).sum()), int((other & ~one).sum()), n)
            wrong += not found.low <= 0 <= found.high
        assert wrong / 400 < 0.07


def segmented(pictures=40, classes=6, seed=0):
    """(pictures, 24, 32) targets, predictions and which pixels count: a picture shows three classes or so, of unequal
    frequency, and is hit more or less well; the last class neither occurs nor is predicted."""
    random = np.random.default_rng(seed)
    shares = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    targets, predictions, counted = np.zeros((3, pictures, 24, 32), int)
    for i in range(pictures):
        shown = random.choice(classes - 1, 3, replace=False, p=shares)
        targets[i] = random.choice(shown, (24, 32), p=[0.6, 0.3, 0.1])
        hit = random.random((24, 32)) < random.beta(4, 1.5)
        predictions[i] = np.where(hit, targets[i], random.choice(classes - 1, (24, 32)))
        counted[i] = random.random((24, 32)) > random.choice([0, 0.3])
    return targets, predictions, counted.astype(bool)


def picture_confusions(targets, predictions, counted, classes=6):
    return np.stack([confusion_matrix(t[c], p[c], classes)
                     for t, p, c in zip(targets, predictions, counted, strict=True)])


def test_segmentation_of_two_pictures_as_computed_by_hand():
    """Pixels are counted over both pictures: of a,  TP 3 + 0, FN 1 + 0, FP 0 + 2; d neither occurs nor is predicted."""
    first = confusion_matrix([[0, 0], [0, 0]], [[0, 0], [0, 1]], 4)
    second = confusion_matrix([[1, 1, 1, 2], [1, 1, 1, 2]], [[1, 1, 1, 0], [1, 1, 1, 0]], 4)
    result = segmentation_metrics(np.stack([first, second]), ['a', 'b', 'c', 'd'])
    assert (result.n, result.pixels) == (2, 12)
    assert result.pixel_accuracy == 9 / 12
    assert [c.support for c in result.classes] == [4, 6, 2, 0]
    assert [c.iou for c in result.classes] == [3 / 6, 6 / 7, 0, None]
    assert [c.f1 for c in result.classes] == [6 / 9, 12 / 13, 0, None]
    assert result.mean_iou == pytest.approx((3 / 6 + 6 / 7 + 0) / 3)
    assert result.mean_dice == pytest.approx((6 / 9 + 12 / 13 + 0) / 3)
    assert result.confusion_matrix == ((3, 1, 0, 0), (0, 6, 0, 0), (2, 0, 0, 0), (0, 0, 0, 0))


def test_scikit_learn_agrees_on_pixels():
    targets, predictions, counted = segmented()
    result = segmentation_metrics(picture_confusions(targets, predictions, counted), names(6))
    flat = targets[counted], predictions[counted]
    iou = sklearn_metrics.jaccard_score(*flat, average=None)  # of the classes that there are
    f1 = sklearn_metrics.f1_score(*flat, average=None)
    assert result.classes[5].iou is result.classes[5].f1 is None
    np.testing.assert_allclose([c.iou for c in result.classes[:5]], iou)
    np.testing.assert_allclose([c.f1 for c in result.classes[:5]], f1)
    assert result.mean_iou == pytest.approx(iou.mean())
    assert result.mean_dice == pytest.approx(f1.mean())
    assert result.pixel_accuracy == sklearn_metrics.accuracy_score(*flat)
    assert result.pixels == counted.sum() < counted.size
    np.testing.assert_array_equal(result.confusion_matrix, sklearn_metrics.confusion_matrix(*flat, labels=range(6)))


def test_torchmetrics_and_smp_agree_on_pixels_with_255_ignored():
    import segmentation_models_pytorch as smp
    import torch
    from torchmetrics.functional import classification

    targets, predictions, counted = segmented()
    result = segmentation_metrics(picture_confusions(targets, predictions, counted), names(6))
    p, t = torch.from_numpy(predictions), torch.from_numpy(np.where(counted, targets, 255))
    for judge, value in (
            (classification.multiclass_jaccard_index(p, t, 6, average='macro', ignore_index=255), result.mean_iou),
            (classification.multiclass_f1_score(p, t, 6, average='macro', ignore_index=255), result.mean_dice),
            (classification.multiclass_accuracy(p, t, 6, average='micro', ignore_index=255), result.pixel_accuracy)):
        assert value == pytest.approx(float(judge), abs=1e-6)
    # smp takes only negative numbers for pixels to be ignored.
    t[t == 255] = -1
    counts = [x.sum(0, keepdim=True) for x in smp.metrics.get_stats(
        p, t, mode='multiclass', num_classes=6, ignore_index=-1)]
    iou = smp.metrics.iou_score(*counts, reduction='none')[0]
    np.testing.assert_allclose([c.iou for c in result.classes[:5]], iou[:5], rtol=1e-6)
    f1 = smp.metrics.f1_score(*counts, reduction='none')[0]
    np.testing.assert_allclose([c.f1 for c in result.classes[:5]], f1[:5], rtol=1e-6)


def test_resampling_the_pictures_themselves_gives_the_same_intervals():
    confusions = picture_confusions(*segmented())
    results = [segmentation_metrics(confusions, names(6), seed) for seed in range(20)]

    def accuracy(confusions):
        return np.trace(confusions.sum(0)) / confusions.sum()

    def mean_iou(confusions):
        total = confusions.sum(0)
        with np.errstate(invalid='ignore'):
            return np.nanmean(np.diag(total) / (total.sum(0) + total.sum(1) - np.diag(total)))

    random = np.random.default_rng(1)
    draws = [confusions[random.integers(0, 40, 40)] for _ in range(10_000)]
    for judge, field in ((accuracy, 'pixel_accuracy_interval'), (mean_iou, 'mean_iou_interval')):
        values = np.array([judge(draw) for draw in draws])
        # As above for the cases of a classifier, but three of them: there are four ends.
        tolerance = 3 * 2.67 * np.sqrt(1 / (20 * 2000) + 1 / 10_000) * values.std()
        low, high = np.quantile(values, [0.025, 0.975])
        assert np.mean([getattr(result, field).low for result in results]) == pytest.approx(low, abs=tolerance)
        assert np.mean([getattr(result, field).high for result in results]) == pytest.approx(high, abs=tolerance)
        assert tolerance < (high - low) / 30


def test_the_interval_is_of_pictures_not_of_pixels():
    """A picture twice as large says no more than before, while its pixels were taken for twice as many cases."""
    confusions = picture_confusions(*segmented())
    result, larger = (segmentation_metrics(c, names(6)) for c in (confusions, 100 * confusions))
    assert larger.mean_iou_interval == result.mean_iou_interval
    assert larger.pixel_accuracy_interval == result.pixel_accuracy_interval
    pixels = classification_metrics(confusions.sum(0), names(6))
    width = result.pixel_accuracy_interval.high - result.pixel_accuracy_interval.low
    assert width > 5 * (pixels.accuracy_interval.high - pixels.accuracy_interval.low)


def test_of_one_picture_the_intervals_are_its_values():
    [confusion] = picture_confusions(*segmented(1))
    result = segmentation_metrics(confusion[None], names(6))
    assert result.n == 1
    assert result.pixel_accuracy_interval == Interval(result.pixel_accuracy, result.pixel_accuracy)
    assert (result.mean_iou_interval.low, result.mean_iou_interval.high) == pytest.approx((result.mean_iou,) * 2)


def test_pictures_of_which_every_pixel_is_ignored_change_nothing():
    confusions = picture_confusions(*segmented(4))
    with_ignored = np.concatenate([np.zeros((3, 6, 6), int), confusions, np.zeros((5, 6, 6), int)])
    assert segmentation_metrics(with_ignored, names(6)) == segmentation_metrics(confusions, names(6))


def test_intervals_of_many_pictures_are_the_same_however_few_draws_are_held_at_a_time(monkeypatch):
    confusions = picture_confusions(*segmented())
    expected = segmentation_metrics(confusions, names(6), seed=3)
    monkeypatch.setattr('rsq_backbone.metrics._DRAWN', 7 * 40 + 1)
    assert segmentation_metrics(confusions, names(6), seed=3) == expected
    assert segmentation_metrics(confusions, names(6), seed=4).mean_iou_interval != expected.mean_iou_interval


@pytest.mark.parametrize(('confusions', 'says'), [
    (np.zeros((3, 2, 2), int), 'no pixels'),
    (np.zeros((0, 2, 2), int), 'no pixels'),
    (np.ones((2, 2), int), 'square'),
    (np.ones((1, 3, 3), int), 'square'),
    (np.ones((1, 2, 3), int), 'square'),
    (np.array([[[1, -1], [0, 1]]]), 'counts'),
    (np.array([[[0.5, 0.5], [0.0, 1.0]]]), 'counts'),
    (np.array([[[math.nan, 0.0], [0.0, 1.0]]]), 'counts'),
])
def test_wrong_matrices_of_pictures_are_refused(confusions, says):
    with pytest.raises(ValueError, match=says):
        segmentation_metrics(confusions, ['a', 'b'])


def test_nothing_wrong_in_any_picture_is_all_ones():
    result = segmentation_metrics(np.stack([np.diag([10**9, 3, 0]), np.diag([0, 7, 0])]), ['a', 'b', 'c'])
    assert (result.pixel_accuracy, result.mean_iou, result.mean_dice) == (1, 1, 1)
    assert result.pixel_accuracy_interval == result.mean_iou_interval == Interval(1, 1)


def test_segmentation_metrics_survive_json():
    result = segmentation_metrics(picture_confusions(*segmented(5)), names(6))
    text = json.dumps(dataclasses.asdict(result), allow_nan=False)
    assert SegmentationMetrics.from_json(json.loads(text)) == result


def test_mean_iou_alone_is_that_of_the_metrics_and_passes_over_empty_classes():
    confusion = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert mean_iou(confusion) == segmentation_metrics(confusion[None], 'abc').mean_iou
    assert mean_iou(confusion) == pytest.approx((6 / 9 + 3 / 6) / 2)
