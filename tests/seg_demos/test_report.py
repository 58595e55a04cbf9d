import ast
import base64
import dataclasses
import re
import shlex
import warnings

import numpy as np
import pytest
from drawings import assert_good_png, texts
from page import Page, attributes
from PIL import Image

from rsq_backbone.reports.plots import draw_confusion
from seg_demos.masks import IGNORED, MaskCoding
from seg_demos.plots import best_and_worst, draw_curves, draw_overlays
from seg_demos.report import draw_run, write_report
from seg_demos.results import PictureScore

HOSTILE = (
    '<script>alert(1)</script>', '"><img src=https://example.org/x.png onerror=alert(1)>', "'; </style></title><b>",
    '{{ 7 * 7 }}{% raw %}', '\udcff', '寿司 🍕 $x_{1}$ \\frac', 'new\nline\x00nul', '', 'on and on ' * 50)
CODING = MaskCoding(('background', 'cat', 'dog'), {0: 0, 1: 1, 2: 2, 255: IGNORED})


@pytest.fixture
def report(tmp_path):
    def write(result, pictures=('confusion', 'curves', 'overlays')):
        for i, name in enumerate(pictures):
            Image.new('RGB', (20 + i, 10), (0, 90, 30 * i)).save(tmp_path / f'{name}.png')
        write_report(result, tmp_path)
        return Page(tmp_path / 'report.html')

    return write


@pytest.fixture
def scored(tmp_path):
    """Writes pictures, 200 x 100, whose left half is a cat, and gives them these scores."""
    def write(*scores, mask=None):
        if mask is None:
            mask = np.zeros((100, 200), np.uint8)
            mask[:, :100] = 1
        found = []
        for i, score in enumerate(scores):
            picture, drawn = tmp_path / f'picture {i}.png', tmp_path / f'mask {i}.png'
            Image.new('RGB', mask.shape[::-1], (40, 50, 60)).save(picture)
            Image.fromarray(mask).save(drawn)
            found.append(PictureScore(str(picture), str(drawn), score))
        return tuple(found)

    return write


def nothing(picture):
    return np.zeros(picture.shape[:2], np.uint8)


def captions(figure):
    return [text for text in texts(figure) if ', mean IoU ' in text]


@pytest.mark.parametrize(('scores', 'best', 'worst'), [
    ([0.5, 0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6], [0.9, 0.8, 0.7], [0.3, 0.2, 0.1]),
    ([0.5, 0.9, 0.1, 0.8, 0.2], [0.9, 0.8, 0.5], [0.2, 0.1]),
    ([0.5, 0.9], [0.9], [0.5]),
    ([0.5], [0.5], []),
])
def test_best_and_worst_come_from_high_to_low_and_none_twice(scores, best, worst):
    pictures = [PictureScore(str(i), '', score) for i, score in enumerate(scores)]
    shown = best_and_worst(pictures)
    assert tuple([score.mean_iou for score in part] for part in shown) == (best, worst)
    assert len({score.picture for part in shown for score in part}) == len(best) + len(worst)


def test_best_and_worst_pictures_of_one_score_are_different_ones():
    best, worst = best_and_worst([PictureScore(str(i), '', 0.5) for i in range(8)])
    assert len({score.picture for score in (*best, *worst)}) == 6


def test_overlays_show_picture_truth_prediction_and_errors(make_result, scored, drawn, tmp_path):
    def predict(picture):
        assert (picture.shape, picture.dtype) == ((100, 200, 3), np.uint8)
        mask = np.zeros((100, 200), np.uint8)
        mask[:50] = 1
        return mask

    draw_overlays(make_result(pictures=scored(0.5)), CODING, predict, tmp_path / 'overlays.png')
    assert_good_png(tmp_path / 'overlays.png')
    picture, truth, prediction, errors = (axes.images[0].get_array() for axes in drawn[0].axes)
    assert picture.shape == (180, 360, 3)  # at its own aspect
    corners = [(45, 90), (45, 270), (135, 90), (135, 270)]  # the quarters' middles: both, predicted, true, neither
    tint = [round(0.6 * own + 0.4 * orange) for own, orange in zip((40, 50, 60), (230, 159, 0), strict=True)]
    plain, darkened = [40, 50, 60], [24, 24, 24]  # 0.299 * 40 + 0.587 * 50 + 0.114 * 60 = 48.15
    for tile, wanted in (
            (picture, [plain] * 4), (truth, [tint, plain, tint, plain]), (prediction, [tint, tint, plain, plain]),
            (errors, [darkened, [213, 94, 0], [86, 180, 233], darkened])):
        np.testing.assert_allclose([tile[place] for place in corners], wanted, atol=1)
    said = texts(drawn[0])
    assert 'picture 0.png, mean IoU 0.500' in said
    assert 'missed: taken for background' in said
    assert 'cat' in said
    assert 'dog' not in said  # nowhere to be seen


