import json
import re
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from rsq_backbone.cli import _output
from rsq_backbone.datasets.synthetic import load_synthetic

COMMANDS = ('demo', 'finetune', 'import', 'evaluate', 'predict', 'classify', 'analyze', 'autoload')


@pytest.fixture
def photo(tmp_path):
    import skimage.data

    path = tmp_path / 'coffee.png'
    Image.fromarray(skimage.data.coffee()).save(path)
    return path


def test_help_imports_neither_torch_nor_timm_nor_smp(run_python):
    code = (
        'import sys; from rsq_backbone.cli import main; sys.argv = ["rsq", "--help"]\n'
        'try: main()\n'
        'except SystemExit as e: assert not e.code\n'
        'heavy = {"torch", "timm", "segmentation_models_pytorch", "cv2", "numpy", "matplotlib"} & set(sys.modules)\n'
        'assert not heavy, heavy')
    done = run_python(code)
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_help_with_an_example(rsq, command):
    code, out, _ = rsq(command, '--help')
    assert code == 0
    assert out.partition('Examples:')[2].count(f'rsq {command}') >= 2


def test_version(rsq):
    from rsq_backbone import __version__

    assert rsq('--version')[:2] == (0, f'rsq {__version__}\n')


def test_classify_prints_the_classes(rsq, photo):
    code, out, err = rsq('classify', photo, '--topk', 2)
    assert (code, err) == (0, '')
    assert 'espresso' in out
    assert out.count('%') == 2


def test_a_path_is_printed_whole_whatever_is_in_it(rsq, photo):
    strange = photo.rename(photo.with_name('[bold] a very long name that no table would hold on a single line [1].png'))
    assert f'{strange} (600 x 400)\n' in rsq('classify', strange)[1]


def test_classify_json_is_all_there_is_on_standard_output(rsq, photo):
    code, out, err = rsq('classify', photo, photo, '--topk', 3, '--json')
    assert (code, err) == (0, '')
    first, second = json.loads(out)
    assert first == second
    assert (first['path'], first['width'], first['height']) == (str(photo), 600, 400)
    assert [set(p) for p in first['predictions']] == [{'class_index', 'class_name', 'probability'}] * 3
    assert (first['predictions'][0]['class_index'], first['predictions'][0]['class_name']) == (967, 'espresso')


@pytest.mark.parametrize(('mode', 'suffix'), [('L', 'png'), ('I;16', 'png'), ('RGBA', 'png'), ('CMYK', 'jpg')])
def test_classify_reads_every_kind_of_picture(rsq, photo, mode, suffix):
    image = Image.open(photo)
    if mode == 'I;16':
        image = Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(photo.with_name(f'other.{suffix}'))
    code, out, _ = rsq('classify', photo.with_name(f'other.{suffix}'))
    assert code == 0
    assert 'espresso' in out


def test_classify_goes_on_past_bad_pictures_and_says_so(rsq, photo, tmp_path):
    (tmp_path / 'empty.jpg').touch()
    code, out, err = rsq('classify', tmp_path / 'empty.jpg', photo, tmp_path / 'missing.jpg')
    assert code == 2
    assert 'espresso' in out
    assert [line.split(': ')[1].rpartition('/')[2] for line in err.splitlines()] == ['empty.jpg', 'missing.jpg']


def test_json_of_a_partly_bad_call_stays_valid(rsq, photo, tmp_path):
    code, out, _ = rsq('classify', photo, tmp_path / 'missing.jpg', '--json')
    assert code == 2
    assert len(json.loads(out)) == 1


def test_analyze_prints_table_totals_and_warnings(rsq, monkeypatch):
    monkeypatch.setattr(_output.stdout, 'width', 160)
    code, out, _ = rsq('analyze', 'res_squeezenet')
    assert code == 0
    assert '10,939,944 parameters (43.76 MB as float32)' in out
    assert 'weight 64 x 3 x 3 x 3, bias 64' in out
    assert 'warning: relu_conv10' in out


@pytest.mark.parametrize('columns', [80, 100, 200])
def test_no_figure_of_an_analysis_is_cut(rsq, monkeypatch, columns):
    monkeypatch.setenv('COLUMNS', str(columns))
    monkeypatch.setattr(_output.stdout, 'width', columns)
    code, out, _ = rsq('analyze', 'res_squeezenet')
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns
    assert '\u2026' not in out
    assert ('weight 64 x 3 x 3 x 3, bias 64' in out) == (columns == 200)
    for figure in ('64 x 113 x 113', '22,064,832', '2,359,296', '1000 x 7 x 7'):
        assert figure in out


