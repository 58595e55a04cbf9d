"""What the benchmarks compare is what they say it is."""
import importlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
import typer
from drawings import assert_good_png
from PIL import Image
from scipy import stats

from rsq_backbone.datasets.food_scene import draw_food
from rsq_backbone.training.layers import freeze_stages, stages

BENCHMARKS = Path(__file__).parents[1] / 'benchmarks'
NAMES = ('squeezenet1_1', 'shufflenet_v2_x1_0', 'googlenet', 'resnet18', 'mobilenet_v2')


@pytest.fixture(scope='module')
def benchmark():
    """Import a module of benchmarks/, as its own commands do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module


@pytest.mark.parametrize('name', NAMES)
def test_a_torchvision_network_as_a_timm_model_computes_what_torchvision_computes(benchmark, name, tmp_path):
    benchmark('torchvision_models')
    options = dict(aux_logits=True, init_weights=False) if name == 'googlenet' else {}
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None, **options).eval()
    torch.save(net.state_dict(), tmp_path / 'checkpoint.pth')
    model = timm.create_model(
        f'tv_{name}', pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'checkpoint.pth'))).eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(x))
        assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.num_features)
    freeze_stages(model, 1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {*stages(model)[-1], *stages(model)[-2]}
    assert 4 < len(stages(model)) < 7
    model.reset_classifier(9)
    assert model(x).shape == (2, 9)


def test_squeezenet_starts_from_the_weights_that_res_squeezenet_starts_from(benchmark):
    benchmark('torchvision_models')
    squeezenet, ours = (
        timm.create_model(name, pretrained=True).eval() for name in ('tv_squeezenet1_1', 'res_squeezenet'))
    for key in ('mean', 'std', 'input_size', 'crop_pct', 'interpolation'):
        assert squeezenet.pretrained_cfg[key] == ours.pretrained_cfg[key]
    x = torch.randn(1, 3, 227, 227)
    with torch.no_grad():
        torch.testing.assert_close(
            squeezenet.forward_features(x)[:, :, ::2, ::2], ours.forward_features(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(squeezenet.classifier.weight, ours.conv10.weight)


def test_the_random_residual_stage_has_the_trunk_and_nothing_else_of_the_start(benchmark):
    benchmark('solar_cells')
    ours = timm.create_model('res_squeezenet', pretrained=True).state_dict()
    random = timm.create_model('res_squeezenet_random_stage', pretrained=True).state_dict()
    for key, value in ours.items():
        if 'conv' in key or 'fire' in key:
            assert torch.equal(random[key], value) == ('stages.3.' not in key), key
    assert random['stages.3.res5a.bn2.weight'].unique().tolist() == [1]


def test_intervals_are_student_s(benchmark):
    runs = benchmark('runs')
    values = [1.0, 2.5, 2.0, 4.0, 3.5]
    low, high = stats.t.interval(0.95, 4, loc=2.6, scale=stats.sem(values))
    assert runs.mean_interval(values) == pytest.approx((2.6, low, high))
    assert runs.mean_interval([1.0, 2.0]) == (1.5, float('-inf'), float('inf'))


def test_samples_of_solar_cells_never_share_a_cell_and_keep_the_proportions(benchmark, tmp_path):
    solar_cells = benchmark('solar_cells')
    cells = [solar_cells.Cell(Path(f'{i}.png'), 1.0 if i % 4 == 0 else 0.0, 'mono') for i in range(1000)]
    solar_cells.write_samples(cells, 'defect', 400, 0, tmp_path / 'sample.csv', tmp_path / 'others.csv')
    sample, others = (
        [line.split(',') for line in (tmp_path / f'{name}.csv').read_text().splitlines()[1:]]
        for name in ('sample', 'others'))
    assert (len(sample), len(others)) == (400, 280)
    assert not {path for path, _ in sample} & {path for path, _ in others}
    assert [sum(label == 'defect' for _, label in rows) for rows in (sample, others)] == [100, 70]


def test_the_pareto_front_holds_what_nothing_else_beats_in_both(benchmark, tmp_path):
    deployment = benchmark('deployment')

    def row(name, score, p50):
        speed = deployment.Speed(p50=p50)
        return deployment.Row(name, '', '', score, score, 100, 'openvino', 'int8', 10 ** 6, None, {1: speed, 2: speed})

    rows = [
        row('slow and best', 0.9, 5.0), row('beaten', 0.7, 3.0), row('fast', 0.8, 1.0), row('equal, slower', 0.8, 2.0),
        row('unmeasured', 0.99, None), row('fastest (random start)', 0.95, 0.1), row('worse at once', 0.5, 1.0)]
    assert [one.name for one in deployment.pareto(rows)] == ['fast', 'slow and best']
    deployment.draw(rows, tmp_path / 'chart.png')
    assert_good_png(tmp_path / 'chart.png')
    table = deployment.table(rows, 'accuracy', {1: rows[0].speeds[1], 2: rows[0].speeds[1]}, 'slow')
    assert '| slow and best ' in table
    assert '90.0, 90.0' in table


def test_table_1_has_the_paper_s_networks_and_accuracies(benchmark):
    table1 = benchmark('table1')
    assert [model for model, _ in table1.NETWORKS.values()] == [*(f'tv_{name}' for name in NAMES), 'res_squeezenet']
    # All accuracies of the paper are whole counts of its 292 pictures.
    for _, row in table1.NETWORKS.values():
        assert abs(row.accuracy * 292 - round(row.accuracy * 292)) < 0.02


def test_what_autoload_adds_is_taken_round_by_round(benchmark):
    autoload = benchmark('autoload')
    without = [0.020, 0.030, 0.040, 0.050, 0.060, 0.070]  # a machine that grows slower
    table = autoload.table({autoload.OFF: without, autoload.ON: [seconds + 0.001 for seconds in without]})
    assert '45.000 [20.000, 70.000]' in table
    assert '1.000 [1.000, 1.000]' in table


def test_a_detectors_loss_falls_only_if_it_is_lower_both_at_once_and_at_the_end(benchmark):
    detection = benchmark('detection')
    for losses, falls in (
            ((4., 3., 3., 3., 3., 2.), True), ((4., 9., 1., 1., 1., 2.), True), ((4., 5., 4., 4., 4., 2.), False),
            ((4., 3., 3., 3., 3., 5.), False)):
        assert detection.Run('ssd', 'random', 0, losses).falls is falls


def test_detectors_learn_the_boxes_around_the_drawn_foods(benchmark):
    detection = benchmark('detection')
    images, targets = detection.draw_batch(3)
    again, _ = detection.draw_batch(3)
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        rng = np.random.default_rng([3, number])
        picture, mask = draw_food(int(rng.integers(9)), 128, rng)
        assert torch.equal(image, again[number])
        assert torch.equal((image * 255).round().byte(), torch.from_numpy(picture).permute(2, 0, 1))
        assert set(target['labels'].tolist()) == set(np.unique(mask).tolist()) - {0}
        for (left, top, right, bottom), label in zip(target['boxes'].int().tolist(), target['labels'], strict=True):
            food = mask == int(label)
            assert food[top:bottom, left:right].sum() == food.sum()
            for edge in (food[top, :], food[bottom - 1, :], food[:, left], food[:, right - 1]):
                assert edge.any()


def test_peanut_masks_hold_class_numbers_at_the_places_of_the_painted_ones(benchmark, tmp_path):
    peanut = benchmark('prepare_peanut')
    for folder in ('images', 'labels', 'out/images', 'out/masks'):
        (tmp_path / folder).mkdir(parents=True)
    painted = np.zeros((720, 960, 3), np.uint8)
    painted[:360, :480] = 0, 255, 0
    painted[360:, 480:] = 255, 0, 0
    Image.fromarray(painted).save(tmp_path / 'labels' / '0001.png')
    Image.fromarray(painted).save(tmp_path / 'images' / '0001.jpg')
    peanut.prepare(tmp_path, 1, tmp_path / 'out')
    mask = np.asarray(Image.open(tmp_path / 'out' / 'masks' / '0001.png'))
    expected = np.zeros((384, 512), np.uint8)
    expected[:192, :256], expected[192:, 256:] = 1, 2
    assert np.array_equal(mask, expected)
    assert Image.open(tmp_path / 'out' / 'images' / '0001.jpg').size == (512, 384)
    with pytest.raises(typer.BadParameter, match='is missing'):
        peanut.check(tmp_path)


@pytest.mark.parametrize('variant', ['res_squeezenet', 'res_squeezenet_lite'])
def test_starts_of_all_scales_compute_the_same(benchmark, monkeypatch, rsq_data, variant):
    starts = benchmark('starts')
    monkeypatch.setenv('RSQ_DATA', str(rsq_data))
    images = starts.photos()[:4]
    logits, sizes = {}, {}
    for name in starts.STARTS:
        model = timm.create_model(variant).eval()
        model.load_state_dict(starts.start(name, variant))
        with torch.no_grad():
            logits[name] = model(images)
            sizes[name] = model.stem(images).square().mean().sqrt().item()
        torch.testing.assert_close(logits[name], logits['before'], rtol=0, atol=1e-4)
    assert sizes['before'] > 20
    assert all(0.5 < sizes[name] < 2 for name in starts.STARTS if name != 'before')
