import base64
import dataclasses
import io
import re

import matplotlib.collections
import numpy as np
import pytest
from drawings import assert_good_png, texts
from page import Page, attributes
from PIL import Image, ImageColor
from profiles import MB, comparison, growth, make_case, make_latency, make_profile, make_result, make_work, on_cuda

from rsq_backbone.errors import UserError
from rsq_backbone.profiler.profile import CaseResult, Memory, Peaks, StageWork
from rsq_backbone.reports.drawing import DARK, LIGHT
from rsq_backbone.reports.profile_page import write_profile_page
from rsq_backbone.reports.profile_plots import (
    draw_accuracy,
    draw_cold,
    draw_growth,
    draw_latency,
    draw_memory,
    draw_roofline,
    draw_stages,
)

HOSTILE = (
    '<script>alert(1)</script>', '"><img src=https://example.org/x.png onerror=alert(1)>', '{{ 7 * 7 }}{% raw %}',
    '\udcff', '$x_{1}$ $$ \\frac', 'new\nline\x00nul', '寿司 🍕 العربية', 'a name that goes on and on ' * 20)


@pytest.fixture
def page(tmp_path):
    def write(profile, accuracies=None):
        write_profile_page(profile, tmp_path / 'p.html', accuracies)
        return Page(tmp_path / 'p.html')

    return write


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """Of the three profiles, written once: their plots take a second or two."""
    written = {}
    for make, accuracies in ((comparison, {'resnet18': 0.7}), (growth, None), (on_cuda, None)):
        path = tmp_path_factory.mktemp('page') / 'p.html'
        write_profile_page(make(), path, accuracies)
        written[make] = path
    return written


def bars(axes):
    return [(bar.get_x(), bar.get_width()) for bar in axes.patches]


def test_boxes_are_the_quartiles_and_whiskers_the_outer_percentiles(drawn, tmp_path):
    """Of 1 .. 101 ms: quartiles 26 and 76, median 51, 1st and 99th percentile 2 and 100."""
    draw_latency(make_profile([make_result(latency=make_latency(np.arange(1, 102) / 1e3))]), tmp_path / 'p.png')
    assert_good_png(tmp_path / 'p.png')
    axes = drawn[0].axes[0]
    assert bars(axes) == [(pytest.approx(26), pytest.approx(50))]
    whiskers, = axes.findobj(matplotlib.collections.LineCollection)
    np.testing.assert_allclose(whiskers.get_segments()[0][:, 0], [2, 100])
    assert axes.lines[0].get_xdata() == pytest.approx([51, 51])
    assert axes.get_xscale() == 'log'


def test_few_samples_are_shown_one_by_one(drawn, tmp_path):
    few, many = make_latency(np.linspace(0.010, 0.011, 60)), make_latency(np.linspace(0.012, 0.013, 61))
    draw_latency(make_profile([
        make_result(make_case('a'), latency=few), make_result(make_case('b'), latency=many)]), tmp_path / 'p.png')
    axes = drawn[0].axes[0]
    points, = (line for line in axes.lines if line.get_marker() == '.')
    np.testing.assert_allclose(points.get_xdata(), np.linspace(10, 11, 60))
    assert axes.get_xscale() == 'linear'
    assert axes.get_xlim()[0] == 0


def test_latencies_come_fastest_first_with_their_verdicts(drawn, tmp_path):
    draw_latency(comparison(), tmp_path / 'p.png')
    assert_good_png(tmp_path / 'p.png')
    labels = [text.get_text() for text in drawn[0].axes[0].texts]
    assert len(labels) == 18
    assert labels[0] == 'mobilenetv2_100, openvino, 2 threads'
    assert labels[-1] == 'resnet18, eager, 1 thread'
    assert 'res_squeezenet, onnxruntime, 2 threads: noisy' in labels
    assert 'mobilenetv2_100, eager, 2 threads: rejected' in labels