@pytest.mark.parametrize('command', [*COMMANDS, 'profile'])
def test_no_option_s_name_is_cut_in_80_columns(rsq, monkeypatch, command):
    monkeypatch.setenv('COLUMNS', '80')
    code, out, _ = rsq(command, '-h')
    assert code == 0
    assert '\u2026' not in out
    assert max(map(len, out.splitlines())) <= 80
    examples = re.split('Arguments:|Options:', out.partition('Examples:')[2])[0].split('\n')
    assert all(line.strip().startswith('rsq ') for line in examples if line.strip()), examples


def test_an_analysis_in_a_file_can_be_searched(rsq, monkeypatch):
    monkeypatch.delenv('COLUMNS', raising=False)
    out = rsq('analyze', 'res_squeezenet')[1]
    assert ' stages.2.fire9.expand3x3_act ' in out
    assert 'weight 64 x 3 x 3 x 3, bias 64' in out


def test_analyze_json_has_the_layers(rsq):
    code, out, _ = rsq('analyze', 'res_squeezenet', '--num-classes', 9, '--json')
    analysis = json.loads(out)
    assert code == 0
    assert analysis['parameters'] == 10_431_561
    assert analysis['layers'][0] == dict(
        name='input', type='Input', output_shape=[3, 227, 227], learnables={}, parameters=0, macs=0, activations=0)


def test_analyze_of_an_encoder_follows_depth_and_output_stride(rsq):
    code, out, _ = rsq('analyze', 'res_squeezenet', '--depth', 5, '--output-stride', 8, '--input-size', 256, '--json')
    assert code == 0
    assert json.loads(out)['layers'][-1]['output_shape'] == [512, 32, 32]


@pytest.mark.parametrize('args', [
    ('classify', 'missing.jpg'),
    ('classify', 'missing.jpg', '--model', 'res_squeezenett'),
    ('classify', '.'),
    ('analyze', 'res_squeezenett'),
    ('analyze', 'res_squeezenet', '--depth', 0),
    ('analyze', 'res_squeezenet', '--depth', 6),
    ('analyze', 'res_squeezenet', '--output-stride', 4),
    ('analyze', 'res_squeezenet', '--input-size', 16),
    ('analyze', 'vit_tiny_patch16_224', '--input-size', 100),
    ('analyze', 'vit_tiny_patch16_224', '--output-stride', 8),
])
def test_bad_input_gives_one_line_and_exit_code_2(refused, args):
    refused(*args)


@pytest.mark.parametrize('args', [('classify',), ('unknown',), ('analyze', '--depth', 'five'), ('classify', 'a', '-x')])
def test_wrong_usage_gives_exit_code_2(rsq, args):
    code, out, err = rsq(*args)
    assert (code, out) == (2, '')
    assert 'Usage: rsq' in err


def test_fault_of_ours_gives_one_line_and_exit_code_1(rsq, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyError('no such thing')

    monkeypatch.setattr('rsq_backbone.model_loading.load_model', fail)
    code, _, err = rsq('analyze', 'res_squeezenet')
    assert code == 1
    assert err.startswith('rsq: KeyError')
    assert err.count('\n') == 1
    assert 'RSQ_TRACEBACK=1' in err


def test_ctrl_c_is_one_line_and_exit_code_130(rsq, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('rsq_backbone.model_loading.load_model', stop)
    assert rsq('analyze', 'res_squeezenet') == (130, '', 'rsq: interrupted\n')


def test_demo_needs_no_arguments_and_says_where_its_files_lie(rsq, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('RSQ_CACHE', str(tmp_path / 'cache'))
    few = partial(load_synthetic, images_per_class=2, size=128)  # all of them would take a minute
    monkeypatch.setattr('seg_demos.mask_sources.load_synthetic', few)
    code, out, err = rsq('demo')
    assert (code, err) == (0, '')
    assert 'espresso' in out
    assert 'U-Net  1 x 3 x 352 x 512 -> 1 x 9 x 352 x 512' in out
    assert 'DeepLabV3+  1 x 3 x 512 x 512 -> 1 x 9 x 512 x 512' in out
    for name in ('coffee', 'cat', 'astronaut'):
        assert f'rsq-demo/{name}-pyramid.png' in out.partition('pyramid level')[2]
        with Image.open(tmp_path / 'rsq-demo' / f'{name}-pyramid.png') as picture:
            picture.load()
            assert len(set(np.asarray(picture.convert('L')).ravel())) > 100
    assert out.splitlines()[-1].strip() == 'rsq-demo/segmentation/overlays.png'
    with Image.open(tmp_path / 'rsq-demo' / 'segmentation' / 'overlays.png') as picture:
        picture.load()
    assert '\nA U-Net has learned in' in out


def test_demo_into_a_folder_that_cannot_be_written_is_refused(refused, tmp_path):
    (tmp_path / 'file').touch()
    assert '--output' in refused('demo', '--output', tmp_path / 'file' / 'demo')


def test_demo_without_its_extra_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, 'skimage', None)
    monkeypatch.setitem(sys.modules, 'skimage.data', None)
    assert 'pip install "rsq-backbone[demo]"' in refused('demo')
