"""The folder of a run: a timm checkpoint with everything that is known about it."""
import csv
import dataclasses
import json
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Optional, Sequence, TypeVar

import safetensors.torch
import torch.nn as nn
from filelock import FileLock, Timeout
from timm.models._hub import save_config_for_hf

from rsq_backbone.datasets.words import same_source
from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import sha256_of, whole_file, write_rows, write_text
from rsq_backbone.images import IMAGE_SUFFIXES
from rsq_backbone.results import PicturePrediction
from rsq_backbone.training.faults import one_line_faults

__all__ = ['RunFolder', 'run_name']

T = TypeVar('T')

# What `whole_file` and the saving of a segmentation network write into before it takes its name.
_TEMPORARY = re.compile(
    r'\.(checkpoints|config|confusion|curves|metrics|mistakes|model|overlays|predictions|report|settings|split)'
    r'-[a-z0-9_]+(\.\w+)?')


class RunFolder:
    """Files of a run. What has its final name is whole; `metrics.json` is written last and marks a finished run.

    Args:
        path: The folder; `locked` keeps others out, `claim` looks at it, `begin` makes it a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights = path / 'model.safetensors'
        self.config = path / 'config.json'
        self.metrics = path / 'metrics.json'
        self.checkpoints = path / 'checkpoints'
        self._settings = path / 'settings.json'
        self._split = path / 'split.csv'
        self._lock = path / '.lock'

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / 'last.ckpt'

    def timm_name(self) -> str:
        """The name by which timm loads the run's model.

        Raises:
            UserError: if there is none.
        """
        for file in (self.config, self.weights):
            if not file.is_file():
                raise UserError(
                    f'{self.path} is not a finished run ({file.name} is missing); rsq finetune makes one, and rsq '
                    'import makes one of a checkpoint of timm.')
        return f'local-dir:{self.path}'

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the same run; what stops this process, or the machine, ends the lock.

        Raises:
            UserError: if another process is at it.
        """
        made = [] if _is_child() else [folder for folder in (self.path, *self.path.parents) if not _exists(folder)]
        lock = FileLock(self._lock, timeout=0)
        try:
            if not _is_child():
                self._acquire(lock)
        except Timeout:
            raise UserError(
                f'{self.path} exists and is being written by another process; wait for its end, or choose another '
                '--name.',
            ) from None
        except (OSError, ValueError, NotImplementedError):  # `begin` says what is wrong; some disks have no locks
            pass
        try:
            yield
        finally:
            if lock.is_locked:
                # While it is still ours: afterwards it may be another process's. Where open files cannot be removed,
                # it stays, and does no harm.
                with suppress(OSError):
                    self._lock.unlink()
                lock.release()
            with suppress(OSError, ValueError):  # they are no longer empty, or could not be made
                for folder in made:
                    folder.rmdir()

    def _acquire(self, lock: FileLock) -> None:
        for attempt in range(5):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                return
            except FileNotFoundError:  # another process has just removed the folder, which it left empty
                if attempt == 4:
                    raise

    def claim(
            self, settings: Dict[str, Any], resume: bool, overwrite: bool, read: Callable[[Dict[str, Any]], T],
    ) -> Optional[T]:
        """See whether a run may have this folder, touching nothing.

        Args:
            settings: What determines the run so far as it is known yet, JSON-able.
            resume: Go on where a run of the same settings stopped; a new run if there is none.
            overwrite: Replace the run that is there.
            read: Understands metrics.json.

        Returns:
            What the run found, if it is to be resumed and had finished.

        Raises:
            UserError: if the folder is taken, or holds no run or one of other settings.
        """
        if _is_child():
            return None
        self._refuse_taken(settings, resume, overwrite)
        if not resume or not self.metrics.exists():
            return None
        try:
            result = read(json.loads(self.metrics.read_text(encoding='utf-8')))
            self._clean()
            return result
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            if isinstance(e, UserError):
                raise
            raise UserError(f'{self.metrics} is damaged; run again with --overwrite.') from e

    def _refuse_taken(self, settings: Dict[str, Any], resume: bool, overwrite: bool) -> None:
        try:
            if '\0' in str(self.path):
                raise ValueError('embedded null character')
            if self.path.exists() and not self.path.is_dir():
                raise UserError(f'{self.path} is a file; choose another --output or --name.')
            # A run that was killed while it wrote its first file leaves but a part of that.
            taken = self.path.is_dir() and not all(
                file == self._lock or file.match('.settings-*.json') for file in self.path.iterdir())
        except (OSError, ValueError) as e:  # a name that no file can have
            if isinstance(e, UserError):
                raise
            raise UserError(
                f'{str(self.path)[:80]!r} cannot be a folder ({type(e).__name__}); choose another --name.') from e
        if not taken:
            return
        if not resume and not overwrite:
            raise UserError(
                f'{self.path} exists: continue it with --resume, replace it with --overwrite, or choose another '
                '--name.')
        before = self._settings_before()
        changed = [
            key for key in settings if settings[key] != before.get(key)
            and not (key == 'source' and same_source(settings[key], str(before.get(key))))]
        if resume and changed:
            raise UserError(
                f'{self.path} was begun with other settings ({", ".join(changed)}); resume with the same command, or '
                'choose another --name.')

    def begin(self, settings: Dict[str, Any], resume: bool) -> None:
        """Make the folder, after `claim` and when all that could keep the run from starting has been tried.

        Raises:
            UserError: if the folder cannot be written, or a run is resumed on other pictures.
        """
        if _is_child():
            return
        if resume and self._settings.exists() and self._settings_before().get('pictures') != settings['pictures']:
            raise UserError(
                f'the training data have changed since {self.path} was begun; begin again with --overwrite.')
        try:
            with one_line_faults(self.path):
                if not resume and self._settings.exists():
                    for file in self.path.iterdir():
                        if file != self._lock:
                            _remove(file)
                self.path.mkdir(parents=True, exist_ok=True)
                write_text(self._settings, json.dumps(settings, indent=2) + '\n')  # first: it makes a folder a run
                self.checkpoints.mkdir(exist_ok=True)
        except OSError as e:
            raise UserError(
                f'{self.path} cannot be written ({e.strerror}); choose another folder with --output.') from e

    def settings(self) -> Optional[Dict[str, Any]]:
        """What determined the run in this folder; a folder of the user's own, even with a settings.json in it, is none.
        """
        try:
            settings = json.loads(self._settings.read_text(encoding='utf-8'))
        except (OSError, ValueError, RecursionError):
            return None
        complete = isinstance(settings, dict) and settings.keys() >= {'source', 'recipe', 'model', 'seed'}
        return dict(settings) if complete else None

    def _settings_before(self) -> Dict[str, Any]:
        before = self.settings()
        if before is None:
            raise UserError(f'{self.path} exists and holds no run; choose another --name.')
        return before

    def save_model(self, model: nn.Module, class_names: Sequence[str]) -> None:
        """Weights and configuration as timm and transformers read them, `timm.create_model('local-dir:...')` for one.

        The model's `pretrained_cfg` says which preprocessing it needs.
        """
        tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        with whole_file(self.weights) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={'format': 'pt'})
        with whole_file(self.config) as temporary:
            save_config_for_hf(model, str(temporary), model_config={'label_names': list(class_names)})
            config = json.loads(temporary.read_text(encoding='utf-8'))
            # timm writes it twice, and transformers refuses a model that gets it both ways.
            config.get('model_args', {}).pop('num_classes', None)
            temporary.write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')

    def save_split(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """split.csv: which picture served for what; `names` hold `path`, `part` and `sha256`, of the picture's file."""
        write_rows(self._split, [names, *rows])

    def training_content(self) -> FrozenSet[str]:
        """SHA-256 of every picture that the model learned from or that its epoch was chosen by."""
        return frozenset(row['sha256'] for row in self._rows() if row['part'] != 'validation')

    def pictures(self, part: str) -> List[Dict[str, str]]:
        """Those of one part, 'train', 'held_out' or 'validation', with `path`, `label` and `sha256` each."""
        return [row for row in self._rows() if row['part'] == part]

    def find_pictures(self, part: str) -> List[Dict[str, str]]:
        """The same, but only those whose content is found, at the `path` where it lies now.

        Files of other content at the noted paths are not the run's pictures. What is not found there is looked for
        below the folder of the run's source.
        """
        rows = self.pictures(part)
        found: Dict[str, Path] = {}
        for row in rows:
            if _content(Path(row['path'])) == row['sha256']:
                found[row['sha256']] = Path(row['path'])
        missing = {row['sha256'] for row in rows} - found.keys()
        source = Path(str((self.settings() or {}).get('source', '')))
        folder = source if source.is_dir() else source.parent
        if missing and source.is_absolute() and source.exists():
            for path in _images_below(folder):
                found.setdefault(_content(path), path)
                if missing <= found.keys():
                    break
        return [{**row, 'path': str(found[row['sha256']])} for row in rows if row['sha256'] in found]

    def _rows(self) -> List[Dict[str, str]]:
        if not self._split.exists():  # a checkpoint that came without its run
            return []
        try:
            with self._split.open(newline='', encoding='utf-8') as file:
                rows = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as e:
            raise UserError(f'{self._split} cannot be read ({one_line(e)}); copy the run again.') from e
        if any(not row.get(key) for row in rows for key in ('path', 'part', 'sha256')):
            raise UserError(f'{self._split} is damaged (a line is incomplete); copy the run again.')
        return rows

    def save_predictions(self, predictions: Sequence[PicturePrediction]) -> None:
        """predictions.csv: every validation picture with its true and its predicted class."""
        names = [field.name for field in dataclasses.fields(PicturePrediction)]
        write_rows(self.path / 'predictions.csv', [names, *map(dataclasses.astuple, predictions)])

    def finish(self, result: Any) -> None:
        """Write metrics.json and remove what only a resumed run would need."""
        write_text(self.metrics, json.dumps(dataclasses.asdict(result), indent=2, allow_nan=False) + '\n')
        self._clean()

    def _clean(self) -> None:
        """Remove what only a resumed run would need, and what processes left that were killed while they wrote."""
        leftovers = [path for path in self.path.iterdir() if _TEMPORARY.fullmatch(path.name)]
        for leftover in (self.checkpoints, *leftovers):
            with suppress(OSError):
                _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return True


def run_name(source: str, *parts: str, seed: int) -> str:
    """A folder's name that tells the data, what sets the run apart, and the seed unless that is 0."""
    path = Path(os.path.abspath(source))  # of `.` too
    data = path.stem if path.suffix.lower() == '.csv' else path.name
    seeded = [f'seed{seed}'] if seed else []
    return '-'.join([data, *(part.replace('/', '-').replace(':', '-') for part in parts), *seeded])


def _images_below(folder: Path) -> Iterator[Path]:
    """Also behind links, each folder once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in sorted(names) if Path(name).suffix.lower() in IMAGE_SUFFIXES)


def _content(path: Path) -> str:
    """SHA-256 of a file; '' if it cannot be read."""
    try:
        if not path.is_file():  # a pipe would keep its reader waiting
            return ''
        with path.open('rb') as file:
            return sha256_of(file)
    except (OSError, ValueError):
        return ''


def _is_child() -> bool:
    """Whether Lightning started this process to train beside the one that the user started, which sees to files."""
    return os.environ.get('LOCAL_RANK', '0') != '0' or os.environ.get('NODE_RANK', '0') != '0'
