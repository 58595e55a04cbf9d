import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn
from onnx import TensorProto, helper
from profiled_modules import Sum, double, halve_if_large
from torchvision.models import resnet18

import seg_demos.segnet_model  # noqa: F401  registers
from rsq_backbone.errors import UserError
from rsq_backbone.profiler.subjects import Subject, module_subject, parse_subject
from rsq_backbone.training.run_folder import RunFolder
from seg_demos.training import save_model

SEGMENTATION = {'mean': (0.5, 0.5, 0.5), 'std': (0.2, 0.2, 0.2)}


def handed_over(subject):
    """As a fresh process gets it."""
    return Subject.from_json(json.loads(json.dumps(subject.to_json())))


def refused(text, says):
    with pytest.raises(UserError, match=says) as raised:
        parse_subject(text)
    assert '\n' not in str(raised.value)


# ---- names ----

@pytest.mark.parametrize(('text', 'size', 'parameters'), [
    ('res_squeezenet', (3, 227, 227), 10_939_944),
    ('resnet18.a1_in1k', (3, 224, 224), 11_689_512),
])
def test_a_timm_name_is_that_network_at_its_own_size(text, size, parameters):
    subject = handed_over(parse_subject(text))
    assert (subject.name, subject.input_size) == (text, size)
    assert (subject.trained, subject.bytes_on_disk) == (False, None)
    network = subject.build()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize(('text', 'architecture', 'encoder'), [
    ('smp:Unet:res_squeezenet', smp.Unet, 'ResSqueezeNetEncoder'),
    ('smp:fpn:tu-resnet18', smp.FPN, 'TimmUniversalEncoder'),
    ('smp:SegNet:res_squeezenet', smp.SegNet, 'ResSqueezeNetEncoder'),
])
def test_an_smp_name_is_that_architecture_on_that_encoder(text, architecture, encoder):
    subject = handed_over(parse_subject(text))
    assert subject.input_size == (3, 256, 256)
    network = subject.build()
    assert type(network) is architecture
    assert type(network.encoder).__name__ == encoder
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 64, 64)


@pytest.mark.parametrize('text', ['res_squeezenet', 'smp:Unet:res_squeezenet'])
def test_random_weights_are_the_same_every_time_and_leave_the_users_seed_alone(text):
    subject = parse_subject(text)
    torch.manual_seed(1)
    first = subject.build().state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(2)
    second = subject.build().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))


def test_segnet_is_built_in_a_process_that_did_not_import_it(run_python):
    subject = parse_subject('smp:SegNet:res_squeezenet')
    done = run_python('''
        import json, sys
        from rsq_backbone.profiler.subjects import Subject
        subject = Subject.from_json(json.loads(sys.argv[1]))
        assert not {'torch', 'timm', 'segmentation_models_pytorch', 'onnx'} & set(sys.modules)
        print(subject.inputs(2, (3, 32, 64))[0].shape)
        assert 'torch' not in sys.modules
        print(type(subject.build()).__name__)
    ''', json.dumps(subject.to_json()))
    assert done.stdout.splitlines() == ['(2, 3, 32, 64)', 'SegNet']


@pytest.mark.parametrize(('text', 'says'), [
    ('res_squeezenett', 'unknown model .*did you mean res_squeezenet'),
    ('resnet18.none', "no weights tagged 'none'"),
    ('', 'unknown model|no finished run'),
    ('x\0y', 'unknown model'),
    ('x' * 5000, 'unknown model'),
    ('runs/nothing', r'there is no folder .*smp:Architecture:encoder'),
    ('hf-hub:someone/something', 'there is no folder'),
    ('smp:Unett:res_squeezenet', r'no architecture .*did you mean Unet'),
    ('smp:Unet:resnet19', r'no encoder .*did you mean resnet18'),
    ('smp:Unet:tu-hf-hub', 'no encoder'),
    ('smp:Unet:tu-resnet19', 'did you mean tu-resnet18'),
    ('smp:Unet', r'should be smp:Architecture:encoder'),
    ('smp:Unet:tu-hf-hub:a/b', r'should be smp:Architecture:encoder'),
    ('nothing.onnx', r'there is no file nothing\.onnx'),
])
def test_unknown_names_are_refused_in_one_line(text, says):
    refused(text, says)


def test_an_architecture_that_nobody_imported_says_what_registers_it(monkeypatch):
    monkeypatch.delitem(smp.MODEL_ARCHITECTURES_MAPPING, 'segnet')
    refused('smp:SegNet:res_squeezenet', r'seg_demos\.segnet_model for SegNet')


# ---- sizes ----

