"""Writes the folders that `loader` reads, and opens them for the commands."""
import json
import shlex
import shutil
from pathlib import Path
from typing import Any, Dict, Sequence

from rsq_backbone.deploy import loader
from rsq_backbone.errors import UserError
from rsq_backbone.files import replaced_folder, set_aside, sha256_of

__all__ = ['LOADER', 'check_target', 'is_artifact', 'open_artifact', 'write_artifact']

LOADER = 'artifact.py'  # what the loader is called in the folder
_COMMANDS = {'classification': 'rsq predict', 'segmentation': 'python -m seg_demos.predict'}


def is_artifact(folder: Path) -> bool:
    return (folder / loader.CONFIG).is_file() and (folder / loader.CHECKSUMS).is_file()


def open_artifact(folder: Path, task: str, allow_code: bool) -> loader.Artifact:
    """The network in a folder.

    Args:
        folder: Of `rsq deploy`.
        task: 'classification' or 'segmentation'.
        allow_code: See `loader.load`.

    Raises:
        UserError: if it is damaged or for the other task, its runtime is missing or too old, or it could run code and
            that is not allowed.
    """
    try:
        artifact = loader.load(folder, allow_code=allow_code)
    except loader.ArtifactError as e:
        raise UserError(str(e)) from e
    if artifact.task != task:
        command = f'{_COMMANDS[artifact.task]} {shlex.quote(str(folder))} photo.jpg'
        raise UserError(f'{folder} is for {artifact.task}; {command} runs it.')
    return artifact


def check_target(folder: Path, overwrite: bool) -> None:
    """Raise a UserError unless an artifact may be written there."""
    if folder.exists() or folder.is_symlink():
        if not folder.is_dir() or folder.is_symlink() or not (is_artifact(folder) or not any(folder.iterdir())):
            raise UserError(f'{folder} exists and is no artifact; choose another --output.')
        if is_artifact(folder) and not overwrite:
            raise UserError(f'{folder} exists: replace it with --overwrite, or choose another --output.')
    before = set_aside(folder)
    if before.exists() and not is_artifact(before):
        raise UserError(f'{before} is in the way, and is not from here; move it, or choose another --output.')


def write_artifact(folder: Path, files: Sequence[Path], config: Dict[str, Any], overwrite: bool = False) -> None:
    """Write an artifact, which is there whole or not at all.

    Args:
        folder: To be made.
        files: Of the network, to be copied.
        config: What config.json is to say, without `format`.
        overwrite: Replace an artifact that is there.

    Raises:
        UserError: if something else is there, or the folder cannot be written.
    """
    check_target(folder, overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replaced_folder(folder) as temporary:
            _fill(temporary, files, config)
    except OSError as e:
        raise UserError(f'{folder} cannot be written ({e.strerror}); choose another --output.') from e


def _fill(folder: Path, files: Sequence[Path], config: Dict[str, Any]) -> None:
    for file in files:
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(loader.__file__, folder / LOADER)
    (folder / loader.CONFIG).write_text(
        json.dumps({'format': loader.FORMAT, **config}, indent=2, allow_nan=False) + '\n', encoding='utf-8')
    lines = []
    for file in sorted(folder.iterdir()):
        with file.open('rb') as stream:
            lines.append(f'{sha256_of(stream)}  {file.name}\n')
    (folder / loader.CHECKSUMS).write_text(''.join(lines), encoding='utf-8')
