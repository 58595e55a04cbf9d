import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.datasets.split import split
from rsq_backbone.errors import UserError

FOOD = dict(caesar_salad=26, caprese_salad=15, french_fries=181, greek_salad=24, hamburger=238, hot_dog=31, pizza=299,
            sashimi=40, sushi=124)


def collection(held):
    """Pictures of each class, by what they hold, and the content mapping that says so."""
    paths, labels, content = [], [], {}
    for label, (name, contents) in enumerate(held.items()):
        for number, what in enumerate(contents):
            paths.append(Path(name) / f'{number}.jpg')
            labels.append(label)
            content[paths[-1]] = what
    return LabelledImages(tuple(paths), tuple(labels), tuple(held)), content


def different(counts):
    return collection({name: [f'{name}{i}' for i in range(count)] for name, count in counts.items()})


def drawn(images, content):
    """What the pictures of each class hold."""
    return {(images.classes[label], content[path]) for path, label in zip(images.paths, images.labels, strict=True)}


def with_share(pictures, share, seed=0):
    images, content = pictures
    return images, share, seed, content


def test_food_splits_into_the_papers_686_and_292():
    train, val = split(*with_share(different(FOOD), 0.7))
    assert (len(train), len(val)) == (686, 292)
    # 0.7 * count by hand: 18.2, 10.5, 126.7, 16.8, 166.6, 21.7, 209.3, 28.0, 86.8
    assert train.class_counts == (18, 11, 127, 17, 167, 22, 209, 28, 87)


@pytest.mark.parametrize(('share', 'count', 'train'), [
    (0.7, 15, 11), (0.7, 5, 4), (0.5, 3, 2), (0.7, 4, 3), (0.7, 2, 1),
    (0.7, 45, 32), (0.7, 85, 60), (0.35, 90, 32), (0.145, 100, 15),  # halves, of which binary floats make less
    (0.01, 10, 1), (0.99, 10, 9), (0.999, 2, 1),  # a picture on each side
])
def test_counts_are_rounded_half_up_and_no_side_is_empty(share, count, train):
    first, second = split(*with_share(different({'a': count, 'b': count}), share))
    assert first.class_counts == (train, train)
    assert second.class_counts == (count - train, count - train)


@pytest.mark.parametrize('share', [0.1, 0.7])
def test_a_class_with_one_picture_is_trained_on(share):
    train, val = split(*with_share(collection({'a': ['x'], 'b': ['y', 'y', 'y'], 'c': ['z', 'w']}), share))
    assert train.class_counts == (1, 3, 1)
    assert val.class_counts == (0, 0, 1)


def test_the_parts_are_all_pictures_once_in_their_order():
    images, content = different(FOOD)
    order = np.random.default_rng(0).permutation(len(images))
    images = images.subset(order)
    train, val = split(images, 0.7, 3, content)
    place = {path: i for i, path in enumerate(images.paths)}
    for part in (train, val):
        places = [place[path] for path in part.paths]
        assert places == sorted(places)
        assert part.labels == tuple(images.labels[i] for i in places)
        assert part.classes == images.classes
    assert sorted(train.paths + val.paths) == sorted(images.paths)


def test_neither_order_nor_folder_nor_file_names_change_the_split():
    images, content = different({'a': 40, 'b': 25})
    train, _ = split(images, 0.7, 5, content)
    order = np.random.default_rng(1).permutation(len(images))
    moved = {path: Path('/elsewhere') / f'{i}.png' for i, path in enumerate(images.paths)}
    others = LabelledImages(
        tuple(moved[images.paths[i]] for i in order), tuple(images.labels[i] for i in order), images.classes)
    other_content = {moved[path]: what for path, what in content.items()}
    assert drawn(split(others, 0.7, 5, other_content)[0], other_content) == drawn(train, content)


def test_another_class_leaves_the_split_of_the_others():
    held = {name: [f'{name}{i}' for i in range(30)] for name in 'abc'}
    few, few_content = collection({name: held[name] for name in 'bc'})
    all_, content = collection(held)
    ours = drawn(split(few, 0.7, 0, few_content)[0], few_content)
    assert {pair for pair in drawn(split(all_, 0.7, 0, content)[0], content) if pair[0] != 'a'} == ours


def test_classes_are_drawn_independently():
    """Equal contents in two classes do not fall on the same sides."""
    images, content = collection({'a': [str(i) for i in range(50)], 'b': [str(i) for i in range(50)]})
    train = drawn(split(images, 0.5, 0, content)[0], content)
    assert {what for name, what in train if name == 'a'} != {what for name, what in train if name == 'b'}


def test_seeds_draw_every_picture_equally_often():
    images, content = different({'a': 20})
    often = Counter()
    for seed in range(400):
        often.update(split(images, 0.7, seed, content)[0].paths)
    # 400 draws with 0.7: mean 280, standard deviation 9.2
    assert sum(often.values()) == 400 * 14
    assert all(abs(often[path] - 280) < 46 for path in images.paths)


def test_a_split_stays_what_it_is_in_later_versions():
    images, content = different({'a': 10, 'b': 6})
    validation = drawn(split(images, 0.7, 0, content)[1], content)
    # the last of `printf '0\0a\0a1' | sha256sum` and so on, sorted
    assert sorted(what for _, what in validation) == ['a1', 'a4', 'a5', 'b2', 'b5']


def test_copies_stay_together_and_single_pictures_keep_the_count():
    contents = ['twice'] * 2 + ['thrice'] * 3 + ['often'] * 6 + [f'single{i}' for i in range(9)]
    images, content = collection({'a': contents, 'b': contents})
    sides = set()
    for seed in range(60):
        train, val = split(images, 0.7, seed, content)
        assert train.class_counts == (14, 14)
        assert not drawn(train, content) & drawn(val, content)
        sides.add(tuple(('a', what) in drawn(val, content) for what in ('twice', 'thrice', 'often')))
    assert len(sides) > 4  # copies are not always for training, as they would be if the largest came first


def test_the_count_is_the_nearest_that_copies_allow():
    rng = np.random.default_rng(0)
    for seed in range(150):
        sizes = rng.choice([1, 2, 3, 5, 8], size=rng.integers(2, 8), p=[0.2, 0.2, 0.2, 0.2, 0.2])
        count, share = int(sizes.sum()), float(rng.choice([0.2, 0.5, 0.7, 0.85]))
        images, content = collection({'a': [str(i) for i, size in enumerate(sizes) for _ in range(size)]})
        train, val = split(images, share, seed, content)
        possible = {sum(some) for n in range(1, len(sizes)) for some in itertools.combinations(sizes.tolist(), n)}
        wanted = int(np.floor(round(share * count, 6) + 0.5))
        assert abs(len(train) - wanted) == min(abs(total - wanted) for total in possible)
        assert not drawn(train, content) & drawn(val, content)


@pytest.mark.parametrize('share', [0, 1, -0.5, 70, float('nan')])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(UserError, match='between 0 and 1'):
        split(*with_share(different({'a': 4}), share))
