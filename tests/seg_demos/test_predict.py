"""python -m seg_demos.predict, as a user types it, and loading the run that it is given."""
import io
import json
import pickle
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image

from rsq_backbone.errors import UserError
from seg_demos.masks import MaskCoding, read_mask
from seg_demos.overlays import overlay, palette
from seg_demos.segmenting import find_files, segment_files
from seg_demos.segnet_model import SegNet
from seg_demos.tiling import segment
from seg_demos.trained import load
from seg_demos.training import save_model
from seg_demos.video import opened_video, video_writer

CLASSES = ('sky', 'road [wet]', 'car')
CONFIG = {'mean': (0.5, 0.4, 0.3), 'std': (0.2, 0.3, 0.4)}
CODING = MaskCoding(CLASSES, {0: 0, 1: 1, 2: 2})


def network(architecture=smp.Unet, classes=3, encoder='res_squeezenet'):
    torch.manual_seed(0)
    model = architecture(encoder, encoder_weights=None, classes=classes, decoder_channels=(16, 16, 8, 8, 8)).eval()
    with torch.no_grad():  # so that each class is somewhere
        model.segmentation_head[0].bias.zero_()
        logits = model(torch.randn(1, 3, 64, 64))
        model.segmentation_head[0].bias.copy_(-logits.mean((0, 2, 3)))
    return model


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'run'
    folder.mkdir()
    save_model(network(), folder, CLASSES, CONFIG)
    return folder


@pytest.fixture
def refused(predict):
    def call(*args):
        code, out, err = predict(*args)
        assert (code, out) == (2, ''), (code, out, err)
        assert err.startswith('seg_demos.predict: '), err
        assert err.count('\n') == 1, err
        return err

    return call