def test_overlay_rows_are_the_best_and_the_worst(make_result, scored, drawn, tmp_path):
    pictures = scored(0.5, 0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6)
    draw_overlays(make_result(pictures=pictures), CODING, nothing, tmp_path / 'overlays.png')
    assert captions(drawn[0]) == [
        'best: picture 1.png, mean IoU 0.900', 'best: picture 3.png, mean IoU 0.800',
        'best: picture 5.png, mean IoU 0.700', 'worst: picture 6.png, mean IoU 0.300',
        'worst: picture 4.png, mean IoU 0.200', 'worst: picture 2.png, mean IoU 0.100']
    assert 'the 3 best and the 3 worst of 8 validation pictures, by mean IoU' in texts(drawn[0])


def test_pictures_of_one_name_are_told_apart_by_their_folders(make_result, drawn, tmp_path):
    pictures = tuple(PictureScore(f'{folder}/1.png', '', 0.5) for folder in 'ab')
    draw_overlays(make_result(pictures=pictures), CODING, nothing, tmp_path / 'overlays.png')
    assert captions(drawn[0]) == ['a/1.png, mean IoU 0.500', 'b/1.png, mean IoU 0.500']


def test_pictures_that_cannot_be_read_any_more_leave_a_row_that_says_so(make_result, scored, drawn, tmp_path):
    sound, damaged, gone = scored(0.9, 0.8, 0.7)
    (tmp_path / 'picture 1.png').write_bytes(b'no picture')
    (tmp_path / 'mask 2.png').unlink()
    nul = PictureScore('nul\x00.png', 'nul\x00.png', 0.6)
    draw_overlays(make_result(pictures=(sound, damaged, gone, nul)), CODING, nothing, tmp_path / 'overlays.png')
    assert_good_png(tmp_path / 'overlays.png')
    assert sum('cannot be read any more' in text for text in texts(drawn[0])) == 3
    assert len(captions(drawn[0])) == 4


def test_ignored_pixels_are_hatched_and_explained(make_result, scored, drawn, tmp_path):
    mask = np.full((100, 200), 255, np.uint8)
    mask[:, :50] = 2
    draw_overlays(make_result(pictures=scored(0.5, mask=mask)), CODING, nothing, tmp_path / 'overlays.png')
    _, truth, prediction, errors = (axes.images[0].get_array() for axes in drawn[0].axes)
    for tile in (truth, errors):
        assert {tuple(pixel) for pixel in tile[:, 100:].reshape(-1, 3).tolist()} == {(190, 190, 190), (90, 90, 90)}
    assert (prediction == (40, 50, 60)).all()  # the network knows nothing of them
    assert 'ignored' in texts(drawn[0])


@pytest.mark.parametrize('shape', [(8, 8), (1000, 20), (20, 1000), (3000, 4000)])
def test_pictures_of_any_size_fit_the_sheet(make_result, scored, tmp_path, shape):
    mask = np.zeros(shape, np.uint8)
    mask[:4] = 1
    draw_overlays(make_result(pictures=scored(0.5, mask=mask)), CODING, nothing, tmp_path / 'overlays.png')
    assert_good_png(tmp_path / 'overlays.png', widest=1600)


def test_very_many_classes_fit_the_legend(make_result, scored, drawn, tmp_path):
    mask = np.repeat(np.arange(250, dtype=np.uint8), 4)[None].repeat(100, 0)
    names = tuple(f'class {i}' for i in range(250))
    coding = MaskCoding(names, {i: i for i in range(250)})
    draw_overlays(make_result(pictures=scored(0.5, mask=mask)), coding, nothing, tmp_path / 'overlays.png')
    assert_good_png(tmp_path / 'overlays.png')
    said = texts(drawn[0])
    assert 'class 23' in said
    assert 'class 24' not in said
    assert any(re.fullmatch(r'and \d+ more', text) for text in said)


