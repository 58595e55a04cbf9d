import base64
import dataclasses
import re

import numpy as np
import pytest
from page import Page, attributes
from PIL import Image

from rsq_backbone.metrics import Interval, PairedDifference, classification_metrics
from rsq_backbone.reports.html import write_report

HOSTILE = {
    '<script>alert(1)</script>': 9, '"><img src=https://example.org/x.png onerror=alert(1)>': 8,
    "'; </style></title><b>": 7, '{{ 7 * 7 }}{% raw %}': 6, '\udcff': 5, '寿司 🍕 العربية': 4, '&amp;': 3}


@pytest.fixture
def report(tmp_path):
    def write(result, pictures=('curves', 'confusion', 'mistakes', 'augmentations')):
        for i, name in enumerate(pictures):
            Image.new('RGB', (20 + i, 10), (0, 90, 30 * i)).save(tmp_path / f'{name}.png')
        write_report(result, tmp_path)
        return Page(tmp_path / 'report.html')

    return write


def test_sections_come_in_order(make_result, report):
    assert report(make_result()).headings == [
        'Result', 'Use the model', 'Data', 'Classes', 'Confusion matrix', 'Training', 'Mistakes', 'Time', 'Recipe',
        'Environment']


def test_page_needs_no_other_file_and_no_network(make_result, report, tmp_path):
    page = report(make_result())
    addresses = attributes(page, 'src', 'href', 'srcset', 'action', 'data', 'poster', 'background')
    assert len(addresses) == 4
    shown = [base64.b64decode(address.removeprefix('data:image/png;base64,')) for address in addresses]
    names = ('augmentations', 'confusion', 'curves', 'mistakes')
    assert shown == [(tmp_path / f'{name}.png').read_bytes() for name in names]
    assert not {'script', 'link', 'iframe', 'object', 'embed', 'base', 'form'} & {tag for tag, _ in page.elements}
    text = (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert not re.search(r'https?:|url\(|@import', text)
    assert "default-src 'none'" in text  # and whatever slips in would not be loaded
    assert all(image.get('alt') for tag, image in page.elements if tag == 'img')


def test_page_has_no_broken_pictures_where_there_are_none(make_result, report):
    page = report(make_result(), pictures=())
    assert 'img' not in {tag for tag, _ in page.elements}
    assert 'Confusion matrix' not in page.headings
    assert 'Mistakes' not in page.headings


def test_headline_numbers_are_those_of_the_metrics(make_result, report):
    result = make_result()
    page = report(result)
    for metrics in (result.metrics, result.linear):
        accuracy, mean_iou = metrics.accuracy_interval, metrics.mean_iou_interval
        assert (f'{100 * metrics.accuracy:.1f} % accuracy, 95 % interval {100 * accuracy.low:.1f} % to '
                f'{100 * accuracy.high:.1f} %') in page.text
        assert f'{metrics.mean_iou:.3f} mean IoU, 95 % interval {mean_iou.low:.3f} to {mean_iou.high:.3f}' in page.text
    assert 'On 292 validation pictures' in page.text
    assert 'one is 0.34 points' in page.text
    assert page.title == f'food: res_squeezenet, {100 * result.metrics.accuracy:.1f} %'
    assert '10,431,561 parameters' in page.text
    assert '41.8 MB' in page.text


def test_a_network_that_learned_nothing_is_not_compared_but_told(make_result, report):
    result = make_result({'cat': 6, 'dog': 7})
    page = report(dataclasses.replace(result, metrics=classification_metrics([[0, 6], [0, 7]], ['cat', 'dog'])))
    assert "Every picture is taken for 'dog': nothing was learned." in page.text
    assert 'linear probe:' not in page.text


def test_class_table_is_that_of_the_metrics(make_result, report):
    """c occurs and is never predicted, d is predicted and never occurs, e does neither."""
    confusion = np.zeros((5, 5), int)
    confusion[0, 0], confusion[0, 3], confusion[1, 1], confusion[1, 0], confusion[2, 1] = 2, 1, 1, 1, 1
    metrics = classification_metrics(confusion, list('abcde'))
    page = report(dataclasses.replace(make_result(dict.fromkeys('abcde', 3)), metrics=metrics))
    assert page.tables['classes'] == [
        ['class', 'precision', 'recall', 'F1', 'IoU', 'pictures'],
        ['a', '0.667', '0.667', '0.667', '0.500', '3'],
        ['b', '0.500', '0.500', '0.500', '0.333', '2'],
        ['c', 'undefined', '0.000', '0.000', '0.000', '1'],
        ['d', '0.000', 'undefined', '0.000', '0.000', '0'],
        ['e', 'undefined', 'undefined', 'undefined', 'undefined', '0'],
        ['mean', '', '0.389', '0.292', '0.208', ''],
    ]


def test_data_table_counts_each_picture_once(make_result, report):
    """125 and 155 that are not for validation, 12 and 15 of them held out."""
    assert report(make_result({'cat': 60, 'dog': 75}, monitor='held out')).tables['counts'] == [
        ['class', 'training', 'held out', 'validation'],
        ['cat', '113', '12', '60'], ['dog', '140', '15', '75'], ['all', '253', '27', '135']]


def test_held_out_column_is_left_out_where_nothing_was(make_result, report):
    page = report(make_result({'cat': 60, 'dog': 75}, monitor=None))
    assert page.tables['counts'][0] == ['class', 'training', 'validation']
    assert page.tables['counts'][-1] == ['all', '280', '135']


def shares(correct, n=200):
    """Two classes, equally frequent and equally well recognised."""
    return classification_metrics(np.array([[correct, n - correct], [n - correct, correct]]), ['cat', 'dog'])


def difference(accuracy, mean_iou=0.0, width=0.05):
    return PairedDifference(
        accuracy, Interval(accuracy - width, accuracy + width), mean_iou, Interval(mean_iou - width, mean_iou + width))


@pytest.mark.parametrize(('found', 'says'), [
    (difference(0.1), 'Laptop is better than the linear probe: +10.0 points of accuracy [+5.0, +15.0] and +0.000 mean '
     'IoU [-0.050, +0.050] on the same images (n = 292; 95 %, paired).'),
    (difference(0, 0.1), 'Laptop is not shown to be better than the linear probe: +0.0 points of accuracy [-5.0'),
    (difference(-0.034), 'Laptop is not shown to be better than the linear probe: -3.4 points of accuracy [-8.4'),
    (difference(-0.1), 'Laptop is worse than the linear probe: -10.0 points of accuracy [-15.0, -5.0]'),
])
def test_page_says_whether_fine_tuning_was_worth_it(make_result, report, found, says):
    page = report(make_result(difference=found))
    assert says in page.text
    assert ('The recipe linear takes seconds instead of 171' in page.text) == ('is better than' not in says)


def test_page_of_the_linear_recipe_shows_one_result(make_result, report):
    page = report(make_result(epochs=0))
    assert 'Fine-tuned network' not in page.text
    assert page.text.count('Linear probe') == 1
    assert 'better than' not in page.text


def test_drawn_intervals_are_in_proportion(make_result, report):
    """190 of 200 right in both classes: Wilson's interval of 380 of 400 is 92.4 to 96.7 %, drawn from 60 to 100 %."""
    page = report(make_result({'cat': 200, 'dog': 200}, metrics=shares(190), linear=shares(140)))
    styles = [values['style'] for _, values in page.elements if 'style' in values]
    (left, width), (dot,) = (re.findall(r'([\d.]+)%', style) for style in styles[:2])
    assert float(dot) == pytest.approx(100 * (0.95 - 0.6) / 0.4)
    assert float(left) == pytest.approx(100 * (0.924 - 0.6) / 0.4, abs=0.2)
    assert float(left) + float(width) == pytest.approx(100 * (0.967 - 0.6) / 0.4, abs=0.2)
    assert '60 %' in page.text


def test_snippets_can_be_pasted(make_result, tmp_path):
    import ast
    import shlex

    folder = tmp_path / "it's <a> \"run\" $HOME"
    folder.mkdir()
    write_report(make_result(), folder)
    python, predict, evaluate, command = Page(folder / 'report.html').pres
    call = next(node for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Call) and node.args)
    assert ast.unparse(call.func) == 'timm.create_model'
    assert ast.literal_eval(call.args[0]) == f'local-dir:{folder}'
    assert [keyword.arg for keyword in call.keywords] == ['pretrained']
    assert shlex.split(predict)[:3] == ['rsq', 'predict', str(folder)]
    assert shlex.split(evaluate)[:3] == ['rsq', 'evaluate', str(folder)]
    assert shlex.split(command) == ['rsq', 'finetune', 'food', '--output', 'my runs/food']


