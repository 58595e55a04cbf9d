import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Set

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform

from rsq_backbone.deploy import loader
from rsq_backbone.deploy.deployment import Deployment
from rsq_backbone.deploy.loader import Artifact, ArtifactError, load, read_picture

MODES = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}


def noise(height: int, width: int) -> np.ndarray:
    """Of so little contrast that no bicubic pass has to cut anything off."""
    return np.random.default_rng(height * width).integers(64, 192, (height, width, 3), dtype=np.uint8)


# ---- preprocessing ----

@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize(('size', 'target'), [
    ((300, 400), (255, 340)), ((97, 131), (255, 256)), ((1500, 2000), (64, 85)), ((40, 900), (255, 5737)),
    ((31, 57), (8, 8)), ((1, 1), (5, 7)), ((256, 256), (227, 227)),
])
def test_resizing_is_pillows_to_a_grey_level(size: Any, target: Any, interpolation: str) -> None:
    picture = noise(*size)
    kernel, support = loader._KERNELS[interpolation]
    found = loader._resample(picture, target[1], kernel, support)
    found = loader._resample(found.swapaxes(0, 1), target[0], kernel, support).swapaxes(0, 1)
    expected = Image.fromarray(picture).resize(target[::-1], MODES[interpolation])
    # None where Pillow too begins with the rows, as it always did before version 13: it rounds after each pass.
    difference = np.abs(found.astype(int) - np.asarray(expected))
    assert difference.max() <= 1
    assert difference.mean() < 0.35


@pytest.mark.parametrize('crop_mode', ['center', 'squash'])
@pytest.mark.parametrize('crop_pct', [0.875, 0.887, 1.0])
@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('size', [(300, 400), (401, 299), (227, 227), (64, 500), (30, 40)])
def test_preprocessing_is_timms(size: Any, interpolation: str, crop_pct: float, crop_mode: str) -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    config: Dict[str, Any] = {
        'task': 'classification', 'classes': ['a'], 'preprocessing': {
            'mean': mean, 'std': std, 'input_size': [227, 227], 'interpolation': interpolation, 'crop_pct': crop_pct,
            'crop_mode': crop_mode}}
    transform: Any = create_transform(
        (3, 227, 227), interpolation=interpolation, mean=mean, std=std, crop_pct=crop_pct, crop_mode=crop_mode)
    picture = noise(*size)
    found = Artifact(Path(), config, lambda batch: batch).preprocess(picture)
    expected = transform(Image.fromarray(picture))[None].numpy()
    assert found.shape == expected.shape == (1, 3, 227, 227)
    assert found.dtype == np.float32
    levels = np.abs(found - expected) * 255 * np.array(std)[:, None, None]
    assert levels.max() < 2.001  # each pass rounds, and bicubic weights add up to more than 1 in size
    assert levels.mean() < 0.3


def test_a_segmentation_networks_picture_is_extended_by_its_edges_and_its_mask_cut_again() -> None:
    config: Dict[str, Any] = {
        'task': 'segmentation', 'classes': ['low', 'high'], 'size_multiple': 32,
        'preprocessing': {'mean': [0, 0, 0], 'std': [1, 1, 1], 'input_size': [64, 64]}}
    seen = []

    def brighter_than_half(batch: np.ndarray) -> np.ndarray:
        seen.append(batch)
        return np.stack([0.5 - batch[:, 0], batch[:, 0] - 0.5], 1)

    picture = noise(33, 50)
    mask = Artifact(Path(), config, brighter_than_half).segment(picture)
    assert seen[0].shape == (1, 3, 64, 64)
    expected = np.pad(picture, ((0, 31), (0, 14), (0, 0)), mode='edge').transpose(2, 0, 1)[None] / np.float32(255)
    np.testing.assert_array_equal(seen[0], expected)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, picture[..., 0] >= 128)


@pytest.mark.parametrize('picture', [
    np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32),
    np.zeros((0, 8, 3), np.uint8)])
def test_what_is_no_picture_is_refused(picture: np.ndarray) -> None:
    config: Dict[str, Any] = {'task': 'segmentation', 'classes': ['a'], 'size_multiple': 1, 'preprocessing': {
        'mean': [0, 0, 0], 'std': [1, 1, 1]}}
    with pytest.raises(ArtifactError, match=r'\(H, W, 3\) uint8 RGB'):
        Artifact(Path(), config, lambda batch: batch).preprocess(picture)


# ---- pictures ----

