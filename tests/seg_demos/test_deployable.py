"""Segmentation networks through rsq deploy, and what their artifacts compute."""
import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from discs import RECIPE, draw, tiny
from PIL import Image
from sklearn.metrics import jaccard_score

import seg_demos.segnet_model  # noqa: F401  registers
from rsq_backbone.deploy import deployment as deployment_module
from rsq_backbone.deploy.artifact import write_artifact
from rsq_backbone.deploy.conversion import Conversion
from rsq_backbone.deploy.deployment import _conversion_config, deploy
from rsq_backbone.deploy.loader import load
from rsq_backbone.deploy.measuring import Speed
from rsq_backbone.errors import UserError
from rsq_backbone.profiler.session import Plan
from rsq_backbone.training.run_folder import RunFolder
from seg_demos import artifact, trained, training
from seg_demos.deployable import DeployableSegmentation
from seg_demos.onnx_export import exportable
from seg_demos.tiling import segment

PLAN = Plan(seconds=0.05, samples=11, rounds=6, limit=1)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A folder with a run that has learned its pictures, in runs/run, and these in discs."""
    root = tmp_path_factory.mktemp('deploying')
    draw(root / 'discs', 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, 'draw_run', lambda *args: None)
        training.train(
            'tiny', tiny, str(root / 'discs'), dataclasses.replace(RECIPE, epochs=15), encoder_weights=None,
            output=root / 'runs', name='run')
    return root


@pytest.fixture(scope='module')
def deployment(root):
    return deploy(root / 'runs' / 'run', threads=1, plan=PLAN, output=root / 'artifact')


def judged(root):
    return [(row['path'], row['mask']) for row in RunFolder(root / 'runs' / 'run').pictures('validation')]


def test_every_candidate_is_judged_by_the_masks_of_the_run(deployment, root):
    assert {(one.target, one.precision) for one in deployment.candidates} == {
        ('onnx', 'fp32'), ('openvino', 'fp32'), ('openvino', 'fp16'), ('openvino', 'bf16'), ('onnx', 'int8'),
        ('openvino', 'int8')}
    assert (deployment.task, deployment.metric, deployment.input_size) == ('segmentation', 'mean_iou', (96, 96))
    assert deployment.pictures == len(judged(root)) == 7
    sound = [one for one in deployment.candidates if one.status == 'sound']
    assert all(one.same_classes == 1 for one in sound if one.precision == 'fp32')
    assert deployment.chosen.speed.p50 == min(one.speed.p50 for one in sound)
    metrics = json.loads((root / 'runs' / 'run' / 'metrics.json').read_text())
    assert deployment.score == pytest.approx(metrics['metrics']['mean_iou'])


def test_the_artifact_has_the_mean_iou_that_scikit_learn_finds(deployment, root):
    found = load(deployment.folder)
    masks = [(np.asarray(Image.open(mask)), found.segment(np.asarray(Image.open(picture))))
             for picture, mask in judged(root)]
    true, given = (np.concatenate([one.ravel() for one in side]) for side in zip(*masks, strict=True))
    assert deployment.chosen.score == pytest.approx(jaccard_score(true, given, average='macro'))
    assert deployment.score - deployment.chosen.score <= 0.01
    assert found.config['verification']['score'] == deployment.chosen.score
    assert (found.config['dynamic_batch'], found.config['dynamic_size']) == (True, True)


@pytest.mark.parametrize('architecture', ['Unet', 'DeepLabV3Plus', 'PSPNet', 'SegNet'])
def test_a_converted_network_computes_what_pytorch_does_at_any_size(architecture, tmp_path):
    torch.manual_seed(0)
    network = exportable(
        smp.create_model(architecture, 'res_squeezenet_lite', encoder_weights=None, classes=3).eval())
    conversion = Conversion(network, (96, 96), tmp_path, 32)
    config = {
        'task': 'segmentation', 'model': architecture, 'classes': ['a', 'b', 'c'], 'size_multiple': 32,
        'preprocessing': {'mean': [0.5] * 3, 'std': [0.2] * 3, 'input_size': [96, 96]}}
    for target in ('onnx', 'openvino'):
        converted = conversion.convert(target, 'fp32')
        write_artifact(
            tmp_path / f'{target}-artifact', converted.files,
            {**config, **_conversion_config(target, 'fp32', converted)})
        found = load(tmp_path / f'{target}-artifact', threads=1)
        for shape in ((1, 3, 64, 32), (1, 3, 96, 160)):
            x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
            with torch.inference_mode():
                expected = network(torch.from_numpy(x)).numpy()
            np.testing.assert_allclose(found.run(x), expected, rtol=1e-3, atol=2e-4 * np.abs(expected).max())


@pytest.fixture(scope='module')
def exact(root):
    """An artifact in float32, without figures of its speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployment_module, 'measure', lambda *args: (Speed(), {}))
        return deploy(
            root / 'runs' / 'run', target='onnx', precision='fp32', threads=1, output=root / 'exact').folder


