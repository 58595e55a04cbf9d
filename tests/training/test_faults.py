"""A machine that fails in the middle of a run: one line, and nothing half-written that looks whole."""
import errno
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rsq_backbone import files
from rsq_backbone.errors import UserError
from rsq_backbone.training import finetuning, run_folder
from rsq_backbone.training.faults import one_line_faults
from rsq_backbone.training.task import ClassificationTask


def one_line(raised):
    assert '\n' not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(('number', 'says'), [
    (errno.ENOSPC, 'disk is full'), (errno.EDQUOT, 'disk is full'),
    (errno.EACCES, 'permission'), (errno.EROFS, 'permission'),
])
def test_what_the_system_refuses_to_write_is_said_in_one_line_with_the_file(tmp_path, number, says):
    with pytest.raises(UserError, match=says) as raised, one_line_faults(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / 'model.safetensors'))
    assert 'model.safetensors' in one_line(raised)


def test_other_faults_pass_unchanged(tmp_path):
    for fault in (OSError(errno.EIO, 'I/O error'), RuntimeError('shapes do not fit'), KeyError('x')):
        with pytest.raises(type(fault)) as raised, one_line_faults(tmp_path):
            raise fault
        assert raised.value is fault


def fail(message):
    def failing(*args, **kwargs):
        raise message if isinstance(message, BaseException) else OSError(errno.ENOSPC, message)

    return failing


@pytest.mark.parametrize(('owner', 'name', 'fault'), [
    (Path, 'write_bytes', OSError(errno.ENOSPC, 'No space left on device')),  # a checkpoint
    # What the writer of safetensors makes of it.
    (run_folder.safetensors.torch, 'save_file', SafetensorError('I/O error: No space left on device (os error 28)')),
    (files.os, 'fsync', OSError(errno.ENOSPC, 'No space left on device')),
])
def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_resuming_finishes_it(
        train, small, runs, monkeypatch, owner, name, fault):
    recipe = small('paper')
    train(recipe, 'whole')
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail(fault))
        with pytest.raises(UserError, match='disk is full') as raised:
            train(recipe, 'full', feature_cache=False)
    assert '--resume' in one_line(raised)
    assert not (runs / 'full' / 'metrics.json').exists()
    assert not (runs / 'full' / 'model.safetensors').exists()
    train(recipe, 'full', feature_cache=False, resume=True)
    assert (runs / 'full' / 'metrics.json').exists()


def test_a_disk_that_fills_up_in_mid_checkpoint_leaves_the_one_before_whole(train, small, runs, monkeypatch):
    recipe = small('paper', epochs=3)
    train(recipe, 'whole')
    written = []
    write_bytes = Path.write_bytes

    def half(path, data):
        written.append(path)
        write_bytes(path, data if len(written) < 3 else data[:1000])
        if len(written) == 3:
            raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'write_bytes', half)
        with pytest.raises(UserError, match='disk is full'):
            train(recipe, 'full')
    checkpoints = runs / 'full' / 'checkpoints'
    assert [file.name for file in checkpoints.iterdir()] == ['last.ckpt']
    assert torch.load(checkpoints / 'last.ckpt', weights_only=True)['epoch'] == 1
    batches = []
    train(recipe, 'full', resume=True,
          progress=lambda what, done, total: batches.append(done) if what == 'training, batches' else None)
    assert batches == [9, 10, 11, 12]
    full, whole = (load_file(runs / name / 'model.safetensors') for name in ('full', 'whole'))
    assert all(torch.equal(full[key], whole[key]) for key in whole)


def test_too_large_a_batch_is_one_line_and_the_run_can_go_on(train, small, runs, monkeypatch):
    monkeypatch.setattr(ClassificationTask, 'forward', lambda self, x: torch.empty(1 << 60, dtype=torch.uint8))
    with pytest.raises(UserError, match='out of memory') as raised:
        train(small('paper'))
    assert '--batch-size' in one_line(raised)
    assert not (runs / 'run' / 'metrics.json').exists()


def test_a_loss_that_is_no_number_ends_the_run_in_one_line_that_names_the_rate(train, small, runs):
    with pytest.raises(UserError, match='--learning-rate') as raised:
        train(small('paper', learning_rate=1e9))
    assert re.search(r'the loss became (nan|inf) in epoch [12]', one_line(raised))
    assert not (runs / 'run' / 'model.safetensors').exists()


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_that_may_not_be_written_is_refused_before_training(train, small, tmp_path, monkeypatch):
    (tmp_path / 'locked').mkdir(mode=0o500)
    monkeypatch.setattr(finetuning, 'fit', fail(AssertionError('trained')))
    with pytest.raises(UserError, match='--output'):
        train(small('paper'), output=tmp_path / 'locked')
