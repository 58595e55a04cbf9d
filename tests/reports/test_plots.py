import itertools
import warnings

import matplotlib
import numpy as np
import pytest
from drawings import assert_good_png, texts
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from rsq_backbone.metrics import classification_metrics
from rsq_backbone.reports.plots import draw_confusion, draw_curves, draw_mistakes, draw_pictures
from rsq_backbone.results import PicturePrediction

HOSTILE = {
    '<script>alert(1)</script>': 9, '$x_{1}$ $$ \\frac': 8, 'new\nline\x00nul': 7, '\udcff': 6, '寿司 🍕': 5, '': 4,
    'a name that goes on and on ' * 20: 3, 'العربية': 2}


def test_curves_show_every_iteration_and_the_outcome(make_result, drawn, tmp_path):
    result = make_result()
    draw_curves(result, tmp_path / 'curves.png')
    assert_good_png(tmp_path / 'curves.png')
    upper, lower = drawn[0].axes
    lines = {line.get_label(): line for line in upper.lines}
    np.testing.assert_allclose(
        lines['training, each batch'].get_ydata(), [100 * i.accuracy for i in result.iterations])
    held_out = lines['held-out pictures, after each epoch']
    np.testing.assert_allclose(held_out.get_xdata(), [68, 136, 204, 272, 340, 408])
    np.testing.assert_allclose(held_out.get_ydata(), [100 * e.monitor_accuracy for e in result.epochs])
    kept = next(line for line in lower.lines if 'its weights were kept' in line.get_label())
    assert kept.get_label().startswith('epoch 5, chosen by the held-out pictures')
    assert set(kept.get_xdata()) == {340}
    levels = {float(line.get_ydata()[0]) for line in upper.lines if len(line.get_ydata()) == 2}
    assert {100 * result.metrics.accuracy, 100 * result.linear.accuracy} <= levels
    said = ' '.join(texts(drawn[0]))
    for metrics in (result.metrics, result.linear):
        interval = metrics.accuracy_interval
        assert f'{100 * metrics.accuracy:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]' in said


def test_smoothed_curve_is_the_mean_of_neighbours(make_result, drawn, tmp_path):
    result = make_result(epochs=1, iterations=12)  # a window of a third of an epoch: 4
    draw_curves(result, tmp_path / 'curves.png')
    smooth = next(line for line in drawn[0].axes[1].lines if line.get_label() == 'training, smoothed').get_ydata()
    losses = [i.loss for i in result.iterations]
    assert len(smooth) == 12
    assert smooth[6] == pytest.approx(np.mean(losses[4:8]))
    assert smooth[-1] == pytest.approx(np.mean(losses[-3:]))


def test_curves_say_that_validation_pictures_were_only_watched(make_result, drawn, tmp_path):
    draw_curves(make_result(monitor='validation'), tmp_path / 'curves.png')
    said = ' '.join(texts(drawn[0]))
    assert 'validation pictures, after each epoch' in said
    assert 'epoch 6, the last: its weights were kept' in said


@pytest.mark.parametrize('case', [
    dict(epochs=1), dict(monitor=None), dict(epochs=1, iterations=1, monitor=None), dict(epochs=6, iterations=6),
    dict(epochs=40, iterations=400), dict(right=1.0, linear_right=1.0), dict(right=0.0, linear_right=0.0),
    dict(name='$\\frac{1}{$', model='<b>\udcff\n' * 50), dict(epochs=0, iterations=0, monitor=None)])
def test_unusual_runs_have_curves_too(make_result, tmp_path, case):
    draw_curves(make_result(**case), tmp_path / 'curves.png')
    assert_good_png(tmp_path / 'curves.png')