def test_curves_show_accuracy_mean_iou_and_loss(make_result, drawn, tmp_path):
    result = make_result()
    draw_curves(result, tmp_path / 'curves.png')
    assert_good_png(tmp_path / 'curves.png')
    upper, lower = drawn[0].axes
    lines = {line.get_label(): line for line in upper.lines}
    np.testing.assert_allclose(
        lines['training, each batch'].get_ydata(), [100 * i.accuracy for i in result.iterations])
    np.testing.assert_allclose(lines['validation pictures, after each epoch'].get_ydata(), [70, 75, 80])
    mean_iou = lines['validation pictures, after each epoch: mean IoU']
    np.testing.assert_allclose(mean_iou.get_xdata(), [8, 16, 24])
    np.testing.assert_allclose(mean_iou.get_ydata(), [40, 50, 60])
    assert lower.get_ylabel() == 'loss (cross-entropy + Dice)'
    losses = {line.get_label(): line for line in lower.lines}
    np.testing.assert_allclose(
        losses['validation pictures, after each epoch'].get_ydata(), [e.monitor_loss for e in result.epochs])
    interval = result.metrics.mean_iou_interval
    assert f'{result.metrics.mean_iou:.3f} [{interval.low:.3f}, {interval.high:.3f}]' in ' '.join(texts(drawn[0]))


def test_confusion_matrix_counts_pixels(make_result, drawn, tmp_path):
    result = make_result(('sky', 'bird'), np.array([[[2_000_000, 8_000], [500, 1_500]], [[1_000_000, 0], [0, 500]]]))
    draw_confusion(result.metrics, tmp_path / 'confusion.png')
    assert_good_png(tmp_path / 'confusion.png')
    said = texts(drawn[0])
    assert {'3.0 M\n99.7 %', '8000\n0.3 %', '500\n20.0 %', '2000\n80.0 %'} <= set(said)
    assert '99.7 % of 3.0 M' in said
    assert drawn[0].get_suptitle().startswith('pixel accuracy 99.7 %')
    assert drawn[0].get_suptitle().endswith('n = 2 pictures, 3.0 M pixels')


def test_sections_come_in_order(make_result, report):
    assert report(make_result()).headings == [
        'Result', 'Use the model', 'Data', 'Classes', 'Overlays', 'Confusion matrix', 'Training', 'Time', 'Recipe',
        'Environment']


def test_page_needs_no_other_file_and_no_network(make_result, report, tmp_path):
    page = report(make_result())
    shown = [base64.b64decode(address.removeprefix('data:image/png;base64,')) for address in attributes(
        page, 'src', 'href', 'srcset', 'action', 'data', 'poster', 'background')]
    assert shown == [(tmp_path / f'{name}.png').read_bytes() for name in ('overlays', 'confusion', 'curves')]
    assert not {'script', 'link', 'iframe', 'object', 'embed', 'base', 'form'} & {tag for tag, _ in page.elements}
    text = (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert text.startswith('<!DOCTYPE html>')
    assert not re.search(r'https?:|url\(|@import', text)
    assert "default-src 'none'" in text
    assert all(image.get('alt') for tag, image in page.elements if tag == 'img')


def test_page_has_no_broken_pictures_where_there_are_none(make_result, report):
    assert 'img' not in {tag for tag, _ in report(make_result(), pictures=()).elements}


def test_headline_numbers_are_those_of_the_metrics(make_result, report):
    """Of 200 pixels 180 are right; IoU 150 / 170 and 30 / 50, Dice 300 / 320 and 60 / 80."""
    page = report(make_result(('sky', 'bird'), np.array([[[75, 10], [0, 15]], [[75, 0], [10, 15]]])))
    assert '0.741 95 % interval' in page.text
    assert '90.0 % 95 % interval' in page.text
    assert '0.844 mean Dice' in page.text
    assert 'On 2 validation pictures of 200 pixels' in page.text
    assert "every pixel 'sky' gives a mean IoU of 0.400 and a pixel accuracy of 80.0 %" in page.text
    assert page.title == 'pets: unet on res_squeezenet, mean IoU 0.741'
    assert '12,165,602 parameters' in page.text
    assert '48.7 MB' in page.text
    assert page.tables['classes'] == [
        ['class', 'IoU', 'Dice', 'precision', 'recall', 'pixels'],
        ['sky', '0.882', '0.938', '0.938', '0.938', '80.0 %'],
        ['bird', '0.600', '0.750', '0.750', '0.750', '20.0 %'],
        ['mean', '0.741', '0.844', '', '', ''],
    ]


def test_classes_without_pixels_are_said_to_be_undefined(make_result, report):
    page = report(make_result(('sky', 'bird', 'never'), np.array([[[5, 1, 0], [1, 3, 0], [0, 0, 0]]] * 2)))
    assert page.tables['classes'][3] == ['never', *['undefined'] * 4, '0.0 %']


def test_a_single_picture_has_no_interval(make_result, report):
    page = report(make_result(('sky', 'bird'), np.array([[[75, 10], [0, 15]]])))
    assert 'On 1 validation picture of 100 pixels' in page.text
    assert '95 % interval' not in page.text
    assert 'A single picture does not say' in page.text


def test_a_network_that_learned_nothing_is_told(make_result, report):
    says = "All pixels are taken for 'sky': nothing was learned."
    assert says in report(make_result(('sky', 'bird'), np.array([[[75, 0], [25, 0]]] * 2))).text
    assert says not in report(make_result(('sky', 'bird'), np.array([[[75, 0], [24, 1]]] * 2))).text


def test_swatches_have_the_colours_of_the_overlays(make_result, report):
    styles = [values['style'] for tag, values in report(make_result()).elements if values.get('class') == 'swatch']
    assert styles == [f'background: {colour}' for colour in ('transparent', 'rgb(230, 159, 0)', 'rgb(86, 180, 233)')]


@pytest.mark.parametrize('architecture', ['unet', 'segnet'])
def test_snippets_can_be_pasted(make_result, tmp_path, architecture):
    folder = tmp_path / "it's <a> \"run\" $HOME"
    folder.mkdir()
    write_report(make_result(architecture=architecture), folder)
    predict, python, command = Page(folder / 'report.html').pres
    assert shlex.split(predict) == ['python', '-m', 'seg_demos.predict', str(folder), 'images/', '--out', 'overlays/']
    call = next(node for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Call) and node.args)
    assert ast.unparse(call.func) == 'smp.from_pretrained'
    assert ast.literal_eval(call.args[0]) == str(folder)
    assert ('import seg_demos.segnet_model' in python) == (architecture == 'segnet')  # smp does not know it by itself
    assert shlex.split(command) == ['python', '-m', 'seg_demos.unet', 'my pets']