def test_hostile_names_are_shown_and_not_obeyed(make_result, report):
    tame = report(make_result(dict.fromkeys('abcdefg', 5)))
    lines = tuple(HOSTILE)
    result = make_result(
        HOSTILE, name=lines[0], model=lines[1], feature_cache=lines[1], command=('rsq', lines[0], '\udcff'),
        recipe={'name': lines[0], 'summary': lines[2], lines[1]: lines[0]}, machine={lines[0]: [lines[1]]},
        versions={'x': lines[1]}, seconds={lines[0]: 1.0, 'total': 1.0})
    data = dataclasses.replace(result.data, source=lines[1], name=lines[2], left_out=lines, notes=lines)
    page = report(dataclasses.replace(result, data=data))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in tame.elements}
    assert len(attributes(page, 'src')) == 4
    assert not [name for _, values in page.elements for name in values if name.startswith('on')]
    shown = [row[0] for row in page.tables['classes'][1:-1]]
    assert shown == [name.replace('\udcff', '\\udcff') for name in HOSTILE]  # of bytes that are no text, their code


def test_long_lists_are_folded(make_result, report):
    result = make_result({f'class {i}': 2 for i in range(100)})
    lines = tuple(f'picture {i}: damaged' for i in range(50))
    page = report(dataclasses.replace(result, data=dataclasses.replace(result.data, left_out=lines)))
    tags = [tag for tag, _ in page.elements]
    assert tags.count('details') == 3  # how it is judged, counts of the classes, pictures left out
    assert '50 pictures that could not be used' in page.text
    assert all(line in page.text for line in lines)
    assert len(page.tables['classes']) == 102