@pytest.mark.parametrize(('text', 'size', 'says'), [
    ('res_squeezenet', (3, 4, 4), 'refuses an input of 1 x 3 x 4 x 4: .*too small'),
    ('res_squeezenet', (4, 64, 64), 'refuses .*channels'),
    ('vit_tiny_patch16_224', (3, 100, 100), r"refuses .*\(100\) doesn't match model \(224\)"),
    ('smp:FPN:resnet18', (3, 100, 64), 'refuses .*divisible by 32.*128, 64'),
    ('smp:DPT:res_squeezenet', (3, 64, 64), 'cannot be built .*tu-'),
])
def test_a_size_that_a_network_refuses_is_one_line(text, size, says):
    with pytest.raises(UserError, match=says) as raised:
        parse_subject(text).check(1, size)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('text', ['res_squeezenet', 'smp:Unet:res_squeezenet', 'smp:DeepLabV3Plus:res_squeezenet'])
def test_a_size_that_a_network_takes_is_checked_without_running_it(text, monkeypatch):
    """The activations would need more memory than any machine has."""
    subject = parse_subject(text)
    monkeypatch.delattr(Subject, 'inputs')
    subject.check(1000, (3, 4096, 4096))


def test_inputs_are_seeded_noise_and_nothing_that_a_kernel_could_skip():
    subject = parse_subject('res_squeezenet')
    (x,) = subject.inputs(2, (3, 64, 64))
    (again,) = handed_over(subject).inputs(2, (3, 64, 64))
    (other,) = subject.inputs(2, (3, 64, 64), seed=1)
    assert (x.shape, x.dtype) == ((2, 3, 64, 64), np.float32)
    assert np.array_equal(x, again)
    assert not np.array_equal(x, other)
    assert abs(x.mean()) < 0.05
    assert abs(x.std() - 1) < 0.05
    assert not np.array_equal(x[0], x[1])


# ---- folders ----