@pytest.mark.parametrize(('size', 'tile'), [((72, 90), 1024), ((40, 30), 1024), ((250, 331), 128)])
def test_predict_gives_the_masks_of_the_run_by_its_artifact(predict, exact, root, tmp_path, size, tile):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / 'a.png')
    code, _, err = predict(exact, tmp_path / 'a.png', '--out', tmp_path / 'out', '--tile', tile)
    assert (code, err) == (0, '')
    run = trained.load(root / 'runs' / 'run')
    expected = segment(run.network, picture, run.config, tile, min(tile // 4, 256))
    with Image.open(tmp_path / 'out' / 'a-mask.png') as image:
        # A last bit of a logit may turn where two classes are level.
        assert (np.asarray(image) == expected).mean() > 0.999


def test_the_loader_by_itself_gives_the_same_mask(exact, root, tmp_path):
    picture, _ = judged(root)[0]
    done = subprocess.run(
        [sys.executable, f'{exact}/artifact.py', picture], cwd=tmp_path, capture_output=True, text=True, check=True)
    [mask] = tmp_path.glob('overlays/*-mask.png')
    assert done.stdout.startswith(f'overlays/{mask.name} of {picture}: ')
    assert done.stderr == ''
    run = trained.load(root / 'runs' / 'run')
    expected = segment(run.network, np.asarray(Image.open(picture)), run.config)
    assert (np.asarray(Image.open(mask)) == expected).mean() > 0.999


def test_the_loader_cuts_large_pictures_into_the_same_tiles(exact, root):
    picture = np.random.default_rng(0).integers(0, 256, (300, 1100, 3), np.uint8)
    run = trained.load(root / 'runs' / 'run')
    assert (load(exact).segment(picture) == segment(run.network, picture, run.config)).mean() > 0.999


def test_pictures_of_ones_own_are_judged_by_and_those_trained_on_left_out(root, tmp_path):
    more = draw(tmp_path / 'more', 3, seed=5)
    picture, mask = next((row['path'], row['mask']) for row in RunFolder(root / 'runs' / 'run').pictures('train'))
    shutil.copy(picture, more / 'images' / '99.png')
    shutil.copy(mask, more / 'masks' / '99.png')
    found = DeployableSegmentation(RunFolder(root / 'runs' / 'run'), str(more), lambda *args: None)
    assert (found.pictures, found.data) == (3, str(more))
    assert found.calibration_set(None, lambda *args: None).shape == (17, 3, 96, 96)


def test_masks_that_lack_the_last_class_are_judged_by_too(root, tmp_path):
    fewer = draw(tmp_path / 'fewer', 3, seed=6)
    for file in (fewer / 'masks').iterdir():
        Image.fromarray(np.asarray(Image.open(file)).clip(0, 1)).save(file)
    found = DeployableSegmentation(RunFolder(root / 'runs' / 'run'), str(fewer), lambda *args: None)
    assert {target for sample in found.samples() for target in np.unique(sample.targets)} == {0, 1}


def test_pictures_that_came_later_are_not_judged_by_unasked(root, tmp_path):
    run = RunFolder(shutil.copytree(root / 'runs' / 'run', tmp_path / 'run'))
    source = shutil.copytree(root / 'discs', tmp_path / 'discs')
    later = draw(tmp_path / 'later', 1, seed=7)
    shutil.copy(later / 'images' / '00.png', source / 'images' / 'later.png')
    shutil.copy(later / 'masks' / '00.png', source / 'masks' / 'later.png')
    settings = run.path / 'settings.json'
    settings.write_text(settings.read_text().replace(str(root / 'discs'), str(source)))
    assert DeployableSegmentation(run, None, lambda *args: None).pictures == 7
    assert DeployableSegmentation(run, str(source), lambda *args: None).pictures == 8


def test_what_cannot_be_judged_by_is_one_line(root, tmp_path):
    run = RunFolder(root / 'runs' / 'run')
    other = draw(tmp_path / 'other', 3)
    for file in (other / 'masks').iterdir():
        Image.fromarray(np.asarray(Image.open(file)) + 1).save(file)
    with pytest.raises(UserError, match=r'are no class: 3; .* Name other pictures with masks by --data\.'):
        DeployableSegmentation(run, str(other), lambda *args: None)
    with pytest.raises(UserError, match=r'nowhere: no such folder.* Name other pictures with masks by --data\.'):
        DeployableSegmentation(run, str(tmp_path / 'nowhere'), lambda *args: None)
    with pytest.raises(UserError, match='ncnn files are of one size'):
        deploy(run.path, target='ncnn', output=tmp_path / 'a')
    alone = shutil.copytree(run.path, tmp_path / 'alone')
    (alone / 'settings.json').unlink()
    with pytest.raises(UserError, match=r'settings\.json is missing or damaged'):
        DeployableSegmentation(RunFolder(alone), None, lambda *args: None)


def test_each_command_names_the_other_for_the_others_artifacts(rsq, exact, predict, root):
    code, out, err = rsq('predict', exact, judged(root)[0][0])
    assert (code, out) == (2, '')
    assert f'python -m seg_demos.predict {exact} photo.jpg runs it' in err
    config = json.loads((root / 'exact' / 'config.json').read_text())
    config.update(task='classification', preprocessing={
        **config['preprocessing'], 'interpolation': 'bicubic', 'crop_pct': 1.0, 'crop_mode': 'squash'})
    files = [root / 'exact' / 'model.onnx']
    write_artifact(root / 'classifier', files, {key: value for key, value in config.items() if key != 'format'}, True)
    with pytest.raises(UserError, match=r'is for classification; rsq predict .* runs it'):
        artifact.load(root / 'classifier', allow_code=False)
    code, out, err = predict(root / 'classifier', judged(root)[0][0])
    assert (code, out, err.count('\n')) == (2, '', 1)


def test_deploy_prints_mean_iou_and_how_to_use_the_artifact(rsq, root, tmp_path, monkeypatch):
    monkeypatch.setattr(deployment_module, 'measure', lambda *args: (Speed(), {}))
    code, out, err = rsq(
        'deploy', root / 'runs' / 'run', '--target', 'onnx', '--precision', 'fp32', '--output', tmp_path / 'a')
    assert (code, err) == (0, '')
    assert 'IoU %' in out
    assert 'judged by 7 pictures' in out
    assert f'python -m seg_demos.predict {tmp_path / "a"} photo.jpg' in out