def test_confusion_matrix_shows_counts_shares_recall_and_precision(drawn, tmp_path):
    metrics = classification_metrics(np.array([[5, 1, 0], [2, 3, 1], [0, 0, 8]]), ['cat', 'dog', 'owl'])
    draw_confusion(metrics, tmp_path / 'confusion.png')
    assert_good_png(tmp_path / 'confusion.png')
    axes = drawn[0].axes[0]
    cells = {tuple(text.get_position()): text.get_text() for text in axes.texts if '\n' in text.get_text()}
    assert cells == {  # at (column, row)
        (0, 0): '5\n83 %', (1, 0): '1\n17 %', (0, 1): '2\n33 %', (1, 1): '3\n50 %', (2, 1): '1\n17 %',
        (2, 2): '8\n100 %'}
    said = texts(drawn[0])
    for recall in ('83.3 % of 6', '50.0 % of 6', '100.0 % of 8'):
        assert recall in said
    for precision in ('71.4 %', '75.0 %', '88.9 %'):
        assert precision in said
    assert [label.get_text() for label in axes.get_yticklabels()] == ['cat', 'dog', 'owl']
    assert [label.get_text() for label in axes.get_xticklabels()] == ['cat', 'dog', 'owl']


@pytest.mark.parametrize('classes', [1, 9, 100])
def test_confusion_matrix_names_all_classes(drawn, tmp_path, classes):
    names = [f'some class {i}' for i in range(classes)]
    draw_confusion(classification_metrics(np.diag(np.full(classes, 3)), names), tmp_path / 'confusion.png')
    assert_good_png(tmp_path / 'confusion.png')
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    renderer = FigureCanvasAgg(drawn[0]).get_renderer()
    boxes = [label.get_window_extent(renderer) for label in axes.get_yticklabels()]
    tops = sorted((box.y0, box.y1) for box in boxes)
    assert all(upper[0] >= lower[1] - 1 for lower, upper in itertools.pairwise(tops))  # none on another
    assert min(box.x0 for box in boxes) >= 0
    assert all(label.get_fontsize() >= 6 for label in axes.get_yticklabels())


def test_confusion_matrix_of_very_many_classes_names_some(drawn, tmp_path):
    names = [f'class {i}' for i in range(240)]
    draw_confusion(classification_metrics(np.eye(240, dtype=int), names), tmp_path / 'confusion.png')
    assert_good_png(tmp_path / 'confusion.png', widest=4000)
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == names[::2]


def test_confusion_matrix_of_empty_classes_and_of_pixels(drawn, tmp_path):
    confusion = np.array([[9_000_000_000, 1_000_000_000, 0], [0, 0, 0], [5, 0, 0]])
    draw_confusion(classification_metrics(confusion, ['much', 'never', 'wrong']), tmp_path / 'confusion.png')
    assert_good_png(tmp_path / 'confusion.png')
    said = texts(drawn[0])
    assert '9.0 G\n90 %' in said
    assert '- of 0' in said  # recall of the class that never occurs
    assert '-' in said  # precision of the class that is never predicted


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / 'photographs'
    folder.mkdir()
    Image.new('RGB', (400, 100), (200, 30, 40)).save(folder / 'wide.png')
    Image.new('L', (60, 600), 90).save(folder / 'tall.jpg')
    (folder / 'damaged.jpg').write_bytes(b'no picture')
    return folder


def mistake(path, probability=0.7, true_class='cat', predicted_class='dog'):
    return PicturePrediction(str(path), true_class, predicted_class, probability, 1 - probability)


def test_mistakes_show_picture_and_both_classes(photographs, drawn, tmp_path):
    draw_mistakes([mistake(photographs / 'wide.png', 0.625)], tmp_path / 'mistakes.png')
    assert_good_png(tmp_path / 'mistakes.png')
    assert 'cat (37.5 %)\n→ dog (62.5 %)\nwide.png' in texts(drawn[0])
    tile = drawn[0].axes[0].images[0].get_array()
    assert tile.shape[0] == tile.shape[1]  # letterboxed: the picture is 4 : 1, so a quarter of the tile is red
    assert np.mean(np.all(tile == (200, 30, 40), axis=-1)) == pytest.approx(0.25)


def test_the_surest_mistakes_come_first_and_not_all_are_shown(photographs, drawn, tmp_path):
    probabilities = np.random.default_rng(0).permutation(np.linspace(0.3, 0.99, 47))
    draw_mistakes([mistake(photographs / 'wide.png', p) for p in probabilities], tmp_path / 'mistakes.png')
    assert_good_png(tmp_path / 'mistakes.png')
    shown = [axes.get_title(loc='left').split('dog (')[1].split(' %')[0] for axes in drawn[0].axes]
    assert shown == [f'{100 * p:.1f}' for p in sorted(probabilities, reverse=True)[:20]]
    assert '20 of 47 mistakes, the surest first' in drawn[0].get_suptitle()