def test_pictures_are_read_as_pillow_reads_them(tmp_path: Path) -> None:
    rgb = noise(20, 30)
    Image.fromarray(rgb).save(tmp_path / 'rgb.png')
    Image.fromarray(rgb[..., 0]).save(tmp_path / 'grey.png')
    assert np.array_equal(read_picture(tmp_path / 'rgb.png'), rgb)
    assert np.array_equal(read_picture(tmp_path / 'grey.png'), rgb[..., :1].repeat(3, 2))
    half = np.dstack([rgb, np.full((20, 30), 51, np.uint8)])  # a fifth of the colour, on white
    Image.fromarray(half).save(tmp_path / 'transparent.png')
    np.testing.assert_allclose(read_picture(tmp_path / 'transparent.png'), rgb / 5 + 255 * 4 / 5, atol=1)
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    cv2.imwrite(str(tmp_path / 'deep.png'), deep)
    np.testing.assert_allclose(read_picture(tmp_path / 'deep.png')[..., 0], deep / 257, atol=1)


def test_a_jpeg_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.new('RGB', (40, 20))
    picture.paste((255, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / 'turned.jpg', exif=exif)
    upright = read_picture(tmp_path / 'turned.jpg')
    assert upright.shape == (40, 20, 3)
    assert upright[5, 10, 0] > 200
    assert upright[35, 10, 0] < 50


@pytest.mark.parametrize('suffix', ['png', 'webp'])
def test_other_files_are_turned_upright_too(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(20, 40)).save(tmp_path / f'turned.{suffix}', exif=exif, lossless=True)
    assert np.array_equal(read_picture(tmp_path / f'turned.{suffix}'), np.rot90(noise(20, 40), -1))


@pytest.mark.parametrize('data', [
    b'', b'hello', b'\xff\xd8\xff\xe0 and nothing more', b'\x89PNG\r\n\x1a\n', b'\xff\xd8', b'\xff\xd8' + 99 * b'\xff',
    b'RIFF----WEBPVP8 ', b'BM', b'II*\0', b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x09\0\0\0\x09\x08\2\0\0\0'])
def test_what_is_no_image_is_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / 'x.jpg').write_bytes(data)
    with pytest.raises(ArtifactError, match=r'x\.jpg: not a JPEG, PNG, WebP or BMP, or damaged'):
        read_picture(tmp_path / 'x.jpg')
    with pytest.raises(ArtifactError, match='cannot be read'):
        read_picture(tmp_path / 'missing.jpg')


@pytest.mark.parametrize(('name', 'options'), [
    ('a.png', {}), ('a.bmp', {}), ('a.jpg', {}), ('progressive.jpg', {'progressive': True, 'comment': b'x' * 9999}),
    ('lossy.webp', {}), ('lossless.webp', {'lossless': True}), ('alpha.webp', {'lossless': True})])
def test_a_pictures_size_is_known_before_it_is_decoded(tmp_path: Path, name: str, options: Any) -> None:
    picture = Image.fromarray(noise(37, 61))
    (picture.convert('RGBA') if 'alpha' in name else picture).save(tmp_path / name, **options)
    assert loader._size_in_header((tmp_path / name).read_bytes()) == (61, 37)
    assert read_picture(tmp_path / name).shape == (37, 61, 3)


def test_a_picture_of_gigapixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.MAX_IMAGE_PIXELS, before = None, Image.MAX_IMAGE_PIXELS
    try:
        Image.new('1', (20_000, 20_000)).save(tmp_path / 'bomb.png')
    finally:
        Image.MAX_IMAGE_PIXELS = before
    assert (tmp_path / 'bomb.png').stat().st_size < 200_000
    monkeypatch.setattr(loader, '_decode', lambda data: pytest.fail('decoded'))
    with pytest.raises(ArtifactError, match=r'bomb\.png: more than 100 million pixels; scale it down first'):
        read_picture(tmp_path / 'bomb.png')


def test_a_narrow_picture_is_not_scaled_up_to_gigabytes(deployment: Deployment) -> None:
    with pytest.raises(ArtifactError, match=r'too narrow \(9999 x 3 pixels\)'):
        load(deployment.folder).classify(noise(3, 9999))


@pytest.mark.parametrize('options', [('--topk', '0'), ('--threads', '-1')])
def test_numbers_below_one_are_refused(options: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        loader._main(['x.png', *options])
    assert 'is less than 1' in capsys.readouterr().err


def test_masks_of_pictures_of_one_name_are_told_apart(tmp_path: Path) -> None:
    written: Set[str] = set()
    for value in range(3):
        loader._write_mask(np.full((4, 4), value, np.uint8), tmp_path, 'a', written)
    for value, name in enumerate(('a', 'a-2', 'a-3')):
        assert np.all(np.asarray(Image.open(tmp_path / f'{name}-mask.png')) == value)
    (tmp_path / 'b-mask.png').mkdir()
    with pytest.raises(ArtifactError, match=r'b-mask\.png cannot be written'):
        loader._write_mask(np.zeros((4, 4), np.uint8), tmp_path, 'b', written)


# ---- artifacts ----

def test_an_artifact_computes_what_timm_does(deployment: Deployment, run: Path, photos: Path) -> None:
    artifact = load(deployment.folder)
    assert (artifact.task, artifact.classes) == ('classification', ('blue', 'green', 'red'))
    model = timm.create_model(f'local-dir:{run}', pretrained=True).eval()
    for file in sorted(photos.rglob('0*.png')):
        x = artifact.preprocess(read_picture(file))
        with torch.inference_mode():
            expected = model(torch.from_numpy(x)).softmax(1)[0]
        probabilities = artifact.classify(read_picture(file))
        assert probabilities.dtype == np.float32
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert probabilities.argmax() == expected.argmax()


def test_a_copied_folder_runs_by_itself_without_pytorch_pillow_or_this_package(
        artifact: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / 'guard').mkdir()
    for name in ('torch', 'timm', 'PIL', 'rsq_backbone', 'onnx', 'nncf'):
        (tmp_path / 'guard' / f'{name}.py').write_text(f'raise ImportError("{name} is not to be imported")')
    done = subprocess.run(
        [sys.executable, str(artifact / 'artifact.py'), str(photos / 'red' / '03.png'), str(tmp_path / 'none.png'),
         '--topk', '3'],
        cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(tmp_path / 'guard')}, capture_output=True, text=True,
        timeout=120, check=False)
    assert done.returncode == 2
    [line] = done.stdout.splitlines()
    assert '03.png: red ' in line
    assert line.count('%') == 3
    assert done.stderr.splitlines() == [
        f'artifact: {tmp_path / "none.png"}: cannot be read (No such file or directory); check the path.']


@pytest.mark.network
@pytest.mark.slow
def test_it_runs_in_a_virtual_environment_that_has_no_more_than_its_runtime(artifact: Path, photos: Path) -> None:
    runtime = json.loads((artifact / 'config.json').read_text())['runtime']
    subprocess.run([sys.executable, '-m', 'venv', str(artifact / 'venv')], check=True)
    python = str(artifact / 'venv' / 'bin' / 'python')
    subprocess.run(
        [python, '-m', 'pip', 'install', '-q', runtime, 'numpy', 'opencv-python-headless'], check=True)
    assert subprocess.run([python, '-c', 'import torch'], capture_output=True, check=False).returncode != 0
    done = subprocess.run(
        [python, str(artifact / 'artifact.py'), str(photos / 'blue' / '00.png')], capture_output=True, text=True,
        check=True)
    assert '00.png: blue ' in done.stdout


def rewrite(artifact: Path, change: Callable[[Dict[str, Any]], Any]) -> None:
    """Change config.json and its checksum with it."""
    config = json.loads((artifact / 'config.json').read_text())
    change(config)
    (artifact / 'config.json').write_text(json.dumps(config))
    lines = []
    for line in (artifact / 'checksums.sha256').read_text().splitlines():
        name = line[66:]
        lines.append(f'{hashlib.sha256((artifact / name).read_bytes()).hexdigest()}  {name}\n')
    (artifact / 'checksums.sha256').write_text(''.join(lines))


def refusal(artifact: Path) -> str:
    with pytest.raises(ArtifactError) as raised:
        load(artifact)
    assert '\n' not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(('precision', 'computes', 'hint'), [
    ('fp16', ['FP32', 'BF16'], 'f32'), ('fp16', ['FP32', 'FP16'], 'f16'), ('bf16', ['FP32'], 'f32'),
    ('bf16', ['FP32', 'BF16'], 'bf16'), ('fp32', ['FP32', 'BF16', 'FP16'], 'f32'), ('int8', ['FP32', 'BF16'], 'f32')])
def test_nothing_is_computed_in_less_than_the_artifact_s_precision(precision: str, computes: Any, hint: str) -> None:
    class Processor:
        def get_property(self, device: str, name: str) -> Any:
            assert (device, name) == ('CPU', 'OPTIMIZATION_CAPABILITIES')
            return computes

    assert loader._precision_hint(Processor(), precision) == hint


class RunsCode:
    """What unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_what_could_run_code_is_opened_on_request_only(
        artifact: Path, photos: Path, rsq: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) @ self.w

    torch.export.save(torch.export.export(Network(), (torch.zeros(1, 3, 64, 64),)), tmp_path / 'sound.pt2')
    torch.save(RunsCode(tmp_path / 'code ran'), tmp_path / 'weights')
    with zipfile.ZipFile(tmp_path / 'sound.pt2') as sound, zipfile.ZipFile(artifact / 'model.pt2', 'w') as changed:
        for name in sound.namelist():
            data = sound.read(name)
            if name.endswith('model_weights_config.json'):
                described = json.loads(data)
                described['config']['w']['use_pickle'] = True
                data = json.dumps(described).encode()
            elif name.endswith('weights/weight_0'):
                data = (tmp_path / 'weights').read_bytes()
            changed.writestr(name, data)
    (artifact / 'checksums.sha256').write_text(
        (artifact / 'checksums.sha256').read_text() + f'{"0" * 64}  model.pt2\n')
    rewrite(artifact, lambda config: config.update(target='torch-export', runtime='torch', runtime_version='2.0'))

    assert 'can run any code of its maker' in refusal(artifact)
    photo = next(photos.rglob('*.png'))
    for command in (('predict', artifact, photo), ('evaluate', artifact, photos), ('serve', artifact)):
        code, _, err = rsq(*command)
        assert code == 2
        assert 'allow_code=True (--allow-code)' in err
    assert loader._main(['--folder', str(artifact), str(photo)]) == 2
    assert '--allow-code' in capsys.readouterr().err
    assert not (tmp_path / 'code ran').exists()
    with pytest.raises(ArtifactError, match='torch cannot load'):
        load(artifact, allow_code=True)
    assert (tmp_path / 'code ran').exists()  # so the refusals above are what kept it from running


@pytest.mark.parametrize('name', ['config.json', 'artifact.py'])
def test_a_changed_file_is_found_by_its_checksum(artifact: Path, name: str) -> None:
    with (artifact / name).open('a') as file:
        file.write(' ')
    assert refusal(artifact) == (
        f'{artifact / name} is damaged or was changed (its checksum differs); copy the artifact again.')


def test_a_truncated_network_is_found_by_its_checksum(artifact: Path) -> None:
    file = max(artifact.iterdir(), key=lambda one: one.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    assert 'checksum differs' in refusal(artifact)
    file.unlink()
    assert 'is missing' in refusal(artifact)
    os.mkfifo(file)
    assert 'is missing' in refusal(artifact)


@pytest.mark.parametrize('text', [
    'nonsense', '0' * 64 + '  ../config.json', '0' * 64 + '  /etc/passwd', '0' * 64 + '  a/b', '\xff'])
def test_checksums_that_name_other_places_are_refused(artifact: Path, text: str) -> None:
    (artifact / 'checksums.sha256').write_text(text + '\n', encoding='latin-1')
    assert 'copy the artifact again' in refusal(artifact)


def test_a_config_that_no_checksum_covers_is_refused(artifact: Path) -> None:
    lines = (artifact / 'checksums.sha256').read_text().splitlines(keepends=True)
    (artifact / 'checksums.sha256').write_text(''.join(line for line in lines if 'config.json' not in line))
    assert 'does not list config.json' in refusal(artifact)


def test_a_file_that_no_checksum_lists_is_refused(artifact: Path) -> None:
    (artifact / 'photo.jpg').write_bytes(b'which no runtime opens')
    load(artifact)
    (artifact / 'model.data').write_bytes(b'weights of someone else')
    assert 'model.data is not of this artifact' in refusal(artifact)


def test_weights_that_no_checksum_lists_are_refused(artifact: Path) -> None:
    file = max((one for one in artifact.iterdir() if one.name != 'config.json'), key=lambda one: one.stat().st_size)
    lines = (artifact / 'checksums.sha256').read_text().splitlines(keepends=True)
    (artifact / 'checksums.sha256').write_text(''.join(line for line in lines if file.name not in line))
    assert f'{file.name} is not of this artifact' in refusal(artifact)


def test_other_folders_are_no_artifacts(tmp_path: Path, run: Path) -> None:
    for folder in (tmp_path / 'nothing', tmp_path, run):
        assert 'is no artifact' in refusal(folder)


@pytest.mark.parametrize(('change', 'said'), [
    (lambda c: c.update(format=2), 'of format 2, and this reads format 1'),
    (lambda c: c.update(runtime='magic'), "runtime is 'magic'"),
    (lambda c: c.update(task='translation'), "task is 'translation'"),
    (lambda c: c.update(classes=[]), 'classes is no list of names'),
    (lambda c: c.update(classes=['a', 1]), 'classes is no list of names'),
    (lambda c: c.pop('precision'), 'precision is missing'),
    (lambda c: c['preprocessing'].pop('mean'), 'mean'),
    (lambda c: c['preprocessing'].update(std=[0, 1, 1]), 'std holds a zero'),
    (lambda c: c['preprocessing'].update(input_size=[10 ** 9, 64]), 'input_size is no height and width'),
    (lambda c: c['preprocessing'].update(crop_mode='border'), 'crop_mode is not known'),
    (lambda c: c['preprocessing'].update(crop_pct=0), 'crop_pct is out of range'),
    (lambda c: c['preprocessing'].update(crop_mode='center', input_size=[64, 96]), 'input_size is not square'),
    (lambda c: c.update(task='segmentation', classes=[str(i) for i in range(257)]), '256 classes at most'),
])
def test_a_damaged_config_is_refused_in_one_line(artifact: Path, change: Any, said: str) -> None:
    rewrite(artifact, change)
    assert said in refusal(artifact)


@pytest.mark.parametrize('text', ['', '{', '[]', '"text"', 'null', '[' * 100_000, '\x00'])
def test_a_config_that_is_no_object_is_refused_in_one_line(artifact: Path, text: str) -> None:
    (artifact / 'config.json').write_text(text)
    assert 'is damaged' in refusal(artifact)


def test_classes_that_are_not_the_networks_are_found_when_it_runs(artifact: Path) -> None:
    rewrite(artifact, lambda config: config.update(classes=['only one']))
    with pytest.raises(ArtifactError, match='no logits of 1 classes'):
        load(artifact).classify(noise(64, 64))


def test_an_older_runtime_is_refused_with_the_line_that_updates_it(artifact: Path) -> None:
    rewrite(artifact, lambda config: config.update(runtime_version='9999.1.0'))
    assert 'is older: pip install "' in refusal(artifact)
    assert '>=9999.1.0"' in refusal(artifact)


def test_a_version_of_endless_digits_is_no_crash(artifact: Path) -> None:
    rewrite(artifact, lambda config: config.update(runtime_version='9' * 5000))
    assert 'is older' in refusal(artifact)


def test_a_segmentation_network_of_one_size_takes_no_other() -> None:
    config: Dict[str, Any] = {
        'task': 'segmentation', 'classes': ['low', 'high'], 'size_multiple': 32, 'dynamic_size': False,
        'runtime': 'ncnn', 'preprocessing': {'mean': [0, 0, 0], 'std': [1, 1, 1], 'input_size': [64, 96]}}
    network = Artifact(Path('there'), config, lambda batch: batch[:, :2])
    assert network.segment(noise(64, 96)).shape == (64, 96)
    with pytest.raises(ArtifactError, match='there is for pictures of 96 x 64 pixels only'):
        network.segment(noise(64, 64))
    broken = Artifact(Path('there'), {**config, 'dynamic_size': True}, lambda batch: batch[:, :2, :32])
    with pytest.raises(ArtifactError, match='gives no logits of 2 classes'):
        broken.segment(noise(64, 96))


def test_a_runtime_that_is_not_installed_is_named_with_its_line(
        artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = json.loads((artifact / 'config.json').read_text())['runtime']

    def not_there(name: str) -> str:
        raise loader.PackageNotFoundError(name)

    monkeypatch.setattr(loader, 'version', not_there)
    assert f'needs {package}, which is not installed: pip install "{package}>=' in refusal(artifact)


def test_a_network_that_the_runtime_cannot_read_is_refused(artifact: Path) -> None:
    """With a checksum that fits: who makes artifacts may be careless or hostile."""
    for file in artifact.iterdir():
        if file.suffix in ('.xml', '.onnx'):
            file.write_bytes(b'<net>nonsense')
    rewrite(artifact, lambda config: None)
    assert 'cannot load' in refusal(artifact)
