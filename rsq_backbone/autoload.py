"""One file in site-packages by which timm and smp know the networks in every program of a Python environment.

Python runs the lines of `.pth` files in site-packages that begin with `import` whenever it starts (see its module
`site`). Ours imports nothing: it puts a finder in front of Python's own that waits for the import of timm or smp and
imports this package then. So it costs next to nothing in other programs, works wherever the package lies once the
program runs (in the environment, in the one below it, beside the program), and does nothing where the package is gone.
Python 3.18 and newer ignore such lines (PEP 829); `status` says so then, since it asks a fresh process.
"""
import json
import os
import site
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import write_text

__all__ = ['FILE_NAME', 'FILE_TEXT', 'Status', 'status', 'switch_off', 'switch_on']

FILE_NAME = 'rsq_backbone_autoload.pth'

_FINDER = '''
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("timm", "segmentation_models_pytorch") and "rsq_backbone" not in sys.modules:
            try:
                from rsq_backbone import _autoloaded
                return _autoloaded.find_spec(name, path, target)
            except Exception:
                return None
import sys
sys.meta_path.insert(0, Finder)
'''
_FINDER_MODULE = 'rsq_backbone_autoload'  # what the finder gives as its module; there is none of this name
# In ASCII, since Python versions differ in the encoding that they read.
FILE_TEXT = f'''\
# Written by "rsq autoload on". In every program of this environment the import of timm or segmentation_models_pytorch
# registers the networks of rsq_backbone too; until then nothing is imported, and without the package nothing happens.
# To undo: "rsq autoload off", or delete this file.
import sys; exec({_FINDER!r}, {{"__name__": {_FINDER_MODULE!r}}})
'''
_PROBE = f'''
import importlib.util, json, sys
package = importlib.util.find_spec("rsq_backbone")
finder = any(getattr(one, "__module__", "") == {_FINDER_MODULE!r} for one in sys.meta_path)
importlib.util.find_spec("timm")
print(json.dumps({{"package": package and package.origin, "on": finder and "rsq_backbone" in sys.modules}}))
'''


@dataclass(frozen=True)
class Status:
    """Whether the networks are known in every program of the environment that runs this.

    Attributes:
        on: Whether a fresh process of this Python registers them by itself.
        python: The interpreter.
        environment: Its folder, `sys.prefix`.
        files: Every file of this kind that it reads when it starts; in another environment's folder too, where this
            environment includes that.
        package: The copy of rsq_backbone that a fresh process finds, or None.
        problem: What is wrong, with the remedy, or None.
    """

    on: bool
    python: str
    environment: str
    files: Tuple[str, ...]
    package: Optional[str]
    problem: Optional[str]


def status() -> Status:
    """Asks a fresh process of this Python, so it says what is the case and not what ought to be."""
    files = tuple(str(folder / FILE_NAME) for folder in _site_folders() if (folder / FILE_NAME).is_file())
    found = _ask_fresh_process()
    on, package = bool(found.get('on')), found.get('package')
    return Status(on, sys.executable, sys.prefix, files, package, _problem(on, files, package, found.get('error')))


def switch_on(user: bool = False) -> Status:
    """Write the file into the site-packages of this environment; where it is there already, only look that it works.

    Args:
        user: Write into the user's own site-packages instead, for all environments of this Python version that read it.

    Raises:
        UserError: where the file cannot be written, would not be read, or would not find the package.
    """
    if user and not site.ENABLE_USER_SITE:
        raise UserError(
            f'{sys.executable} does not read the site-packages of users (a virtual environment without system '
            'site-packages, or Python run with -s or -I); leave out --user.')
    if _ask_fresh_process().get('package') is None:
        raise UserError(
            f'other programs of {sys.executable} do not find rsq_backbone, which was imported from '
            f'{Path(__file__).parent} this time; install it into this environment first (pip install).')
    file = _user_folder() / FILE_NAME if user else _environment_folder() / FILE_NAME
    written = not _is_current(file)
    if written:
        try:
            _write(file)
        except OSError as e:
            raise UserError(_cannot_write(file.parent, e, user)) from e
    result = status()
    if not result.on:
        if written:
            file.unlink(missing_ok=True)
        raise UserError(
            f'{sys.executable} does not run {file} when it starts; it was removed again. Run programs by '
            '"python -m rsq_backbone SCRIPT" instead.')
    return result


def switch_off() -> Status:
    """Remove the file from the site-packages of this environment and from the user's own, where this Python reads it.

    Raises:
        UserError: where a file cannot be removed, or one in the folder of another environment keeps it on.
    """
    folders = [_environment_folder()]
    if site.ENABLE_USER_SITE:
        folders.append(_user_folder())
    for folder in folders:
        try:
            (folder / FILE_NAME).unlink(missing_ok=True)
        except OSError as e:
            raise UserError(
                f'{folder / FILE_NAME} cannot be removed ({e.strerror}); its owner can delete it.') from e
    result = status()
    if result.files:
        raise UserError(
            f'still on by {", ".join(result.files)}, in another environment that {sys.prefix} includes; switch it off '
            'there.')
    return result


def _environment_folder() -> Path:
    return Path(sysconfig.get_path('purelib'))


def _user_folder() -> Path:
    return Path(site.getusersitepackages())


def _site_folders() -> List[Path]:
    """Where this Python looks for .pth files when it starts, each once."""
    folders = [_environment_folder(), *map(Path, site.getsitepackages())]
    if site.ENABLE_USER_SITE:
        folders.append(_user_folder())
    return list({os.path.realpath(folder): folder for folder in reversed(folders)}.values())[::-1]


def _is_current(file: Path) -> bool:
    try:
        return file.read_text(encoding='utf-8', errors='replace') == FILE_TEXT
    except OSError:
        return False


def _write(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Under another suffix at first: a Python that starts in between reads every file that ends in .pth.
    new = file.with_suffix(f'.{os.getpid()}')
    write_text(new, FILE_TEXT)
    try:
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _cannot_write(folder: Path, error: OSError, user: bool) -> str:
    ways = ['run programs by "python -m rsq_backbone SCRIPT", which needs no file']
    if not user and site.ENABLE_USER_SITE and _could_write(_user_folder()):
        ways.insert(0, f'"rsq autoload on --user" writes to {_user_folder()} instead')
    return f'{folder} cannot be written ({error.strerror}); ' + ', or '.join(ways) + '.'


def _could_write(folder: Path) -> bool:
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _ask_fresh_process() -> Dict[str, Any]:
    """What other programs of this Python find: `on` and `package`, or `error`."""
    # Neither the current folder nor PYTHONPATH, which other programs need not share.
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [sys.executable, '-c', _PROBE], cwd=empty, env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, errors='replace', timeout=60, check=True)
            found: Dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        except subprocess.CalledProcessError as e:
            return {'error': (e.stderr.strip().splitlines() or [f'exit code {e.returncode}'])[-1]}
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as e:
            return {'error': one_line(e)}
    return found


def _problem(on: bool, files: Tuple[str, ...], package: Optional[str], error: Optional[str]) -> Optional[str]:
    if error is not None:
        return f'{sys.executable} cannot be asked: {error}'
    if not files:
        return None
    if package is None:
        return (
            'a fresh Python does not find rsq_backbone, so the file does nothing; install it into this environment, '
            'or remove the file by "rsq autoload off".')
    stale = [file for file in files if not _is_current(Path(file))]
    if stale:
        return f'{", ".join(stale)} is damaged or of another version; "rsq autoload on" writes it anew.'
    if not on:
        return 'Python does not run the file when it starts.'
    return None