def test_unreadable_pictures_leave_a_tile_that_says_so(photographs, drawn, tmp_path):
    paths = [photographs / 'damaged.jpg', photographs / 'gone.jpg', 'nul\x00.jpg', '', photographs / 'tall.jpg']
    draw_mistakes([mistake(path) for path in paths], tmp_path / 'mistakes.png')
    assert_good_png(tmp_path / 'mistakes.png')
    assert sum('cannot' in text for text in texts(drawn[0])) == 4


def test_no_mistakes_are_said_to_be_none(drawn, tmp_path):
    draw_mistakes([], tmp_path / 'mistakes.png')
    assert_good_png(tmp_path / 'mistakes.png')
    assert 'No mistakes' in texts(drawn[0])


def test_pictures_lie_row_by_row_under_their_titles(drawn, tmp_path):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (40 + 10 * i, 60, 3), np.uint8) for i in range(5)]
    draw_pictures(pictures, ['original', 'a', 'b', '', 'c'], tmp_path / 'pictures.png', columns=3)
    assert_good_png(tmp_path / 'pictures.png')
    shown = [axes for axes in drawn[0].axes if axes.images]
    assert [axes.get_title(loc='left') for axes in shown] == ['original', 'a', 'b', '', 'c']
    for axes, picture in zip(shown, pictures, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), picture)
    rows = [axes.get_subplotspec().rowspan.start for axes in shown]
    assert rows == [0, 0, 0, 1, 1]


def test_pictures_without_titles_for_all_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match='zip'):
        draw_pictures([np.zeros((9, 9, 3), np.uint8)] * 2, ['one'], tmp_path / 'pictures.png', columns=2)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_replaced_only_by_a_whole_one(monkeypatch, tmp_path):
    def fail_half_way(figure, path, *args, **kwargs):
        path.write_bytes(b'half')
        raise OSError('No space left on device')

    (tmp_path / 'mistakes.png').write_bytes(b'old')
    monkeypatch.setattr(Figure, 'savefig', fail_half_way)
    with pytest.raises(OSError, match='No space'):
        draw_mistakes([], tmp_path / 'mistakes.png')
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [('mistakes.png', b'old')]


def test_hostile_names_are_drawn_as_text_without_warnings(make_result, photographs, tmp_path):
    metrics = make_result(HOSTILE).metrics
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        draw_confusion(metrics, tmp_path / 'confusion.png')
        draw_mistakes(
            [mistake(photographs / 'wide.png', 0.5, one.name, one.name) for one in metrics.classes],
            tmp_path / 'mistakes.png')
        draw_pictures([np.zeros((9, 9, 3), np.uint8)] * len(HOSTILE), list(HOSTILE), tmp_path / 'pictures.png', 4)
    for name in ('confusion', 'mistakes', 'pictures'):
        assert_good_png(tmp_path / f'{name}.png')


def test_a_users_own_matplotlib_style_changes_nothing_and_stays(tmp_path):
    metrics = classification_metrics(np.diag([3, 4]), ['a', 'b'])
    draw_confusion(metrics, tmp_path / 'plain.png')
    own = {'font.size': 40, 'figure.facecolor': 'black', 'savefig.bbox': 'tight'}
    with matplotlib.rc_context(own):
        draw_confusion(metrics, tmp_path / 'styled.png')
        assert {key: matplotlib.rcParams[key] for key in own} == own
    assert (tmp_path / 'plain.png').read_bytes() == (tmp_path / 'styled.png').read_bytes()


def test_drawing_does_not_start_pyplot(run_python):
    run_python('''
        import sys
        from pathlib import Path
        import numpy as np
        import rsq_backbone.reports.plots as plots
        assert 'matplotlib' not in sys.modules
        plots.draw_pictures([np.zeros((9, 9, 3), np.uint8)], ['a'], Path('a.png'), 1)
        assert 'matplotlib.pyplot' not in sys.modules
        assert 'torch' not in sys.modules
    ''')