@pytest.mark.parametrize(('case', 'says'), [
    (dict(monitor='held out'), 'those of epoch 5 of 6, which had the lowest loss on the held-out pictures'),
    (dict(monitor='validation'), 'those of epoch 6 of 6, the last; no epoch was chosen'),
    (dict(monitor=None), 'those of epoch 6 of 6, the last; no epoch was chosen'),
    (dict(epochs=0, iterations=0, monitor=None), 'The recipe has no epochs'),
])
def test_page_says_which_weights_were_kept(make_result, report, case, says):
    assert says in report(make_result(**case)).text


def test_settings_and_seconds_are_listed(make_result, report):
    page = report(make_result())
    assert ['total', '171.4'] in page.tables['seconds']
    rows = [row for table in page.tables.values() for row in table]
    for row in (['learning_rate', '0.0003'], ['trained_stages', '-'], ['logit_relu', 'no'], ['gpus', 'none'],
                ['torch', '2.6.0'], ['cpu', 'Intel Core i5-8250U']):
        assert row in rows


def test_an_existing_report_is_replaced_and_nothing_else_is_left(make_result, report, tmp_path):
    (tmp_path / 'report.html').write_text('old')
    report(make_result(), pictures=())
    assert [path.name for path in tmp_path.iterdir()] == ['report.html']