def test_memory_bars_begin_with_the_runtime(drawn, tmp_path):
    draw_memory(make_profile([
        make_result(make_case('a'), memory=Memory(None, None, 200 * MB, 284 * MB)),
        make_result(make_case('b'), memory=Memory(None, None, 90 * MB, 190 * MB)),
        make_result(make_case('c'), memory=Memory(None, None, None, 190 * MB))]), tmp_path / 'p.png')
    assert_good_png(tmp_path / 'p.png')
    assert bars(drawn[0].axes[0]) == [(0, 200), (0, 90), (200, 84), (90, 100)]
    assert {'a', 'b', '84.0', '100', 'the runtime alone'} <= set(texts(drawn[0]))


def test_growth_has_a_line_for_each_batch_and_each_size(drawn, tmp_path):
    draw_growth(growth(), tmp_path / 'p.png')
    assert_good_png(tmp_path / 'p.png')
    memory, time, memory_of_batches, time_of_batches = drawn[0].axes
    assert [line.get_label() for line in memory.lines] == ['batch 1', 'batch 4']
    np.testing.assert_allclose(memory.lines[0].get_xdata(), [256 ** 2, 512 ** 2, 1024 ** 2])
    np.testing.assert_allclose(memory.lines[0].get_ydata(), [105, 240, 780])
    np.testing.assert_allclose(time.lines[1].get_ydata(), [200, 800])
    assert [label.get_text() for label in memory.get_xticklabels()] == ['256', '512', '1024']
    assert [line.get_label() for line in time_of_batches.lines] == ['256 px', '512 px']
    np.testing.assert_allclose(memory_of_batches.lines[1].get_xdata(), [1, 4])
    np.testing.assert_allclose(time_of_batches.lines[1].get_ydata(), [200, 800])


def test_roofline_has_roofs_and_points_at_what_was_achieved(drawn, tmp_path):
    """400 M MACs and 80 MB in 20 ms: 20 GMAC/s at 5 MACs a byte; the roof is 8 GB/s times that, at most 80 GMAC/s."""
    profile = make_profile(
        [make_result(latency=make_latency([0.02] * 20))], works=(make_work(),),
        peaks=(Peaks(1, 'cpu', 80e9, 8e9), Peaks(4, 'cpu', 1e12, 1e12)))
    draw_roofline(profile, tmp_path / 'p.png')
    assert_good_png(tmp_path / 'p.png')
    axes = drawn[0].axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    roof = lines['peak, CPU, 1 thread']
    np.testing.assert_allclose(roof.get_ydata(), np.minimum(80, 8 * roof.get_xdata()))
    assert not [label for label in lines if '4 threads' in label]  # nothing was measured with four
    point = next(line for line in axes.lines if len(line.get_xdata()) == 1)
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((5, 20))
    assert (axes.get_xscale(), axes.get_yscale()) == ('log', 'log')