def blots(height, width, seed=0):
    """(H, W, 3) uint8, in patches of one colour."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    return cv2.resize(small, (width, height))


def draw(path, height=80, width=100, seed=0):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(blots(height, width, seed)).save(path)
    return path


def film(path, frames, fps=12.5, codec='mp4v'):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def watch(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        found, frame = capture.read()
        if not found:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1])


@pytest.mark.parametrize(('size', 'tile'), [((37, 53), 1024), ((200, 331), 128)])
def test_mask_is_what_the_saved_network_makes_of_the_picture(predict, run, tmp_path, size, tile):
    picture = draw(tmp_path / 'a.png', *size)
    code, _, err = predict(run, picture, '--out', tmp_path / 'out', '--tile', tile)
    assert (code, err) == (0, '')
    expected = segment(network(), blots(*size), CONFIG, tile, tile // 4)
    assert len(np.unique(expected)) == 3
    mask = tmp_path / 'out' / 'a-mask.png'
    # A last bit of a logit may turn where two classes are level.
    assert (read_mask(mask, CODING) == expected).mean() > 0.999
    with Image.open(mask) as image:
        assert np.array_equal(np.asarray(image.convert('RGB')), np.array(palette(3))[read_mask(mask, CODING)])
    with Image.open(tmp_path / 'out' / 'a-overlay.jpg') as image:
        assert image.size == (size[1], size[0])
        data = io.BytesIO()  # what JPEG loses is not the point
        Image.fromarray(overlay(blots(*size), read_mask(mask, CODING))).save(data, 'JPEG', quality=90)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(data)))


def test_json_tells_files_sizes_and_shares(predict, run, tmp_path):
    picture = draw(tmp_path / 'a.png')
    code, out, err = predict(run, picture, '--out', tmp_path / 'out', '--json')
    assert (code, err) == (0, '')
    result, = json.loads(out)
    mask = read_mask(tmp_path / 'out' / 'a-mask.png', CODING)
    assert result.pop('shares') == {name: pytest.approx((mask == i).mean()) for i, name in enumerate(CLASSES)}
    assert result.pop('seconds') > 0
    assert result == {
        'path': str(picture), 'width': 100, 'height': 80, 'frames': 1, 'mask': str(tmp_path / 'out' / 'a-mask.png'),
        'overlay': str(tmp_path / 'out' / 'a-overlay.jpg')}


def test_list_has_the_classes_that_are_there_the_largest_first(predict, run, tmp_path):
    predict(run, draw(tmp_path / 'a.png'), '--out', tmp_path / 'out')
    mask = read_mask(tmp_path / 'out' / 'a-mask.png', CODING)
    _, out, _ = predict(run, tmp_path / 'a.png', '--out', tmp_path / 'out')  # replaces what is there
    lines = out.splitlines()
    assert lines[0].startswith(f'{tmp_path / "a.png"} (100 x 80, ')
    shares = sorted(((mask == i).mean(), name) for i, name in enumerate(CLASSES))[::-1]
    assert [line.split(' %')[0].strip() for line in lines[1:4]] == [f'{100 * share:.1f}' for share, _ in shares]
    assert [line.rpartition('█ ')[2].strip() for line in lines[1:4]] == [name for _, name in shares]


def test_bad_pictures_are_told_in_a_line_each_and_the_others_are_written(predict, run, tmp_path):
    folder = tmp_path / 'new'
    draw(folder / 'a.png')
    draw(folder / 'b.png')
    (folder / 'cut.png').write_bytes((folder / 'a.png').read_bytes()[:500])
    (folder / 'no-film.mp4').write_bytes(b'ftyp' * 100)
    code, out, err = predict(
        run, folder, folder / 'missing.jpg', folder / 'no-film.mp4', folder / 'a.png', '--out', tmp_path / 'out')
    assert code == 2
    assert [line.split(':')[1].rpartition('/')[2] for line in err.splitlines()] == [
        'cut.png', 'missing.jpg', 'no-film.mp4']
    assert {file.name for file in (tmp_path / 'out').iterdir()} == {
        'a-mask.png', 'a-overlay.jpg', 'b-mask.png', 'b-overlay.jpg'}
    assert out.count('100 x 80') == 2


def test_pictures_of_one_name_keep_results_of_their_own(run, tmp_path):
    files = [draw(tmp_path / folder / name, seed=seed) for seed, (folder, name) in enumerate([
        ('one', 'x.png'), ('two', 'x.png'), ('two', 'X-2.bmp'), ('three', 'X.png')])]
    results, bad = segment_files(load(run), files, tmp_path / 'out')
    assert not bad
    assert [Path(result.mask).name for result in results] == [
        'x-mask.png', 'x-2-mask.png', 'X-2-2-mask.png', 'X-3-mask.png']
    for seed, result in enumerate(results):
        expected = segment(network(), blots(80, 100, seed), CONFIG)
        assert (read_mask(Path(result.mask), CODING) == expected).mean() > 0.999


def test_a_picture_is_never_replaced_by_a_result(refused, predict, run, tmp_path):
    picture = draw(tmp_path / 'new' / 'a.png')
    assert predict(run, picture.parent, '--out', picture.parent)[0] == 0
    before = {file.name: file.read_bytes() for file in picture.parent.iterdir()}
    assert 'a-mask.png is one of the pictures' in refused(run, picture.parent, '--out', picture.parent)
    assert {file.name: file.read_bytes() for file in picture.parent.iterdir()} == before


def test_a_file_that_is_named_twice_is_segmented_once(tmp_path):
    a, b = draw(tmp_path / 'b.png'), draw(tmp_path / 'a.png')
    assert find_files([a, tmp_path, tmp_path / '..' / tmp_path.name / 'b.png']) == [a, b]


def test_video_keeps_its_frames_size_and_rate(predict, run, tmp_path):
    frames = [blots(96, 128, seed) // 2 + np.array([120, 30, 0], np.uint8) for seed in range(5)]  # reddish
    source = film(tmp_path / 'a.avi', frames, codec='MJPG')
    code, out, err = predict(run, source, '--out', tmp_path / 'out', '--json')
    assert (code, err) == (0, '')
    result, = json.loads(out)
    assert (result['width'], result['height'], result['frames'], result['mask']) == (128, 96, 5, None)
    assert sum(result['shares'].values()) == pytest.approx(1)
    assert [file.name for file in (tmp_path / 'out').iterdir()] == ['a-overlay.mp4']
    tinted, fps = watch(tmp_path / 'out' / 'a-overlay.mp4')
    assert len(tinted) == 5
    assert fps == 12.5
    model = network()
    sources = [np.ascontiguousarray(frame) for frame in watch(source)[0]]
    expected = [overlay(frame, segment(model, frame, CONFIG)) for frame in sources]
    for number, actual in enumerate(tinted):  # MPEG-4 loses much, but not whose frame it is and that it is tinted
        distances = [np.abs(actual.astype(int) - other).mean() for other in (*expected, *sources)]
        assert np.argmin(distances) == number


def test_video_of_a_phone_that_was_held_upright_stays_upright(tmp_path):
    path = film(tmp_path / 'a.mp4', [blots(48, 64)] * 3)
    content = path.read_bytes()
    matrix = content.index(b'tkhd') + 4 + 40
    turned = struct.pack('>9i', 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:matrix] + turned + content[matrix + 36:])
    with opened_video(path) as video:
        assert [frame.shape for frame in video.frames] == [(64, 48, 3)] * 3


@pytest.mark.parametrize('fps', [0.5, 23.976, 30000 / 1001, 71.1234, 240.17])
def test_any_frame_rate_and_odd_sizes_can_be_written(tmp_path, fps):
    with video_writer(tmp_path / 'a.mp4', fps, Path('source')) as write:
        for seed in range(3):
            write(blots(49, 65, seed))
    frames, actual = watch(tmp_path / 'a.mp4')
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    assert actual == pytest.approx(fps, rel=1e-3)


@pytest.mark.parametrize(('frames', 'says'), [
    ([(48, 64), (64, 48)], 'source: frame 2 is of another size'), ([(16, 9000)], 'source: no video of 9000 x 16')])
def test_sizes_that_no_video_has_are_refused(tmp_path, frames, says):
    def write_all():
        with video_writer(tmp_path / 'a.mp4', 25, Path('source')) as write:
            for size in frames:
                write(blots(*size))

    with pytest.raises(UserError, match=says):
        write_all()


def test_of_a_video_that_was_cut_off_the_rest_is_segmented_and_the_damage_told(predict, run, tmp_path):
    path = film(tmp_path / 'a.avi', [blots(48, 64, seed) for seed in range(20)], codec='MJPG')
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    code, out, err = predict(run, path, '--out', tmp_path / 'out')
    assert (code, out) == (2, '')
    assert err.count('\n') == 1
    count = len(watch(tmp_path / 'out' / 'a-overlay.mp4')[0])
    assert 4 < count < 16
    assert f'damaged after {count} of 20 frames' in err


@pytest.mark.parametrize('name', ['a.png', 'a.mp4'])
def test_ctrl_c_is_one_line_and_leaves_nothing_half_written(predict, run, tmp_path, monkeypatch, name):
    source = draw(tmp_path / name) if name == 'a.png' else film(tmp_path / name, [blots(48, 64)] * 3)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('seg_demos.segmenting.overlay', stop)
    assert predict(run, source, '--out', tmp_path / 'out') == (130, '', 'seg_demos.predict: interrupted\n')
    assert not list((tmp_path / 'out').iterdir())


def test_what_cannot_be_done_is_one_line(refused, run, tmp_path):
    picture = draw(tmp_path / 'new' / 'a.png')
    (tmp_path / 'empty').mkdir()
    assert 'no pictures' in refused(run, tmp_path / 'empty')
    assert '--out' in refused(run, picture, '--out', picture)
    assert 'multiples of 32' in refused(run, picture, '--tile', 100, '--out', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_help_imports_nothing_heavy_and_has_examples(run_python):
    done = run_python('''
        import sys
        from rsq_backbone.cli._running import run_app
        from seg_demos.predict import app, COMMAND
        sys.argv = ['predict', '--help']
        try:
            run_app(app, COMMAND)
        finally:
            assert not {'torch', 'timm', 'segmentation_models_pytorch', 'cv2', 'numpy'} & set(sys.modules)
    ''')
    assert done.stdout.partition('Examples:')[2].count('python -m seg_demos.predict') >= 2


# ---- loading a run ----

@pytest.mark.parametrize(('architecture', 'encoder'), [(smp.Unet, 'resnet18'), (SegNet, 'res_squeezenet')])
def test_weights_come_from_the_folder_alone_whatever_the_encoder_began_with(tmp_path, capsys, architecture, encoder):
    model = network(architecture, encoder=encoder)
    save_model(model, tmp_path, CLASSES, CONFIG)
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps({**config, 'encoder_weights': 'imagenet'}))
    trained = load(tmp_path)
    assert capsys.readouterr().out == ''
    assert (trained.classes, trained.config, trained.stride) == (CLASSES, CONFIG, 32)
    assert not any(module.training for module in trained.network.modules())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(trained.network(x), model(x))


class Executed:
    def __reduce__(self):
        return Path.touch, (Path('executed'),)


def change_config(folder, **changes):
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**config, **changes}))


def cut_weights(folder):
    content = (folder / 'model.safetensors').read_bytes()
    (folder / 'model.safetensors').write_bytes(content[:len(content) // 2])


def classifier(folder):
    (folder / 'config.json').write_text(json.dumps({'architecture': 'res_squeezenet', 'num_classes': 3}))


def pickled_checkpoint(folder):
    Path('evil.pth').write_bytes(pickle.dumps(Executed()))
    change_config(folder, encoder_name='tu-resnet18', checkpoint_path='evil.pth')


SPOILT = {
    'no folder': (shutil.rmtree, 'config.json is missing'),
    'no weights': (lambda folder: (folder / 'model.safetensors').unlink(), 'model.safetensors is missing'),
    'a classifier': (classifier, 'rsq predict'),
    'half the weights': (cut_weights, 'cannot be loaded'),
    'a pickle named safetensors': (
        lambda folder: (folder / 'model.safetensors').write_bytes(pickle.dumps(Executed())), 'cannot be loaded'),
    'a pickle named in the configuration': (pickled_checkpoint, 'files or hubs'),
    'an encoder on a hub': (lambda folder: change_config(folder, encoder_name='tu-hf-hub:a/b'), 'files or hubs'),
    'half a configuration': (lambda folder: (folder / 'config.json').write_text('{"a": '), 'damaged'),
    'a list for a configuration': (lambda folder: (folder / 'config.json').write_text('[1]'), 'describes no'),
    'an endless configuration': (lambda folder: (folder / 'config.json').write_text('[' * 100_000), 'damaged'),
    'bytes for a configuration': (lambda folder: (folder / 'config.json').write_bytes(b'\xff\xfe\x00'), 'damaged'),
    'something else of smp': (lambda folder: change_config(folder, _model_class='losses'), 'describes no'),
    'another architecture': (lambda folder: change_config(folder, _model_class='FPN'), 'cannot be loaded'),
    'an unknown encoder': (lambda folder: change_config(folder, encoder_name='resnet19'), 'cannot be loaded'),
    'too few names': (lambda folder: change_config(folder, _classes=['a', 'b']), 'cannot be loaded'),
    'names that are none': (lambda folder: change_config(folder, _classes=[1, 2, 3]), 'describes no'),
    'no preprocessing': (lambda folder: change_config(folder, _mean=None), 'describes no'),
    'a standard deviation of zero': (lambda folder: change_config(folder, _std=[0, 1, 1]), 'describes no'),
    'another size': (lambda folder: change_config(folder, decoder_channels=[8, 8, 8, 8, 8]), 'cannot be loaded'),
}


@pytest.mark.parametrize('spoil', SPOILT)
def test_a_spoilt_run_is_one_line_and_runs_no_code(refused, run, tmp_path, monkeypatch, spoil):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'spoilt'
    shutil.copytree(run, folder)
    change, says = SPOILT[spoil]
    change(folder)
    assert says in refused(folder, draw(tmp_path / 'a.png'))
    assert not Path('executed').exists()
