"""From files to batches: what a network sees, in which order, and what is kept of it."""
import hashlib
import shutil

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
from PIL import Image
from timm.data import create_transform

from rsq_backbone.datasets.folders import load_collection
from rsq_backbone.errors import UserError
from rsq_backbone.training import array_cache
from rsq_backbone.training.array_cache import NotKept
from rsq_backbone.training.augmentation import Augmentation
from rsq_backbone.training.pictures import EpochBatches, Features, Pictures, Samples, batches, to_input

CONFIG = dict(
    input_size=(3, 48, 48), interpolation='bicubic', crop_pct=0.875, crop_mode='center', mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225))


def content(images):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in images.paths}


@pytest.fixture
def make(pictures):
    def make(progress=lambda *args: None, **changes):
        images = load_collection(pictures).train
        return Pictures(images, content(images), {**CONFIG, **changes}, progress)

    return make


def indices(batches_):
    return [[index for _, index in batch] for batch in batches_]


def test_the_paper_s_686_pictures_make_408_iterations_in_six_epochs():
    epochs = [list(EpochBatches(range(686), 10, seed=0, epoch=e)) for e in range(6)]
    assert [len(epoch) for epoch in epochs] == [68] * 6
    for epoch in epochs:
        seen = [index for batch in indices(epoch) for index in batch]
        assert len(seen) == len(set(seen)) == 680
        assert set(seen) < set(range(686))


@pytest.mark.parametrize('count', [1, 7, 8, 9, 50])
def test_no_picture_comes_twice_in_an_epoch_and_none_is_left_out_for_ever(count):
    chosen = range(100, 100 + count)
    ever = set()
    for epoch in range(30):
        found = indices(EpochBatches(chosen, 8, seed=0, epoch=epoch))
        assert len(found) == max(count // 8, 1)
        assert {len(batch) for batch in found} == {min(8, count)}
        seen = [index for batch in found for index in batch]
        assert len(seen) == len(set(seen))
        ever.update(seen)
    assert ever == set(chosen)


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return indices(EpochBatches(range(40), 10, seed, epoch))

    first = order(0, 0)
    np.random.seed(7)
    torch.manual_seed(7)
    assert order(0, 0) == first
    assert all(epoch == 3 for batch in EpochBatches(range(40), 10, 0, 3) for epoch, _ in batch)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def shares(count, batch_size, processes):
    return [indices(EpochBatches(range(count), batch_size, 1, 2, rank, processes)) for rank in range(processes)]


@pytest.mark.parametrize(('batch_size', 'processes'), [(8, 2), (10, 2), (12, 3), (10, 5)])
def test_several_processes_share_the_batches_of_one(batch_size, processes):
    whole = indices(EpochBatches(range(50), batch_size, seed=1, epoch=2))
    for batch, *parts in zip(whole, *shares(50, batch_size, processes), strict=True):
        assert sorted(index for part in parts for index in part) == sorted(batch)


@pytest.mark.parametrize(('count', 'batch_size', 'processes'), [(50, 10, 4), (50, 5, 2), (50, 1, 2), (3, 10, 4)])
def test_shares_are_of_one_size_or_refused(count, batch_size, processes):
    """Gradients are averaged over processes: unequal shares weigh pictures unequally, and an empty one has none."""
    try:
        found = shares(count, batch_size, processes)
    except UserError:
        return
    sizes = {len(batch) for share in found for batch in share}
    assert len(sizes) == 1
    assert sizes != {0}


def test_pictures_are_what_timm_s_own_evaluation_transform_shows_the_network(make, pictures):
    for changes in ({}, {'crop_mode': 'squash', 'crop_pct': 1.0}, {'interpolation': 'bilinear'},
                    {'input_size': (3, 32, 40)}):
        mine = make(**changes)
        transform = create_transform(**mine.config)
        for i in (0, 10, 23):
            expected = transform(Image.open(mine.images.paths[i]).convert('RGB'))
            assert mine[i].dtype == np.uint8
            batch = to_input(torch.from_numpy(np.stack([mine[i]])), mine.config)
            torch.testing.assert_close(batch[0], expected, atol=1e-5, rtol=0)


def test_squashing_shows_all_of_an_oblong_picture_as_matlab_s_resize_does(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('a', 'b'):
        (tmp_path / 'oblong' / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 255, (60, 120, 3), np.uint8)).save(tmp_path / 'oblong' / name / f'{i}.png')
    images = load_collection(tmp_path / 'oblong').train
    mine = Pictures(images, content(images), {**CONFIG, 'crop_mode': 'squash', 'crop_pct': 1.0})
    expected = Image.open(images.paths[1]).resize((48, 48), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(mine[1], np.asarray(expected))


def reads(make, **changes):
    """How many files are read to get all pictures."""
    calls = []
    make(lambda what, done, total: calls.append(what), **changes)
    return calls.count('reading pictures')


def test_files_are_read_once_for_all_runs_whatever_they_are_called(make, pictures):
    assert reads(make) == 24
    assert reads(make) == 0
    for file in sorted(pictures.rglob('*.png')):
        file.rename(file.with_name(f'renamed-{file.name}'))
    assert reads(make) == 0


def test_another_size_crop_interpolation_or_content_is_read_anew(make, pictures):
    assert reads(make) == 24
    for changes in ({'input_size': (3, 32, 32)}, {'crop_mode': 'squash'}, {'interpolation': 'bilinear'},
                    {'crop_pct': 1.0}):
        assert reads(make, **changes) == 24
    Image.new('RGB', (64, 64), (1, 2, 3)).save(pictures / 'red' / '0.png')
    assert reads(make) == 24


def test_copies_of_a_picture_are_kept_once_and_given_to_all(make, pictures):
    for i in (1, 2, 3):
        (pictures / 'red' / f'{i}.png').write_bytes((pictures / 'red' / '0.png').read_bytes())
    assert reads(make) == 21
    mine = make()
    first = next(i for i, path in enumerate(mine.images.paths) if path.parent.name == 'red')
    np.testing.assert_array_equal(mine[first], mine[first + 3])
    assert not np.array_equal(mine[first], mine[first + 4])


@pytest.fixture
def make_loose(make, monkeypatch, own_cache):
    """Pictures that find nothing kept and no room to keep them."""

    def make_loose():
        monkeypatch.setattr(array_cache, 'LIMIT_BYTES', 0)
        shutil.rmtree(own_cache)
        return make()

    return make_loose


def test_pictures_that_cannot_be_kept_are_read_each_time_and_look_the_same(make, make_loose):
    kept = make()
    loose = make_loose()
    assert kept.kept
    assert not loose.kept
    for i in (0, 23):
        np.testing.assert_array_equal(loose[i], kept[i])


def test_batches_are_the_same_whether_pictures_are_kept_or_read_by_workers(make, make_loose):
    keys = EpochBatches(range(24), 10, seed=0, epoch=1)
    labels = make().images.labels
    kept = list(batches(Samples(make(), labels, Augmentation('strong'), 5), keys))
    loose = make_loose()
    assert not loose.kept
    read = list(batches(Samples(loose, labels, Augmentation('strong'), 5), keys))
    assert len(kept) == len(read) == 2
    for (x, y), (x2, y2) in zip(kept, read, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
        assert x.shape == (10, 48, 48, 3)
        assert x.dtype == torch.uint8
    assert y.tolist() == [labels[index] for _, index in list(keys)[1]]


def test_augmentation_never_changes_what_is_kept(make):
    mine = make()
    before = mine[3].copy()
    samples = Samples(mine, mine.images.labels, Augmentation('strong'))
    for epoch in range(5):
        samples[epoch, 3][0].zero_()
    np.testing.assert_array_equal(mine[3], before)
    np.testing.assert_array_equal(make()[3], before)


class Scale(nn.Module):
    """A frozen part whose features are easily worked out: the normalised picture times a number."""

    def __init__(self, factor, kind='map'):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))
        self.kind = kind

    def forward(self, x):
        x = x * self.factor
        return {'map': x, 'vector': x.mean((2, 3)), 'tokens': x.flatten(2).transpose(1, 2), 'pair': (x, x)}[self.kind]


@pytest.mark.parametrize('kind', ['map', 'vector', 'tokens'])
def test_features_are_the_module_s_output_to_the_precision_of_float16(make, kind):
    mine = make()
    features = Features(mine, Scale(1.7, kind), 'x')
    for i in (0, 17, 23):
        x = to_input(torch.from_numpy(mine[i][None].copy()), CONFIG)
        expected = Scale(1.7, kind)(x).detach()
        found = to_input(torch.from_numpy(np.array(features[i])[None]), CONFIG)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=2**-11, atol=1e-7)