def test_stages_have_their_shares_of_macs_and_bytes(drawn, tmp_path):
    stages = StageWork('conv1', 1, 100, 1, 20), StageWork('fire2', 1, 300, 1, 20)
    draw_stages(make_work(stages=stages, macs=400, bytes_moved=40), tmp_path / 'p.png')
    assert_good_png(tmp_path / 'p.png')
    axes = drawn[0].axes[0]
    assert bars(axes) == [(0, 25), (0, 75), (0, 50), (0, 50)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ['conv1', 'fire2']


def test_bubbles_stand_at_accuracy_and_time_with_areas_by_parameters(drawn, tmp_path):
    """Of each model its fastest case a picture: 2 in 30 ms, and not the rejected one."""
    profile = make_profile([
        make_result(make_case('a'), 0.020), make_result(make_case('a', batch=2), 0.030),
        make_result(make_case('a', threads=2), latency=make_latency([0.001] * 20, verdict='rejected')),
        make_result(make_case('b'), 0.010), make_result(make_case('c'), 0.010)],
        works=(make_work('a', scale=2.0), make_work('b', scale=0.5)))
    draw_accuracy(profile, {'a': 0.7, 'b': 0.6}, tmp_path / 'p.png')
    assert_good_png(tmp_path / 'p.png')
    bubbles = drawn[0].axes[0].collections
    np.testing.assert_allclose([b.get_offsets()[0] for b in bubbles], [[15, 70], [10, 60]])
    areas = [b.get_sizes()[0] for b in bubbles]
    assert areas[0] / areas[1] == pytest.approx(4)
    assert 'a, 1 thread, batch 2, 16.0 M' in texts(drawn[0])


def test_cold_starts_are_stacked(drawn, tmp_path):
    """1.8 s of imports, 0.25 to build; ONNX Runtime: 2.5 to export and 0.12 to load; first calls of 0.06 s."""
    draw_cold(make_profile([make_result(make_case(runtime=r)) for r in ('eager', 'onnxruntime')]), tmp_path / 'p.png')
    assert_good_png(tmp_path / 'p.png')
    starts, widths = zip(*bars(drawn[0].axes[0]), strict=True)
    assert starts == pytest.approx((0, 0, 1.8, 1.8, 2.05, 2.05, 2.05, 4.55, 2.05, 4.67))
    assert widths == pytest.approx((1.8, 1.8, 0.25, 0.25, 0, 2.5, 0, 0.12, 0.06, 0.06))
    assert {'2.11', '4.73', 'imports', 'first call'} <= set(texts(drawn[0]))


@pytest.mark.parametrize('draw', [draw_latency, draw_memory, draw_growth, draw_roofline, draw_cold])
def test_no_plot_is_drawn_without_data(draw, tmp_path):
    draw(make_profile([CaseResult(make_case(), 'crashed')]), tmp_path / 'p.png')
    draw(make_profile([]), tmp_path / 'p.png')
    draw_accuracy(make_profile([]), {'a': 0.5}, tmp_path / 'p.png')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('theme', [LIGHT, DARK])
def test_colours_are_those_of_the_ground(theme, drawn, tmp_path):
    draw_latency(make_profile([make_result()]), tmp_path / 'p.png', theme)
    with Image.open(tmp_path / 'p.png') as image:
        assert image.convert('RGB').getpixel((1, 1)) == ImageColor.getrgb(theme.page)
    assert drawn[0].axes[0].texts[0].get_color() == theme.text


def test_sections_come_in_order(pages):
    assert Page(pages[comparison]).headings == [
        'Not measured', 'Latency and memory', 'Accuracy', 'Work', 'Cold start', 'ESTIMATES, not measured',
        'How it was measured', 'Environment']
    assert Page(pages[growth]).headings == [
        'Not measured', 'Latency and memory', 'Growth', 'Work', 'Cold start', 'How it was measured', 'Environment']
    assert 'Layers' in Page(pages[on_cuda]).headings


def test_page_needs_no_other_file_and_no_network(pages):
    found = Page(pages[comparison])
    addresses = attributes(found, 'src', 'srcset', 'href', 'action', 'data', 'poster', 'background')
    assert len(addresses) == 2 * (5 + 3)  # latency, memory, accuracy, roofline, cold, and the stages of three models
    for address in addresses:
        with Image.open(io.BytesIO(base64.b64decode(address.removeprefix('data:image/png;base64,')))) as image:
            assert image.width == 960
    assert not {'script', 'link', 'iframe', 'object', 'embed', 'base', 'form'} & {tag for tag, _ in found.elements}
    text = pages[comparison].read_text(encoding='utf-8')
    assert not re.search(r'https?:|url\(|@import', text)
    assert all(image.get('alt') for tag, image in found.elements if tag == 'img')
    assert list(pages[comparison].parent.iterdir()) == [pages[comparison]]


def test_page_begins_with_the_verdict(pages):
    found = Page(pages[comparison])
    for line in ('Fastest: mobilenetv2_100, openvino, 2 threads, 4.09 ms [4.01, 4.21]',
                 'Smallest: mobilenetv2_100, eager, 1 thread, 66.0 MB at its peak beyond the runtime',
                 'Noisy, spread above 10 %: res_squeezenet, onnxruntime, 2 threads', 'Not measured: 2 of 20 cases',
                 'Disturbed: other processes kept 0.70 cores busy, at the worst; in 1 of 18 cases'):
        assert found.text.index(line) < found.text.index('Latency and memory')
    assert 'Nothing was seen to disturb' not in found.text
    assert 'Nothing was seen to disturb the measurement.' in Page(pages[growth]).text


def test_tables_have_the_figures(pages):
    tables = Page(pages[comparison]).tables
    assert len(tables['cases']) == 19
    assert tables['cases'][1] == [
        'res_squeezenet', 'eager', '1', '19.2 [18.8, 19.8]', '19.8', 'n/a (n=200)', '52.1', '84.0', '-', 'ok']
    assert tables['work'][1] == ['res_squeezenet', '224', '11,200,000', '800', '8.00', '141', '16.0']
    assert tables['cold'][1][-1] == '2108'
    assert Page(pages[on_cuda]).tables['cuda'][2] == [
        '8', '3.00 [2.94, 3.09]', '0.400', '0.0800', '132', '160', '460', '300', '580']


def test_estimates_share_no_table_with_measurements(pages):
    tables = Page(pages[comparison]).tables
    devices = {'Raspberry Pi 4', 'Jetson Nano'}
    assert {row[0] for row in tables.pop('estimates')[1:]} == devices
    assert not devices & {cell for rows in tables.values() for row in rows for cell in row}


def test_environment_is_told_in_units(pages):
    rows = [row for table in Page(pages[on_cuda]).tables.values() for row in table]
    for row in (['memory', '8.20 GB'], ['caches 2: size', '6.29 MB'], ['core groups 1: max frequency', '3400 MHz'],
                ['gpus 1: name', 'NVIDIA GeForce GTX 1050'], ['variables: OMP_NUM_THREADS', '2'],
                ['memory limit', '-'], ['torch', '2.14.1']):
        assert row in rows
    assert Page(pages[on_cuda]).pres == ["rsq profile res_squeezenet --json 'my profile.json'"]


def test_hostile_names_are_shown_and_not_obeyed(page, pages):
    tame = Page(pages[comparison])
    results = [make_result(make_case(name, runtime=name, cpu_isa=name), notes=(name,)) for name in HOSTILE]
    failed = [CaseResult(make_case(name), name, name) for name in HOSTILE]
    profile = comparison()
    hostile = page(dataclasses.replace(
        profile, cases=(*results, *failed), command=HOSTILE, versions=dict.fromkeys(HOSTILE, HOSTILE[0]),
        works=tuple(make_work(n, not_counted=(n,), stages=(StageWork(n, 1, 1, 1, 1),)) for n in HOSTILE[:2]),
        estimates=tuple(dataclasses.replace(e, device=HOSTILE[0], assumptions=HOSTILE) for e in profile.estimates),
    ), dict.fromkeys(HOSTILE, 0.5))
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in tame.elements}
    assert not [name for _, values in hostile.elements for name in values if name.startswith('on')]
    assert all(address.startswith('data:image/png') for address in attributes(hostile, 'src', 'srcset'))
    assert '49' not in hostile.title


@pytest.mark.parametrize('profile', [make_profile([]), make_profile([CaseResult(make_case(), 'crashed', 'why')])])
def test_a_profile_without_figures_has_a_page_too(page, profile):
    found = page(profile)
    assert 'img' not in {tag for tag, _ in found.elements}
    assert found.headings[-2:] == ['How it was measured', 'Environment']


@pytest.mark.parametrize(('accuracies', 'says'), [
    ({'resnet19': 0.5}, "there is an accuracy for 'resnet19', which was not profiled"),
    ({'resnet18': 69.8}, "the accuracy of 'resnet18' should be a share from 0 to 1"),
    ({'resnet18': float('nan')}, 'should be a share')])
def test_accuracies_that_make_no_sense_are_refused(page, accuracies, says):
    with pytest.raises(UserError, match=says):
        page(comparison(), accuracies)