@pytest.fixture
def classifier(tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    torch.manual_seed(3)
    network = timm.create_model('res_squeezenet', num_classes=4)
    network.pretrained_cfg = {**network.pretrained_cfg, 'input_size': (3, 96, 128)}
    RunFolder(folder).save_model(network, ['a', 'b', 'c', 'd'])
    return folder, network.eval()


@pytest.fixture(params=[smp.Unet, smp.SegNet])
def segmenter(request, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    torch.manual_seed(3)
    network = request.param('res_squeezenet', encoder_weights=None, classes=2)
    save_model(network, folder, ('back', 'front'), SEGMENTATION)
    return folder, network.eval()


def assert_is(subject, folder, network):
    built = handed_over(subject).build()
    assert not any(module.training for module in built.modules())
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(built(x), network(x))  # may be in another memory format, which rounds differently
    assert subject.trained
    assert subject.bytes_on_disk == (folder / 'model.safetensors').stat().st_size


@pytest.mark.parametrize('prefix', ['', 'local-dir:'])
def test_a_classifiers_folder_is_its_trained_network_at_its_size(classifier, prefix, monkeypatch):
    folder, network = classifier
    monkeypatch.chdir(folder.parent)
    subject = parse_subject(f'{prefix}{folder.name}')
    assert (subject.name, subject.input_size) == (f'{prefix}run', (3, 96, 128))
    monkeypatch.chdir('/')  # the process that builds it may be elsewhere
    assert_is(subject, folder, network)


def test_a_segmentation_folder_is_its_trained_network(segmenter, capsys):
    folder, network = segmenter
    subject = parse_subject(str(folder))
    assert subject.input_size == (3, 256, 256)
    assert_is(subject, folder, network)
    assert capsys.readouterr().out == ''


class Executed:
    def __reduce__(self):
        return Path.touch, (Path('executed'),)


def config(folder, **changes):
    file = folder / 'config.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def cut_weights(folder):
    content = (folder / 'model.safetensors').read_bytes()
    (folder / 'model.safetensors').write_bytes(content[:len(content) // 2])


SPOILT = {
    'no weights': (lambda folder: (folder / 'model.safetensors').unlink(), 'model.safetensors is missing'),
    'no configuration': (lambda folder: (folder / 'config.json').unlink(), 'config.json is missing'),
    'half the weights': (cut_weights, 'cannot be built'),
    'a pickle named safetensors': (
        lambda folder: (folder / 'model.safetensors').write_bytes(pickle.dumps(Executed())), 'cannot be built'),
    'half a configuration': (lambda folder: (folder / 'config.json').write_text('{"a": '), 'damaged'),
    'a list for a configuration': (lambda folder: (folder / 'config.json').write_text('[1]'), 'damaged'),
    'an endless configuration': (lambda folder: (folder / 'config.json').write_text('[' * 100_000), 'damaged'),
    'an empty configuration': (lambda folder: (folder / 'config.json').write_text('{}'), 'describes no network'),
}
SPOILT_CLASSIFIER = {
    'an unknown network': (lambda folder: config(folder, architecture='resnet19'), 'cannot be built'),
    'a number for a network': (lambda folder: config(folder, architecture=7), 'cannot be built'),
    'a pickle named in the configuration': (
        lambda folder: config(folder, model_args={'checkpoint_path': 'evil.pth'}), 'cannot be built'),
}
SPOILT_SEGMENTER = {
    'a pickle named in the configuration': (
        lambda folder: config(folder, encoder_name='tu-resnet18', checkpoint_path='evil.pth'), 'files or hubs'),
    'an encoder on a hub': (lambda folder: config(folder, encoder_name='tu-hf-hub:a/b'), 'files or hubs'),
    'no encoder': (lambda folder: config(folder, encoder_name=None), 'describes no network'),
    'something else of smp': (lambda folder: config(folder, _model_class='losses'), 'describes no network'),
    'another architecture': (lambda folder: config(folder, _model_class='FPN'), 'cannot be built'),
}


def assert_refused(folder, spoil, says, monkeypatch):
    monkeypatch.chdir(folder.parent)
    Path('evil.pth').write_bytes(pickle.dumps(Executed()))
    spoil(folder)
    refused(str(folder), says)
    assert not Path('executed').exists()


@pytest.mark.parametrize('how', [*SPOILT, *SPOILT_CLASSIFIER])
def test_a_damaged_or_hostile_classifiers_folder_is_refused(how, classifier, monkeypatch):
    assert_refused(classifier[0], *{**SPOILT, **SPOILT_CLASSIFIER}[how], monkeypatch)


@pytest.mark.parametrize('segmenter', [smp.Unet], indirect=True)
@pytest.mark.parametrize('how', SPOILT_SEGMENTER)
def test_a_damaged_or_hostile_segmentation_folder_is_refused(how, segmenter, monkeypatch):
    assert_refused(segmenter[0], *SPOILT_SEGMENTER[how], monkeypatch)


# ---- ONNX files ----

def onnx_file(file, *shapes, element=TensorProto.FLOAT):
    inputs = [helper.make_tensor_value_info(f'x{i}', element, shape) for i, shape in enumerate(shapes)]
    # As files of the first years have it: what is constant stands among the inputs too.
    constant = helper.make_tensor('c', TensorProto.FLOAT, [1], [1.])
    inputs.append(helper.make_tensor_value_info('c', TensorProto.FLOAT, [1]))
    output = helper.make_tensor_value_info('y', TensorProto.FLOAT, None)
    node = helper.make_node('Identity', ['c'], ['y'])
    onnx.save(helper.make_model(helper.make_graph([node], 'g', inputs, [output], [constant])), file)
    return str(file)


@pytest.mark.parametrize(('shape', 'size'), [
    ((1, 3, 96, 128), (3, 96, 128)),
    (('batch', 3, 'h', 'w'), (3, 256, 256)),
    ((None, 1, 28, 28), (1, 28, 28)),
])
def test_an_onnx_files_size_is_its_own(shape, size, tmp_path):
    subject = handed_over(parse_subject(onnx_file(tmp_path / 'm.onnx', shape)))
    assert subject.input_size == size
    assert subject.bytes_on_disk == (tmp_path / 'm.onnx').stat().st_size
    subject.check(1, size)
    with pytest.raises(UserError, match='onnxruntime,openvino'):
        subject.build()


def test_an_onnx_file_for_one_batch_and_size_refuses_others(tmp_path):
    fixed = parse_subject(onnx_file(tmp_path / 'fixed.onnx', (1, 3, 96, 128)))
    for batch, size in ((2, (3, 96, 128)), (1, (3, 96, 96)), (1, (1, 96, 128))):
        with pytest.raises(UserError, match='takes 1 x 3 x 96 x 128 and not'):
            fixed.check(batch, size)
    parse_subject(onnx_file(tmp_path / 'free.onnx', ('batch', 3, 'h', 'w'))).check(7, (3, 64, 32))


@pytest.mark.parametrize(('shapes', 'element'), [
    ([], TensorProto.FLOAT), ([(1, 3, 8, 8)] * 2, TensorProto.FLOAT), ([(1, 3)], TensorProto.FLOAT),
    ([(1, 3, 8, 8)], TensorProto.UINT8)])
def test_onnx_files_of_something_else_are_refused(shapes, element, tmp_path):
    refused(onnx_file(tmp_path / 'm.onnx', *shapes, element=element), 'one batch of float32 pictures')


@pytest.mark.parametrize('content', [b'no model', b'\x08'])
def test_a_damaged_onnx_file_is_refused(content, tmp_path):
    (tmp_path / 'm.onnx').write_bytes(content)
    refused(str(tmp_path / 'm.onnx'), 'no ONNX file, or damaged')


# ---- modules ----

def test_a_module_goes_to_another_process_with_its_weights_and_examples(tmp_path, run_python):
    module = Sum()
    picture, shift = torch.rand(2, 3, 4, 5), np.array([[1, 2, 3], [4, 5, 6]])
    subject = module_subject(module, [picture, shift], tmp_path, name='mine')
    assert (subject.name, subject.input_size, module.training) == ('mine', (3, 4, 5), True)
    done = run_python('''
        import json, sys
        from rsq_backbone.profiler.subjects import Subject
        subject = Subject.from_json(json.loads(sys.argv[1]))
        inputs = subject.inputs(3, (3, 4, 5))
        assert 'torch' not in sys.modules
        import torch
        print(json.dumps(subject.build()(*map(torch.from_numpy, inputs)).tolist()))
    ''', json.dumps(subject.to_json()))
    expected = [2 * picture[i] + torch.tensor(shift[i])[:, None, None] for i in (0, 1, 0)]
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), torch.stack(expected))


def test_an_example_of_zeros_is_filled_with_noise_that_the_seed_decides(tmp_path):
    subject = module_subject(Sum(), [torch.zeros(1, 3, 32, 32), np.zeros((1, 3), np.int64)], tmp_path)
    picture, shift = subject.inputs(2, (3, 32, 32), seed=1)
    assert (picture.shape, picture.dtype) == ((2, 3, 32, 32), np.float32)
    assert abs(picture.std() - 1) < 0.05
    assert not np.array_equal(picture[0], picture[1])
    assert (shift == 0).all()  # whole numbers may be indices, which noise would break
    again, other = (subject.inputs(2, (3, 32, 32), seed=seed)[0] for seed in (1, 2))
    assert np.array_equal(picture, again)
    assert not np.array_equal(picture, other)


def test_a_module_brings_the_libraries_that_its_parts_come_from(tmp_path):
    network = torch.nn.Sequential(resnet18(), Sum())
    assert module_subject(network, [torch.zeros(1, 3, 4, 4)], tmp_path).imports == (
        Sum.__module__, 'torchvision.models.resnet')


def test_a_function_is_profiled_like_a_module(tmp_path):
    subject = module_subject(double, [np.ones((1, 3, 4, 4), np.float32)], tmp_path)
    assert subject.name == 'double'
    assert (handed_over(subject).build()(torch.ones(2)) == 2).all()


def test_a_module_that_refuses_its_examples_is_one_line(tmp_path):
    picture, shift = np.ones((1, 3, 4, 4), np.float32), np.ones((1, 5), np.float32)
    module_subject(Sum(), [picture, shift[:, :3]], tmp_path).check(2, (3, 4, 4))
    with pytest.raises(UserError, match='Sum refuses an input of 2 x 3 x 4 x 4: The size of tensor'):
        module_subject(Sum(), [picture, shift], tmp_path).check(2, (3, 4, 4))


def test_a_module_that_decides_by_values_is_checked_by_a_run(tmp_path):
    module_subject(halve_if_large, [np.ones((1, 3, 4, 4), np.float32)], tmp_path).check(1, (3, 4, 4))


def test_a_module_has_examples_of_one_size_only(tmp_path):
    subject = module_subject(double, [np.ones((1, 3, 4, 4), np.float32)], tmp_path)
    with pytest.raises(UserError, match='came with inputs of 3 x 4 x 4; give it some of 3 x 8 x 8'):
        subject.inputs(1, (3, 8, 8))


@pytest.mark.parametrize('inputs', [
    [], [np.ones((3, 4))], [np.ones((0, 3, 4, 4))], [np.ones((1, 3, 4, 4)), np.ones(())]])
def test_examples_without_a_batch_of_pictures_are_refused(inputs, tmp_path):
    with pytest.raises(UserError, match='an example of each of its inputs'):
        module_subject(double, inputs, tmp_path)


def test_what_another_process_could_not_import_is_refused(tmp_path, monkeypatch):
    picture = [np.ones((1, 3, 4, 4), np.float32)]
    with pytest.raises(UserError, match='cannot be handed to another process'):
        module_subject(lambda x: x, picture, tmp_path)
    monkeypatch.setattr(Sum, '__module__', '__main__')
    with pytest.raises(UserError, match='defined in the script itself'):
        module_subject(nn.Sequential(Sum()), picture, tmp_path)