def test_data_time_and_settings_are_listed(make_result, report):
    page = report(make_result())
    assert page.tables['counts'] == [['part', 'pictures'], ['training', '1,234'], ['validation', '8']]
    assert 'image file is truncated' in page.text
    assert 'Mask value 255 is neither' in page.text
    rows = [row for table in page.tables.values() for row in table]
    for row in (['total', '171.4'], ['learning_rate', '0.001'], ['decoder_width', '64'], ['gpus', 'none'],
                ['torch', '2.6.0']):
        assert row in rows


def test_hostile_names_are_shown_and_not_obeyed(make_result, scored, tmp_path):
    """In the pictures and on the page, without a warning."""
    names = HOSTILE
    result = make_result(
        names, name=names[0], architecture=names[1], encoder=names[2], encoder_weights=names[3],
        options={names[0]: names[1]}, recipe={'name': names[0], 'dice': 0.5, names[1]: names[0]},
        machine={names[0]: [names[1]]}, versions={'x': names[1]}, seconds={names[0]: 1.0, 'total': 1.0},
        command=('python', names[0], '\udcff'),
        pictures=tuple(PictureScore(name, name, 0.5) for name in names[:3]) + scored(0.9))
    data = dataclasses.replace(result.data, source=names[1], name=names[2], left_out=names, notes=names)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        draw_run(
            dataclasses.replace(result, data=data), MaskCoding(names, {i: i for i in range(len(names))}),
            lambda picture: np.arange(picture.shape[1], dtype=np.uint8)[None].repeat(len(picture), 0) % len(names),
            tmp_path)
    for name in ('confusion', 'curves', 'overlays'):
        assert_good_png(tmp_path / f'{name}.png')
    page = Page(tmp_path / 'report.html')
    assert not {'script', 'b'} & {tag for tag, _ in page.elements}
    assert len(attributes(page, 'src')) == 3
    assert not [name for _, values in page.elements for name in values if name.startswith('on')]
    assert [row[0] for row in page.tables['classes'][1:5]] == list(names[:4])


def test_run_is_drawn_into_its_folder_and_nothing_else_is_left(make_result, scored, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    draw_run(make_result(pictures=scored(0.9, 0.5)), CODING, nothing, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        'confusion.png', 'curves.png', 'overlays.png', 'report.html']
    assert len(attributes(Page(folder / 'report.html'), 'src')) == 3
