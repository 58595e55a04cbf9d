"""Nothing here needs the network, and importing the package costs and disturbs nothing.

Every contract test runs with the network refused (tests/conftest.py). These use clean processes where the order of
imports or an empty cache matters; a try to reach the network ends such a process.
"""
import importlib
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

import rsq_backbone
from rsq_backbone.res_squeezenet import default_cfgs

MODEL = 'res_squeezenet'


# ---- the network is really refused ----

def test_a_test_that_reaches_for_the_network_is_stopped_and_found_out(network_gate: Any) -> None:
    with pytest.raises(OSError, match='may not use the network'):
        socket.create_connection(('192.0.2.1', 80), timeout=1)  # an address kept for documentation
    with pytest.raises(OSError, match='may not use the network'), socket.socket() as s:
        s.connect(('192.0.2.1', 80))
    with pytest.raises(OSError, match='may not use the network'):
        socket.getaddrinfo('huggingface.co', 443)
    assert len(network_gate.attempts) == 3
    network_gate.attempts.clear()  # they would fail this test


def test_weights_that_are_not_bundled_do_need_the_network(network_gate: Any, monkeypatch: Any, tmp_path: Path) -> None:
    """The other way round: what the tests rely on to notice a download does notice one."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(OSError, match='may not use the network'):
        timm.create_model(f'{MODEL}.tv_in1k', pretrained=True)
    assert network_gate.attempts
    network_gate.attempts.clear()


def test_a_child_process_that_reaches_for_the_network_is_ended(run_python: Any) -> None:
    done = run_python("import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)", check=False)
    assert done.returncode == 97
    assert 'the network was asked for' in done.stderr


# ---- importing ----

def test_importing_says_nothing_and_loads_no_framework(run_python: Any) -> None:
    done = run_python('''
        import sys
        before = set(sys.modules)
        import rsq_backbone
        loaded = {name.partition('.')[0] for name in set(sys.modules) - before}
        assert rsq_backbone.__version__
        heavy = {'torch', 'timm', 'segmentation_models_pytorch', 'huggingface_hub', 'numpy', 'cv2', 'PIL'}
        assert not loaded & heavy, loaded & heavy
    ''', options=('-W', 'error'))
    assert done.stdout == ''
    assert done.stderr == ''


IMPORTS = {
    'package first': 'import rsq_backbone, timm, segmentation_models_pytorch as smp',
    'package last': 'import timm, segmentation_models_pytorch as smp, rsq_backbone',
    'encoder module first': 'import rsq_backbone.smp_encoder, timm, segmentation_models_pytorch as smp',
    # As transformers and lightning do, to learn whether they are installed.
    'someone looked for timm and smp': 'import rsq_backbone, importlib.util; importlib.util.find_spec("timm"); '
                                       'importlib.util.find_spec("segmentation_models_pytorch"); '
                                       'import timm, segmentation_models_pytorch as smp',
}
MORE_IMPORTS = {
    'package in between': 'import timm, rsq_backbone, segmentation_models_pytorch as smp',
    'smp before timm': 'import rsq_backbone, segmentation_models_pytorch as smp, timm',
    'parts of timm first': 'import rsq_backbone; from timm.models import create_model; import timm; '
                           'import segmentation_models_pytorch as smp',
    'model class first': 'from rsq_backbone import ResSqueezeNet; import timm, segmentation_models_pytorch as smp',
    'encoder class first': 'import rsq_backbone; rsq_backbone.ResSqueezeNetEncoder; '
                           'import timm, segmentation_models_pytorch as smp',
    'model module first': 'import rsq_backbone.res_squeezenet, timm, segmentation_models_pytorch as smp',
}


@pytest.mark.parametrize('imports', [
    *[pytest.param(code, id=name) for name, code in IMPORTS.items()],
    *[pytest.param(code, id=name, marks=pytest.mark.slow) for name, code in MORE_IMPORTS.items()],
])
def test_any_order_of_imports_registers_with_timm_and_smp_silently(imports: str, run_python: Any) -> None:
    done = run_python(f'''
        import warnings
        warnings.filterwarnings('error', module='rsq_backbone')
        warnings.filterwarnings('error', message='.*[Oo]verwriting.*')
        {imports}
        names = ['{MODEL}', '{MODEL}_lite']
        assert timm.list_models('{MODEL}*') == names
        assert timm.list_pretrained('{MODEL}*') == [
            f'{{name}}.{{tag}}' for name in names for tag in ('caffe_in1k', 'tv_in1k')]
        assert {{*names}} <= {{*smp.encoders.get_encoder_names()}}
        assert type(timm.create_model('{MODEL}')).__module__ == 'rsq_backbone.res_squeezenet'
        assert type(smp.encoders.get_encoder('{MODEL}', depth=1)).__module__ == 'rsq_backbone.smp_encoder'
    ''')
    assert done.stdout == ''
    assert 'rsq' not in done.stderr
    assert 'verwriting' not in done.stderr


def test_the_hooks_leave_no_trace_on_the_modules_of_others(run_python: Any) -> None:
    """Readers of __loader__ and __spec__ (pkgutil, importlib.resources, reload) see what they always see."""
    run_python('''
        import rsq_backbone
        import importlib, importlib.resources, sys
        import timm, segmentation_models_pytorch
        for module in (timm, segmentation_models_pytorch):
            assert type(module.__loader__).__module__ == '_frozen_importlib_external', module.__loader__
            assert module.__spec__.loader is module.__loader__
            assert importlib.resources.files(module).joinpath('__init__.py').is_file()
    ''')


def test_a_failed_import_of_timm_can_be_tried_again(run_python: Any, tmp_path: Path) -> None:
    broken = tmp_path / 'broken' / 'timm'
    broken.mkdir(parents=True)
    (broken / '__init__.py').write_text('raise ImportError("broken on purpose")')
    run_python(f'''
        import sys
        import rsq_backbone
        sys.path.insert(0, {str(broken.parent)!r})
        try:
            import timm
        except ImportError as e:
            assert 'broken on purpose' in str(e)
        else:
            raise AssertionError('the broken timm was not the one imported')
        sys.path.pop(0)
        import timm
        assert timm.list_models('{MODEL}') == ['{MODEL}']
    ''')


def test_registering_again_changes_nothing_and_warns_of_nothing() -> None:
    entry = smp.encoders.encoders[MODEL]
    names = list(smp.encoders.get_encoder_names())
    build = timm.model_entrypoint(MODEL)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        rsq_backbone.register_smp()
        importlib.reload(rsq_backbone)
    assert list(smp.encoders.get_encoder_names()) == names
    assert smp.encoders.encoders[MODEL]['encoder'] is entry['encoder']
    assert dict(smp.encoders.encoders[MODEL]['pretrained_settings']) == dict(entry['pretrained_settings'])
    assert timm.model_entrypoint(MODEL) is build
    assert timm.list_models(f'{MODEL}*') == [MODEL, f'{MODEL}_lite']


# ---- pretrained weights ----

def test_every_default_works_in_an_empty_cache_without_network(run_python: Any) -> None:
    """smp's default is encoder_weights='imagenet'."""
    run_python(f'''
        import rsq_backbone
        import timm, torch
        import segmentation_models_pytorch as smp
        x = torch.rand(1, 3, 64, 64)
        for variant in ('{MODEL}', '{MODEL}_lite'):
            assert timm.create_model(variant, pretrained=True).eval()(x).shape == (1, 1000)
            features = timm.create_model(variant, pretrained=True, features_only=True).eval()(x)
            for name in (variant, f'tu-{{variant}}'):
                model = smp.Unet(encoder_name=name).eval()
                torch.testing.assert_close(model.encoder(x)[1:], features)
                assert smp.encoders.get_preprocessing_params(name)['mean'] == [0.485, 0.456, 0.406]
    ''')


