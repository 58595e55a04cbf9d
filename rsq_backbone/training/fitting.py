"""Running a task on Lightning, so that it can be stopped at any moment and resumed."""
import io
import logging
import signal
import sys
import threading
import warnings
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Union

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import whole_file
from rsq_backbone.machine import cpu_computes_bfloat16
from rsq_backbone.progress import Progress
from rsq_backbone.training.mixed_precision import keep_dilated_groups_in_float32

__all__ = ['Hardware', 'Task', 'fit']


@dataclass(frozen=True)
class Hardware:
    """Where Lightning's Trainer runs; its own names and values."""

    accelerator: str = 'auto'
    devices: Union[int, str] = 'auto'
    strategy: str = 'auto'
    num_nodes: int = 1

    @property
    def is_cpu(self) -> bool:
        no_other = not (torch.cuda.is_available() or torch.backends.mps.is_available())
        return self.accelerator == 'cpu' or (self.accelerator == 'auto' and no_other)

    def precision(self, wanted: str) -> str:
        """Lightning's name for what a recipe wants: of 'auto' the faster one here."""
        if wanted != 'auto':
            return wanted
        return 'bf16-mixed' if self.is_cpu and cpu_computes_bfloat16() else '32-true'


class Task(pl.LightningModule, ABC):
    """What `fit` trains: Lightning's module that knows its share of the batches."""

    @abstractmethod
    def training_batches(self, rank: int, processes: int) -> Any:
        """One process's share of this epoch's batches.

        Raises:
            UserError: if they cannot be shared among so many processes.
        """


def fit(
        task: Task, epochs: int, precision: Any, checkpoints: Path, monitor: Optional[str],
        hardware: Hardware, progress: Progress,
) -> None:
    """Train for a number of epochs, from the last checkpoint in the folder if there is one.

    A checkpoint is written after each epoch, whole or not at all. The task ends with the weights of the kept epoch.

    Args:
        task: Logs `monitor` in each epoch.
        epochs: All epochs, those before a resumed checkpoint included.
        precision: Lightning's.
        checkpoints: Folder of the checkpoints.
        monitor: Logged value whose lowest epoch is kept; None keeps the last epoch.
        hardware: Where to train.
        progress: Told after each batch.

    Raises:
        UserError: if the hardware is not there, or a checkpoint cannot be read.
        KeyboardInterrupt: if the user stopped it.
        SystemExit: in the processes that Lightning started beside this one, once they have done their part.
    """
    last = checkpoints / 'last.ckpt'
    # The best first: the last checkpoint then remembers it.
    keepers = [
        ModelCheckpoint(checkpoints, name, monitor=by, save_on_train_epoch_end=True, enable_version_counter=False)
        for name, by in ([('best', monitor)] if monitor else []) + [('last', None)]]
    with _quiet():
        try:
            trainer = pl.Trainer(
                accelerator=hardware.accelerator, devices=_devices(hardware), strategy=hardware.strategy,
                num_nodes=hardware.num_nodes, precision=precision, max_epochs=epochs,
                callbacks=[_ProgressTeller(progress), *keepers], plugins=[_WholeCheckpoints()],
                logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                use_distributed_sampler=False, reload_dataloaders_every_n_epochs=1)
        except (ValueError, RuntimeError, pl.utilities.exceptions.MisconfigurationException) as e:
            raise UserError(f'Lightning cannot train like this: {one_line(e)}') from e
        task.training_batches(0, trainer.world_size)  # refuses before other processes are started
        if precision == 'bf16-mixed' and hardware.is_cpu:
            keep_dilated_groups_in_float32(task)
        task.train()  # Lightning leaves the mode as it finds it
        resumed = last.exists()
        if resumed:
            _check(last, task)
        before = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(task, ckpt_path=str(last) if resumed else None, weights_only=True)
        except SystemExit:
            if trainer.interrupted:  # Lightning's answer to Ctrl-C
                raise KeyboardInterrupt from None
            raise
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, before)  # Lightning ignores it from the first Ctrl-C on
    if not trainer.is_global_zero:
        sys.exit(0)
    if monitor:
        best = torch.load(checkpoints / 'best.ckpt', map_location='cpu', weights_only=True)
        task.load_state_dict(best['state_dict'])


def _check(file: Path, task: pl.LightningModule) -> None:
    """Refuse a checkpoint that is damaged or of another run, before Lightning reads it."""
    try:
        checkpoint = torch.load(file, map_location='cpu', weights_only=True)
        found = {key: value.shape for key, value in checkpoint['state_dict'].items()}
        sound = found == {key: value.shape for key, value in task.state_dict().items()} and 'history' in checkpoint
    except Exception:  # on damaged files torch raises anything
        sound = False
    if not sound:
        raise UserError(f'{file} is damaged or of another run; begin again with --overwrite.')


def _devices(hardware: Hardware) -> Any:
    return int(hardware.devices) if str(hardware.devices).isdigit() else hardware.devices


class _WholeCheckpoints(TorchCheckpointIO):
    """Written beside their place. Lightning's own way is by the folder of temporary files, from where a checkpoint is
    copied if that is another disk: whoever runs out of space in between is left with half of it."""

    def save_checkpoint(self, checkpoint: Dict[str, Any], path: Any, storage_options: Any = None) -> None:
        data = io.BytesIO()  # of a full disk torch.save itself says nothing that anyone would understand
        torch.save(checkpoint, data)
        with whole_file(Path(path)) as temporary:
            temporary.write_bytes(data.getbuffer())


class _ProgressTeller(Callback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_batch_end(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero:
            self._progress('training, batches', trainer.global_step, int(trainer.estimated_stepping_batches))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice on workers and devices, which is not the user's to follow here."""
    loggers = [logging.getLogger(name) for name in ('lightning', 'lightning.pytorch', 'lightning.fabric')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='lightning')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
