import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_deploy_prints_a_row_for_each_candidate_and_how_to_use_the_artifact(
        rsq: Any, run: Path, tmp_path: Path, unmeasured: None) -> None:
    code, out, err = rsq(
        'deploy', run, '--target', 'onnx', '--precision', 'fp32', '--threads', 1, '--output', tmp_path / 'a')
    assert (code, err) == (0, '')
    rows = [line.split() for line in out.splitlines()]
    [eager] = [row for row in rows if row[:2] == ['PyTorch', 'eager']]
    [chosen] = [row for row in rows if row[:2] == ['onnx', 'fp32']]
    assert eager[-1] == chosen[-3]  # the same accuracy
    assert chosen[-1] == 'chosen'
    assert f'rsq predict {tmp_path / "a"} photo.jpg' in out
    assert 'judged by 18 pictures, of which one is 5.56 points' in out


def test_deploy_prints_json(rsq: Any, run: Path, tmp_path: Path, unmeasured: None) -> None:
    code, out, _ = rsq(
        'deploy', run, '--target', 'openvino', '--precision', 'fp32', '--output', tmp_path / 'a', '--json')
    assert code == 0
    result = json.loads(out)
    assert result['chosen']['target'] == 'openvino'
    assert result['classes'] == ['blue', 'green', 'red']


@pytest.mark.parametrize(('options', 'said'), [
    (('--target', 'tflite'), "unknown target 'tflite'"),
    (('--precision', 'int8', '--calibration', 'nowhere'), 'nowhere cannot be read (No such file or directory)'),
    (('--data', 'nowhere'), 'nowhere'),
])
def test_deploy_says_in_one_line_what_is_wrong(
        rsq: Any, run: Path, tmp_path: Path, options: Any, said: str) -> None:
    code, out, err = rsq('deploy', run, '--output', tmp_path / 'a', *options)
    assert (code, out) == (2, '')
    assert err.count('\n') == 1
    assert said in err
    assert not (tmp_path / 'a').exists()


@pytest.mark.parametrize(('options', 'missing', 'extra'), [
    ((), ('onnxruntime', 'openvino'), 'deploy'), (('--target', 'onnx'), ('onnxruntime',), 'onnx'),
    (('--target', 'openvino'), ('openvino',), 'openvino'), (('--target', 'ncnn'), ('pnnx',), 'ncnn')])
def test_missing_packages_are_told_before_any_work(
        refused: Any, monkeypatch: pytest.MonkeyPatch, options: Any, missing: Any, extra: str) -> None:
    from rsq_backbone.cli import _output

    find = _output.find_spec
    monkeypatch.setattr(_output, 'find_spec', lambda name: None if name in missing else find(name))
    assert f'pip install "rsq-backbone[{extra}]"' in refused('deploy', 'nowhere', *options)


def test_predict_and_evaluate_take_an_artifact(rsq: Any, artifact: Path, photos: Path, tmp_path: Path) -> None:
    code, out, _ = rsq('predict', artifact, photos / 'red', '--topk', 2, '--json')
    assert code == 0
    results = json.loads(out)
    assert len(results) == 20
    assert {result['predictions'][0]['class_name'] for result in results} == {'red'}
    assert [len(result['predictions']) for result in results] == [2] * 20
    code, out, _ = rsq('evaluate', artifact, photos, '--output', tmp_path / 'evaluation')
    assert code == 0
    assert '18 pictures: accuracy' in out
    assert (tmp_path / 'evaluation' / 'confusion.png').is_file()


@pytest.mark.parametrize('encoding', ['ascii', 'cp1252', 'utf-8'])
def test_names_of_any_kind_are_printed_into_pipes_of_any_encoding_without_rewriting_a_terminal(
        artifact: Path, photos: Path, tmp_path: Path, encoding: str) -> None:
    file = tmp_path / 'esc-\x1b]0;title\x07\x1b[31m \u5bff\u53f8.png'
    file.write_bytes((photos / 'red' / '00.png').read_bytes())
    broken = tmp_path / 'broken-\x1b[2J.png'
    broken.write_bytes(b'no picture')
    programs = ([str(Path(sys.executable).with_name('rsq')), 'predict', str(artifact)],
                [sys.executable, str(artifact / 'artifact.py')])
    for program in programs:
        done = subprocess.run(
            [*program, str(file), str(broken)], capture_output=True, check=False,
            env={**os.environ, 'PYTHONIOENCODING': encoding, 'PYTHONUTF8': '0'})
        printed = done.stdout + done.stderr
        assert (done.returncode, b'Traceback' in printed) == (2, False), printed
        assert b'red' in done.stdout
        assert b'\x1b' not in printed
        assert b'esc-\\x1b]0;title' in done.stdout
        assert b'broken-\\x1b[2J.png' in done.stderr


def test_artifact_py_ends_well_where_nobody_reads_or_nothing_can_be_written(artifact: Path, photos: Path) -> None:
    program = f"'{sys.executable}' '{artifact / 'artifact.py'}'"
    for command, code, says in (
            (f"{program} '{photos}'/red/*.png | head -1 > /dev/null; exit ${{PIPESTATUS[0]}}", 0, ''),
            (f"{program} '{photos}/red/00.png' > /dev/full", 1, 'artifact: what was found cannot be written'),
            (f'{program} /dev/zero', 2, 'artifact: /dev/zero: not a file')):
        done = subprocess.run(['bash', '-c', command], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code, done.stderr
        assert done.stderr.startswith(says) if says else done.stderr == ''


def test_predict_needs_no_pytorch_for_an_artifact(artifact: Path, photos: Path, run_python: Any) -> None:
    done = run_python('''
        import sys
        from rsq_backbone.cli import main
        sys.argv = ['rsq', 'predict', *sys.argv[1:]]
        try:
            main()
        finally:
            assert 'torch' not in sys.modules
    ''', str(artifact), str(photos / 'green' / '00.png'))
    assert 'green' in done.stdout


def test_a_damaged_artifact_is_one_line(rsq: Any, artifact: Path, photos: Path) -> None:
    (artifact / 'config.json').write_text('{')
    for command in (('predict', artifact, photos / 'red' / '00.png'), ('evaluate', artifact, photos)):
        code, out, err = rsq(*command)
        assert (code, out) == (2, '')
        assert err.count('\n') == 1
        assert 'config.json is damaged' in err
