"""What every test stands on: no network, no user's cache, and the package registered with timm and smp."""
import atexit
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

# Set before anything imports huggingface_hub, which reads them once. Workers of pytest-xdist get a folder each.
assert 'huggingface_hub' not in sys.modules, 'huggingface_hub was imported before tests/conftest.py could set HF_HOME'
_HF_HOME = tempfile.mkdtemp(prefix='rsq-hf-home-')
atexit.register(shutil.rmtree, _HF_HOME, ignore_errors=True)
for _name in ('HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_ASSETS_CACHE', 'HF_XET_CACHE'):
    os.environ.pop(_name, None)
os.environ.update(HF_HOME=_HF_HOME, HF_HUB_OFFLINE='1', HF_HUB_DISABLE_TELEMETRY='1', ORT_DISABLE_TELEMETRY='1')

import rsq_backbone  # noqa: E402, F401


def refuse_network(on_attempt: Callable[[str], None]) -> None:
    """Report and refuse every outgoing connection and name look-up of this process.

    Unix sockets still work, and so do servers on this machine that are named by their address.
    `run_python` sends this function's source into child processes.
    """
    import socket

    def stays_here(*args: Any) -> bool:
        if args and isinstance(args[0], socket.socket):
            if args[0].family == getattr(socket, 'AF_UNIX', None):
                return True
            args = args[-1:]  # the address is what connect and sendto have last, the others first
        host = args[0] if args else None
        return (host[0] if isinstance(host, tuple) else host) in ('127.0.0.1', '::1')

    def guard(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not stays_here(*args):
                on_attempt(f'{name}{args!r}')
            return original(*args, **kwargs)

        setattr(owner, name, guarded)

    for name in ('connect', 'connect_ex', 'sendto'):
        guard(socket.socket, name)
    for name in ('getaddrinfo', 'gethostbyname', 'create_connection'):
        guard(socket, name)


class _NetworkGate:
    """Shut unless a test opens it. Code under test may swallow the exception, so attempts are also written down."""

    def __init__(self) -> None:
        self.open = False
        self.attempts: List[str] = []

    def attempt(self, what: str) -> None:
        if not self.open:
            self.attempts.append(what)
            raise OSError(f'tests may not use the network: {what}')


_gate = _NetworkGate()
refuse_network(_gate.attempt)  # from here on, so that fixtures of any scope and collection itself are covered too


@pytest.fixture(autouse=True)
def network_gate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Shut for every test except those marked `network`. A test that tried to pass it fails, caught or not."""
    online = request.node.get_closest_marker('network') is not None
    if online:
        monkeypatch.delenv('HF_HUB_OFFLINE')
        if 'huggingface_hub' in sys.modules:
            monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    _gate.open = online
    _gate.attempts.clear()
    yield _gate
    _gate.open = False
    assert not _gate.attempts, f'the network was asked for: {_gate.attempts}'


RunPython = Callable[..., 'subprocess.CompletedProcess[str]']

_CHILD_PRELUDE = f'''
from typing import Any, Callable
{inspect.getsource(refuse_network)}
def _die(what):
    import os
    os.write(2, ("the network was asked for: " + what).encode())
    os._exit(97)

refuse_network(_die)
'''


@pytest.fixture(scope='session', autouse=True)
def torch_at_first() -> Tuple[Any, int]:
    """The module, which a test may have taken away, and its number of threads."""
    import torch

    return torch, torch.get_num_threads()


@pytest.fixture(autouse=True)
def torch_settings_afterwards(torch_at_first: Tuple[Any, int]) -> Iterator[None]:
    """As at first: inference runtimes set them for the whole process, and training would end in other bits."""
    yield
    torch, threads = torch_at_first
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Run code in a fresh Python with an empty hub cache; a try to reach the network ends it with status 97.

    As on a user's machine the hub's client is not told to stay offline, which would keep it from trying.
    """

    def run(code: str, *args: str, options: tuple = (), check: bool = True) -> 'subprocess.CompletedProcess[str]':
        env = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'COV_', 'HF_'))}
        env['HF_HOME'] = str(tmp_path / 'hf-home')
        done = subprocess.run(
            [sys.executable, *options, '-c', _CHILD_PRELUDE + textwrap.dedent(code), *args],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
        if check and done.returncode:
            pytest.fail(f'status {done.returncode}\n{done.stdout}\n{done.stderr}')
        return done

    return run


@pytest.fixture
def child_environment(tmp_path: Path) -> Dict[str, str]:
    """Variables for a program that starts others: an empty hub cache, and no network for any Python below it."""
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / 'sitecustomize.py').write_text(_CHILD_PRELUDE)
    env = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'COV_', 'HF_'))}
    return {
        **env, 'HF_HOME': str(tmp_path / 'hf-home'), 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': str(tmp_path / 'site')}


@pytest.fixture(autouse=True)
def nothing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands do not report slow steps, however busy this machine is: what they print is then always the same."""
    monkeypatch.setattr('rsq_backbone.cli._progress._SHORT', float('inf'))


@pytest.fixture
def rsq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Tuple[Any, str, str]]:
    """Run the command in this process; gives exit code, standard output, standard error."""
    from rsq_backbone.cli import main

    def run(*args: Any) -> Tuple[Any, str, str]:
        monkeypatch.setattr(sys, 'argv', ['rsq', *map(str, args)])
        code: Any = 0
        try:
            main()
        except SystemExit as e:
            code = e.code or 0
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(rsq: Callable[..., Tuple[Any, str, str]]) -> Callable[..., str]:
    """Run a command that the user has to mend; gives the one line that says how."""

    def run(*args: Any) -> str:
        code, out, err = rsq(*args)
        assert (code, out) == (2, ''), (code, out, err)
        assert err.startswith('rsq: '), err
        assert err.count('\n') == 1, err
        return err

    return run


@pytest.fixture
def rsq_data() -> Path:
    """Folder of the downloaded data sets, named by the environment variable RSQ_DATA."""
    folder = os.environ.get('RSQ_DATA')
    if not folder:
        pytest.skip('RSQ_DATA is not set: it should name the folder that holds the data sets')
    if not Path(folder).is_dir():
        pytest.skip(f'RSQ_DATA={folder} is not a folder')
    return Path(folder)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> List[Any]:
    """The figures that are saved, for a look at what they say."""
    from matplotlib.figure import Figure

    figures: List[Any] = []
    save = Figure.savefig

    def keep(figure: Any, *args: Any, **kwargs: Any) -> Any:
        figures.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, 'savefig', keep)
    return figures
