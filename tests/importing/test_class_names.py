"""Classes are named in the order of the network's outputs, which for timm is not the alphabetical one."""
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from timm.data import create_dataset
from timm_training import NAMES

import rsq_backbone
from rsq_backbone.errors import UserError
from rsq_backbone.importing.class_names import read_class_names


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(root / name / 'a.png')
    return root


@pytest.mark.parametrize('names', [
    ('b10', 'b9', 'a'), ('Zebra', 'ant', 'Bee'), ('2', '10', '1'), ('x_1', 'x-1', 'x 1'), ('größe', 'grösse', 'gross'),
])
def test_a_folder_gives_the_order_of_timms_own_data_set(tmp_path: Path, names: Any) -> None:
    root = folders(tmp_path / 'pictures', *names)
    data = create_dataset('', root=str(root), split='train')
    found = read_class_names(root)
    assert sorted(found) == sorted(names)
    for index in range(len(names)):
        assert found[data[index][1]] == Path(data.filename(index)).parent.name


def test_a_folder_with_a_split_is_read_in_its_training_part(photos: Path) -> None:
    folders(photos / 'val', 'only-in-val')
    assert read_class_names(photos) == read_class_names(photos / 'train') == NAMES


@pytest.mark.parametrize('text', ['a\nb\nc\n', 'a\r\nb\r\nc', '\ufeffa\n b \nc\n\n'])
def test_a_text_file_names_a_class_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / 'names.txt').write_bytes(text.encode())
    assert read_class_names(tmp_path / 'names.txt') == ('a', 'b', 'c')


@pytest.mark.parametrize(('text', 'match'), [
    (b'a\n\nc\n', 'line 2: no name'),
    (b'a\nb\na\n', 'classes a and a are ambiguous'),
    (b'a\n\x1b[31mb\nc\n', 'line 2: no name, or one with control characters'),
    (b'\xff\xfe\x00', 'cannot be read'),
    (b'', 'line 1: no name'),
    (bytes(1000), 'line 1'),
])
def test_a_file_that_names_no_classes_is_refused(tmp_path: Path, text: bytes, match: str) -> None:
    (tmp_path / 'names.txt').write_bytes(text)
    with pytest.raises(UserError, match=match):
        read_class_names(tmp_path / 'names.txt')


def test_places_without_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='has no class folders with pictures'):
        read_class_names(tmp_path / 'empty')
    for place in (tmp_path / 'nothing', Path('/dev/null'), Path('a\0b')):
        with pytest.raises(UserError, match=r'check the path|cannot be read'):
            read_class_names(place)
    Image.new('RGB', (8, 8)).save(folders(tmp_path / 'loose', 'a') / 'b.png')
    with pytest.raises(UserError, match='pictures outside of class folders'):
        read_class_names(tmp_path / 'loose')


def test_folders_whose_order_is_left_to_chance_are_refused(tmp_path: Path) -> None:
    """timm takes numbers in names for numbers, so that the order of these two differs from run to run."""
    with pytest.raises(UserError, match=r'the classes x0?1 and x0?1 are ambiguous.*text file'):
        read_class_names(folders(tmp_path / 'pictures', 'x1', 'x01', 'y'))


def test_the_training_s_class_map_comes_before_its_pictures(trained: Any, tmp_path: Path, photos: Path) -> None:
    (photos / 'order.txt').write_text('zebra\nant9\nant10\n')
    trained(class_map='order.txt')
    result = rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'mine')
    assert result.classes == ('zebra', 'ant9', 'ant10')
    for lost in ('gone.txt', 'order.pkl'):
        (photos / 'order.pkl').write_bytes(b'a pickle')
        trained(lost, class_map=lost)
        with pytest.raises(UserError, match=rf'its class map {lost} is not here, or is no text file; name .*--classes'):
            rsq_backbone.import_checkpoint(tmp_path / 'output' / lost)


@pytest.mark.parametrize(('arguments', 'match'), [
    ({'data_dir': '/nowhere/photos'}, 'its pictures in /nowhere/photos are not here'),
    ({'data_dir': None}, 'nothing is known of its pictures'),
    ({'dataset': 'hfds/someone/photos'}, 'its pictures come from hfds/someone/photos'),
])
def test_classes_that_cannot_be_found_are_asked_for(
        trained: Any, tmp_path: Path, arguments: Any, match: str) -> None:
    trained(**arguments)
    with pytest.raises(UserError, match=rf'{match}; name a text file .* by --classes'):
        rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run')


def test_another_number_of_classes_than_the_network_s_is_refused(
        trained: Any, tmp_path: Path, photos: Path) -> None:
    """As where train.py was not told how many there are, and kept the thousand of ImageNet."""
    trained(num_classes=7)
    with pytest.raises(UserError, match=r'the network has 7 classes, and .* names 3 \(ant9, ant10, zebra\).*--classes'):
        rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', classes=photos)
    with pytest.raises(UserError, match=r'the network has 7 classes, and .* names 3'):
        rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run')
    assert not (tmp_path / 'runs').exists()
