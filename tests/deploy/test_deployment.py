import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from rsq_backbone.classification import class_probabilities
from rsq_backbone.deploy import deployment as module
from rsq_backbone.deploy.artifact import write_artifact
from rsq_backbone.deploy.conversion import TARGETS, Conversion
from rsq_backbone.deploy.deployable import Comparison, Outcome
from rsq_backbone.deploy.deployment import Deployment, deploy
from rsq_backbone.deploy.loader import Artifact, ArtifactError, load
from rsq_backbone.errors import UserError
from rsq_backbone.evaluation import evaluate
from rsq_backbone.machine import cpu_flags
from rsq_backbone.runtimes.openvino import core
from rsq_backbone.training.run_folder import RunFolder

# ---- conversion ----

@pytest.fixture(scope='module')
def network(run: Path) -> torch.nn.Module:
    return timm.create_model(f'local-dir:{run}', pretrained=True).eval()


CONFIG = {
    'task': 'classification', 'model': 'res_squeezenet_lite', 'classes': ['blue', 'green', 'red'], 'size_multiple': 1,
    'preprocessing': {
        'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225], 'input_size': [64, 64], 'interpolation': 'bicubic',
        'crop_pct': 1.0, 'crop_mode': 'squash'}}


@pytest.mark.parametrize('target', list(TARGETS))
def test_every_target_in_float32_computes_what_pytorch_does(
        target: str, network: torch.nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    converted = Conversion(network, (64, 64), tmp_path).convert(target, 'fp32')
    assert capfd.readouterr() == ('', '')  # none of the libraries talks
    config = {**CONFIG, **module._conversion_config(target, 'fp32', converted)}
    write_artifact(tmp_path / 'artifact', converted.files, config)
    batch = np.random.default_rng(0).standard_normal((3, 3, 64, 64), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
    found = load(tmp_path / 'artifact', threads=1, allow_code=True).run(batch)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(('target', 'most'), [('onnx', 0.3), ('openvino', 0.3)])
def test_int8_files_are_a_quarter_of_the_size(
        target: str, most: float, network: torch.nn.Module, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).standard_normal((10, 3, 64, 64), dtype=np.float32)
    conversion = Conversion(network, (64, 64), tmp_path)
    sizes = [sum(file.stat().st_size for file in conversion.convert(target, precision, pictures).files)
             for precision in ('fp32', 'int8')]
    weights = sum(p.numel() for p in network.parameters())
    assert sizes[0] > 4 * weights
    assert weights < sizes[1] < most * sizes[0] + 300_000  # what is not weights does not shrink


def quantised_weights(model: Any) -> bool:
    """Whether the last convolution of an OpenVINO network has its weights in int8."""
    last = [one for one in model.get_ordered_ops() if one.get_type_name() == 'Convolution'][-1]
    waiting, kinds = [last.input_value(1).get_node()], set()
    while waiting:
        node = waiting.pop()
        kinds.add((node.get_type_name(), node.get_output_element_type(0).get_type_name()))
        waiting += [value.get_node() for value in node.input_values()]
    return ('Constant', 'i8') in kinds


@pytest.mark.parametrize('target', ['onnx', 'openvino'])
def test_careful_int8_keeps_the_classifier_in_float32(
        target: str, network: torch.nn.Module, tmp_path: Path) -> None:
    import onnx

    pictures = np.random.default_rng(0).standard_normal((10, 3, 64, 64), dtype=np.float32)
    conversion = Conversion(network, (64, 64), tmp_path)
    quantised = []
    for careful in (False, True):
        file = conversion.convert(target, 'int8', pictures, careful).files[0]
        if target == 'onnx':
            nodes = list(onnx.load(str(file)).graph.node)
            makers = {output: node for node in nodes for output in node.output}
            last = [node for node in nodes if node.op_type == 'Conv'][-1]
            quantised.append(last.input[1] in makers)  # by a DequantizeLinear; float32 is no node's output
        else:
            model = core().read_model(str(file))
            quantised.append(quantised_weights(model))
            [mean] = [one for one in model.get_ordered_ops() if one.get_type_name() == 'ReduceMean']
            assert mean.input_value(0).get_node().get_type_name() == 'Add'  # logits are never rounded to 255 steps
    assert quantised == [True, False]


@pytest.mark.parametrize(('target', 'precision'), [
    ('openvino', 'fp16'), ('openvino', 'bf16'), ('openvino', 'int8'), ('onnx', 'int8')])
def test_smaller_files_are_written_in_silence_and_give_the_same_classes(
        target: str, precision: str, network: torch.nn.Module, photos: Path, tmp_path: Path,
        capfd: pytest.CaptureFixture[str]) -> None:
    config = {**CONFIG, 'target': target}
    preprocess = Artifact(Path(), config, lambda batch: batch).preprocess
    pictures = np.concatenate([
        preprocess(np.asarray(Image.open(file).convert('RGB'))) for file in sorted(photos.rglob('*.png'))])
    capfd.readouterr()
    converted = Conversion(network, (64, 64), tmp_path).convert(target, precision, pictures)
    assert capfd.readouterr() == ('', '')
    assert (converted.dynamic_batch, converted.dynamic_size) == (True, True)
    write_artifact(tmp_path / 'artifact', converted.files, {
        **config, **module._conversion_config(target, precision, converted)})
    with torch.inference_mode():
        expected = network(torch.from_numpy(pictures)).numpy()
    found = load(tmp_path / 'artifact', threads=1).run(pictures)
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.95
    least = {'fp16': 0.005, 'bf16': 0.03, 'int8': 0.2}[precision]  # pictures of one colour span few of int8's steps
    assert np.abs(found - expected).mean() < least * np.abs(expected).mean()


def test_a_signal_reaches_a_program_that_has_dropped_what_openvino_loaded(
        network: torch.nn.Module, tmp_path: Path, run_python: Any) -> None:
    # On processors with AMX, OpenVINO gives threads a stack for signals, and takes it away again.
    converted = Conversion(network, (64, 64), tmp_path).convert('openvino', 'fp32')
    write_artifact(tmp_path / 'artifact', converted.files, {
        **CONFIG, **module._conversion_config('openvino', 'fp32', converted)})
    done = run_python('''
        import signal, sys
        from pathlib import Path
        import numpy as np
        import torch
        from rsq_backbone.deploy.conversion import Conversion
        from rsq_backbone.deploy.loader import load
        from rsq_backbone.runtimes.openvino import OpenVino, computes

        artifact, network = sys.argv[1:]
        computes('bf16')
        pictures = np.random.default_rng(0).standard_normal((10, 3, 64, 64), dtype=np.float32)
        some = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 1)).eval()
        Conversion(some, (64, 64), Path()).convert('openvino', 'int8', pictures)
        loaded = [load(artifact, threads=1), load(artifact, threads=1), OpenVino(threads=1), OpenVino(threads=1)]
        loaded[2].load(Path(network))
        loaded[3].load(Path(network))
        while loaded:
            del loaded[0]  # the oldest first
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print('interrupted')
    ''', str(tmp_path / 'artifact'), str(converted.files[0]))
    assert done.stdout == 'interrupted\n'


def test_batch_norms_are_folded_into_convolutions(network: torch.nn.Module, tmp_path: Path) -> None:
    import onnx

    norms = sum(isinstance(one, torch.nn.BatchNorm2d) for one in network.modules())
    assert norms == 6
    conversion = Conversion(network, (64, 64), tmp_path)
    [file] = conversion.convert('onnx', 'fp32').files
    kinds = [node.op_type for node in onnx.load(str(file)).graph.node]
    convolutions = sum(isinstance(one, torch.nn.Conv2d) for one in network.modules())
    assert (kinds.count('BatchNormalization'), kinds.count('Conv')) == (0, convolutions)
    compiled = core().compile_model(str(conversion.convert('openvino', 'fp32').files[0]), 'CPU')
    assert not any('norm' in one.get_friendly_name().lower() for one in compiled.get_runtime_model().get_ordered_ops())


def test_an_int8_onnx_file_runs_in_openvino_too(network: torch.nn.Module, tmp_path: Path) -> None:
    import onnxruntime

    pictures = np.random.default_rng(0).standard_normal((10, 3, 64, 64), dtype=np.float32)
    [file] = Conversion(network, (64, 64), tmp_path).convert('onnx', 'int8', pictures).files
    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    expected = session.run(None, {'image': pictures})
    found = core().compile_model(str(file), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})(pictures)
    # Both round to 255 steps, in their own order.
    assert np.abs(found[0] - expected[0]).mean() < 0.05 * np.abs(expected[0]).mean()


def test_an_onnx_file_takes_any_batch_and_size(network: torch.nn.Module, tmp_path: Path) -> None:
    import onnxruntime

    [file] = Conversion(network, (64, 64), tmp_path).convert('onnx', 'fp32').files
    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    for shape in ((1, 3, 64, 64), (3, 3, 97, 131)):
        x = torch.randn(shape)
        with torch.inference_mode():
            expected = network(x).numpy()
        np.testing.assert_allclose(
            session.run(['output'], {'image': x.numpy()})[0], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_an_onnx_file_runs_in_opencv_and_openvino(network: torch.nn.Module, tmp_path: Path) -> None:
    import cv2

    [file] = Conversion(network, (64, 64), tmp_path).convert('onnx', 'fp32').files
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).numpy()
    in_opencv = cv2.dnn.readNetFromONNX(str(file))
    in_opencv.setInput(x)
    in_openvino = core().compile_model(str(file), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    for found in (in_opencv.forward(), in_openvino([x])[0]):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(('target', 'precision', 'said'), [
    ('tflite', 'fp32', "unknown target 'tflite'; choose of openvino, onnx, ncnn, torch-export."),
    ('ncnn', 'int8', 'ncnn has no int8; choose of fp32.'),
    ('openvino', 'int8', 'int8 needs pictures to calibrate with'),
])
def test_what_does_not_exist_is_refused(
        target: str, precision: str, said: str, network: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        Conversion(network, (64, 64), tmp_path).convert(target, precision)


def test_a_target_that_is_not_installed_is_named_with_its_line(
        network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('rsq_backbone.deploy.conversion.find_spec', lambda name: None)
    with pytest.raises(UserError, match=r'ncnn fp32 needs more packages: pip install "rsq-backbone\[ncnn\]"'):
        Conversion(network, (64, 64), tmp_path).convert('ncnn', 'fp32')


# ---- deployment ----

def test_the_fastest_that_keeps_the_promise_is_written(deployment: Deployment, run: Path) -> None:
    names = {f'{one.target} {one.precision}' for one in deployment.candidates}
    assert names == {
        'onnx fp32', 'openvino fp32', 'openvino fp16', 'openvino bf16', 'onnx int8', 'openvino int8'}
    sound = [one for one in deployment.candidates if one.status == 'sound']
    times = [one.speed.p50 for one in sound]
    assert None not in times
    assert deployment.chosen.speed.p50 == min(times)
    for one in sound:
        assert one.drop <= 1
        assert one.speed.memory > 1e7
        assert one.speed.ratio.median == pytest.approx(one.speed.p50 / deployment.eager.p50, rel=0.5)
    unavailable = [one.name for one in deployment.candidates if one.status == 'not available']
    flags = cpu_flags()
    assert ('openvino bf16' in unavailable) == flags.isdisjoint({'avx512_bf16', 'amx_bf16', 'bf16'})
    assert ('openvino fp16' in unavailable) == flags.isdisjoint({'avx512_fp16', 'amx_fp16', 'asimdhp'})
    assert set(unavailable) <= {'openvino bf16', 'openvino fp16'}
    assert [one.same_classes for one in sound if one.precision == 'fp32'] == [1, 1]


def test_the_figures_are_those_of_an_evaluation(deployment: Deployment, run: Path, photos: Path) -> None:
    """Of the artifact by rsq evaluate, and of PyTorch by timm and counting."""
    found = evaluate(deployment.folder, str(photos))
    assert found.metrics.n == deployment.pictures == 18
    assert found.metrics.accuracy == pytest.approx(deployment.chosen.score)
    assert '42 of 60 pictures were trained on and are left out.' in found.notes
    rows = RunFolder(run).pictures('validation')
    model = timm.create_model(f'local-dir:{run}', pretrained=True).eval()
    guesses = class_probabilities([row['path'] for row in rows], model).argmax(1)
    right = [deployment.classes[guess] == row['label'] for guess, row in zip(guesses, rows, strict=True)]
    assert np.mean(right) == pytest.approx(deployment.score)


def test_config_json_says_what_was_found(deployment: Deployment, run: Path) -> None:
    config = json.loads((Path(deployment.folder) / 'config.json').read_text())
    assert config['model'] == 'res_squeezenet_lite'
    assert config['measured']['p50'] == deployment.chosen.speed.p50
    assert config['verification']['score_of_pytorch'] == deployment.score
    assert config['precision'] == deployment.chosen.precision
    assert set(config['trained_on']) == RunFolder(run).training_content()


def test_what_is_lost_may_be_as_much_as_promised_to_the_point(
        run: Path, quickly: Any, unmeasured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture of a hundred is one point, though 100 * (0.95 - 0.94) is more in floating point."""
    monkeypatch.setattr(module.DeployableClassifier, 'compare', lambda self, artifacts, progress: Comparison(
        0.95, {name: Outcome(0.94, 0.99, 0.0, 1.0) for name in artifacts}))
    result = quickly(run, output=tmp_path / 'a', target='onnx', precision='fp32', max_drop=1)
    assert (result.chosen.status, result.chosen.drop) == ('sound', 1)


def test_an_output_of_this_folder_is_taken(
        run: Path, quickly: Any, unmeasured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    quickly(run, output='.', target='onnx', precision='fp32')
    assert load(tmp_path / 'here').classes == ('blue', 'green', 'red')


def test_what_loses_too_much_gives_way_to_the_next_precision(
        run: Path, quickly: Any, unmeasured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions to less than float32 are made to give the first class for every picture."""
    original = module.load

    def spoiled(folder: Path, threads: int, allow_code: bool) -> Any:
        artifact = original(folder, threads, allow_code=allow_code)
        if 'fp32' not in folder.name:
            monkeypatch.setattr(artifact, 'run', lambda batch: np.eye(3, dtype=np.float32)[np.zeros(len(batch), int)])
        return artifact

    monkeypatch.setattr(module, 'load', spoiled)
    result = quickly(run, output=tmp_path / 'a', target='openvino', precision='int8')
    assert [(one.name, one.status) for one in result.candidates if one.precision == 'int8'] == [
        ('openvino int8', 'loses too much'), ('openvino int8, careful', 'loses too much')]
    assert (result.chosen.precision, result.chosen.status) == ('fp32', 'sound')
    assert result.notes == (
        'int8 is not to be had here; bf16 takes its place.',
        'bf16 is not to be had here; fp16 takes its place.',
        'fp16 is not to be had here; fp32 takes its place.')
    assert json.loads((tmp_path / 'a' / 'config.json').read_text())['precision'] == 'fp32'


def test_int8_that_loses_too_much_is_kept_with_its_classifier_in_float32(
        run: Path, quickly: Any, unmeasured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.load

    def spoiled(folder: Path, threads: int, allow_code: bool) -> Any:
        artifact = original(folder, threads, allow_code=allow_code)
        if folder.name == 'onnx-int8-artifact':
            monkeypatch.setattr(artifact, 'run', lambda batch: np.eye(3, dtype=np.float32)[np.zeros(len(batch), int)])
        return artifact

    monkeypatch.setattr(module, 'load', spoiled)
    result = quickly(run, output=tmp_path / 'a', target='onnx', precision='int8')
    assert [(one.name, one.status) for one in result.candidates] == [
        ('onnx int8', 'loses too much'), ('onnx int8, careful', 'sound')]
    assert result.chosen.careful
    assert result.notes == ()


def test_nothing_is_written_if_nothing_keeps_the_promise(
        run: Path, quickly: Any, unmeasured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.load

    def silent(folder: Path, threads: int, allow_code: bool) -> Any:
        artifact = original(folder, threads, allow_code=allow_code)
        monkeypatch.setattr(artifact, 'run', lambda batch: np.zeros((len(batch), 3), np.float32))
        return artifact

    monkeypatch.setattr(module, 'load', silent)
    with pytest.raises(UserError, match=r'nothing loses at most 1 points of accuracy .*onnx fp32: logits differ'):
        quickly(run, output=tmp_path / 'a', target='onnx', precision='fp32')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('target', ['ncnn', 'torch-export'])
def test_a_target_of_ones_own_choice_is_written(
        run: Path, quickly: Any, unmeasured: None, tmp_path: Path, target: str) -> None:
    result = quickly(run, output=tmp_path / 'a', target=target)
    assert (result.chosen.target, result.chosen.precision) == (target, 'fp32')
    assert result.chosen.same_classes == 1
    assert load(tmp_path / 'a', allow_code=True).classes == ('blue', 'green', 'red')


def test_an_artifact_is_replaced_only_on_request_and_nothing_else_ever(
        run: Path, quickly: Any, unmeasured: None, tmp_path: Path) -> None:
    (tmp_path / 'thesis').mkdir()
    (tmp_path / 'thesis' / 'thesis.txt').write_text('mine')
    for options in ({}, {'overwrite': True}):
        with pytest.raises(UserError, match='is no artifact'):
            quickly(run, output=tmp_path / 'thesis', **options)
    assert (tmp_path / 'thesis' / 'thesis.txt').read_text() == 'mine'
    quickly(run, output=tmp_path / 'a', target='onnx', precision='fp32')
    with pytest.raises(UserError, match='replace it with --overwrite'):
        quickly(run, output=tmp_path / 'a', target='onnx', precision='fp32')
    quickly(run, output=tmp_path / 'a', target='openvino', precision='fp32', overwrite=True)
    assert load(tmp_path / 'a').config['target'] == 'openvino'


def test_too_few_pictures_to_calibrate_with_are_refused(
        run: Path, quickly: Any, unmeasured: None, photos: Path, tmp_path: Path) -> None:
    (tmp_path / 'few').mkdir()
    for file in sorted((photos / 'red').iterdir())[:9]:
        shutil.copy(file, tmp_path / 'few')
    (tmp_path / 'few' / 'broken.png').write_bytes(b'no picture')
    with pytest.raises(UserError, match=r'by 10 pictures or more, and there are 9 in .*few'):
        quickly(run, output=tmp_path / 'a', precision='int8', calibration=tmp_path / 'few')
    with pytest.raises(UserError, match=r'nowhere cannot be read'):
        quickly(run, output=tmp_path / 'a', precision='int8', calibration=tmp_path / 'nowhere')


def test_pictures_that_are_gone_are_asked_for(
        run: Path, quickly: Any, unmeasured: None, photos: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run, tmp_path / 'moved'))
    for file in (moved / 'split.csv', moved / 'settings.json'):
        file.write_text(file.read_text().replace(str(photos), str(tmp_path / 'gone')))
    with pytest.raises(UserError, match=r'are not there any more \(.*gone.*\); name others with --data'):
        quickly(moved, output=tmp_path / 'a', precision='fp32')
    with pytest.raises(UserError, match=r'of those that .*moved was trained on 0 are found'):
        quickly(moved, output=tmp_path / 'a', data=str(photos), precision='int8')
    result = quickly(moved, output=tmp_path / 'a', data=str(photos), target='onnx')
    assert result.pictures == 18
    assert {one.precision for one in result.candidates if one.status == 'sound'} == {'fp32'}
    assert any('int8 finds the ranges' in note for note in result.notes)


@pytest.mark.parametrize(('options', 'said'), [
    ({'target': 'tflite'}, "unknown target 'tflite'"),
    ({'precision': 'fp4'}, "unknown precision 'fp4'; choose of fp32, fp16, bf16, int8"),
    ({'target': 'onnx', 'precision': 'bf16'}, 'onnx has no bf16; choose of fp32, int8'),
])
def test_wishes_that_cannot_be_met_are_refused_before_any_work(
        run: Path, quickly: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, said: str) -> None:
    monkeypatch.setattr(module, '_deployable', lambda *args: pytest.fail('work was begun'))
    with pytest.raises(UserError, match=said):
        quickly(run, output=tmp_path / 'a', **options)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='is not a finished run'):
        deploy(tmp_path)


def test_a_crash_leaves_nothing_under_the_artifacts_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'model.onnx').write_bytes(b'x')

    def full(*args: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('rsq_backbone.deploy.artifact.sha256_of', full)
    with pytest.raises(UserError, match='No space left on device'):
        write_artifact(tmp_path / 'a', [tmp_path / 'model.onnx'], CONFIG)
    assert [file.name for file in tmp_path.iterdir()] == ['model.onnx']
    with pytest.raises(ArtifactError):
        load(tmp_path / 'a')


@pytest.mark.parametrize('stop', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_an_artifact_that_cannot_be_replaced_is_still_there(
        artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException) -> None:
    (tmp_path / 'model.onnx').write_bytes(b'x')
    rename = Path.rename

    def fails(self: Path, target: Any) -> Path:
        if self.suffix == '.part':
            raise stop
        return rename(self, target)

    monkeypatch.setattr(Path, 'rename', fails)
    with pytest.raises((UserError, KeyboardInterrupt)):
        write_artifact(artifact, [tmp_path / 'model.onnx'], CONFIG, overwrite=True)
    assert load(artifact).classes == ('blue', 'green', 'red')
    assert sorted(one.name for one in tmp_path.iterdir()) == ['artifact', 'model.onnx']
    (tmp_path / 'artifact.before').mkdir()
    (tmp_path / 'artifact.before' / 'thesis.txt').write_text('mine')
    with pytest.raises(UserError, match=r'artifact\.before is in the way'):
        write_artifact(artifact, [tmp_path / 'model.onnx'], CONFIG, overwrite=True)
    assert (tmp_path / 'artifact.before' / 'thesis.txt').read_text() == 'mine'