def test_the_weights_lie_inside_the_package() -> None:
    file = Path(default_cfgs[MODEL].default.file)
    assert file.is_file()
    assert Path(rsq_backbone.__file__).parent in file.parents


def test_smp_needs_no_network_and_no_cache_to_build_save_and_load(run_python: Any, tmp_path: Path) -> None:
    """A file stands where the hub's client would keep its cache, so nothing can be written there."""
    (tmp_path / 'hf-home').write_text('not a folder')
    run_python(f'''
        import os
        os.environ['HOME'] = os.environ['HF_HOME']
        import rsq_backbone
        import segmentation_models_pytorch as smp, torch
        for variant in ('{MODEL}', '{MODEL}_lite'):
            network = smp.Unet(variant, encoder_weights='imagenet', decoder_channels=(32, 16, 16, 8, 8)).eval()
            network.save_pretrained(variant)
            again = smp.from_pretrained(variant).eval()
            x = torch.rand(1, 3, 64, 64)
            assert torch.equal(again(x), network(x))
        assert smp.encoders.get_preprocessing_fn('{MODEL}') is not None
    ''')


def test_preprocessing_for_smp_is_that_for_timm() -> None:
    cfg = default_cfgs[MODEL].default
    assert smp.encoders.get_preprocessing_params(MODEL) == {
        'input_space': 'RGB', 'input_range': [0, 1], 'mean': [*cfg.mean], 'std': [*cfg.std]}


def test_weights_of_other_encoders_still_come_from_the_hub(monkeypatch: Any) -> None:
    class Asked(Exception):
        pass

    def from_hub(*args: Any, **kwargs: Any) -> str:
        raise Asked(args, kwargs)

    monkeypatch.setattr('rsq_backbone.smp_encoder._from_hub', from_hub)
    settings = smp.encoders.encoders['resnet18']['pretrained_settings']['imagenet']
    with pytest.raises(Asked) as asked:
        smp.Unet('resnet18', encoder_weights='imagenet')
    assert asked.value.args == ((settings['repo_id'], 'config.json'), {'revision': settings['revision']})


@pytest.mark.network
def test_torchvisions_weights_classify_as_torchvision_does() -> None:
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    theirs = squeezenet1_1(weights=SqueezeNet1_1_Weights.IMAGENET1K_V1).eval()
    model = timm.create_model(f'{MODEL}.tv_in1k', pretrained=True).eval()
    x = torch.randn(2, 3, 227, 227)
    with torch.inference_mode():
        expected = theirs.classifier(theirs.features(x)[..., ::2, ::2]).flatten(1)
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)