def computed(make, module, **changes):
    calls = []
    Features(make(**changes), module, 'features', lambda what, done, total: calls.append((done, total)))
    return len(calls) > 0


def test_features_are_computed_once_and_anew_for_other_weights_or_preprocessing(make):
    assert computed(make, Scale(1))
    assert not computed(make, Scale(1))
    assert computed(make, Scale(1.0001))
    assert computed(make, Scale(1), mean=(0, 0, 0))
    assert computed(make, Scale(1), std=(1, 1, 1))
    assert computed(make, Scale(1), crop_pct=1.0)
    assert not computed(make, Scale(1))


def test_features_of_networks_that_differ_in_one_weight_or_statistic_are_told_apart(make):
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=0).eval()
    assert computed(make, model)
    with torch.no_grad():
        model.layer1[0].conv1.weight[0, 0, 0, 0] += 1e-6
    assert computed(make, model)
    model.layer1[0].bn1.running_mean[0] += 1e-6
    assert computed(make, model)
    assert not computed(make, model)


@pytest.mark.parametrize('factor', [1e6, float('inf'), float('nan')])
def test_features_beyond_float16_are_not_kept(make, factor, own_cache):
    with pytest.raises(NotKept, match='float16'):
        Features(make(), Scale(factor), 'x')
    assert len(list((own_cache / 'arrays').iterdir())) == 1  # the pictures


def test_features_that_are_no_tensor_are_not_kept(make):
    with pytest.raises(NotKept):
        Features(make(), Scale(1, 'pair'), 'x')
