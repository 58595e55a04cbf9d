"""rsq autoload: one file by which every program of an environment knows the networks, and which breaks none."""
import errno
import json
import os
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

import rsq_backbone
from rsq_backbone import autoload
from rsq_backbone.errors import UserError

PROJECT = Path(rsq_backbone.__file__).parents[1]
ASK = (
    'import json, sys; loaded = [name for name in ("rsq_backbone", "torch", "timm") if name in sys.modules]; '
    'import importlib.util as util; found = util.find_spec("timm"); '
    'print(json.dumps([loaded, "rsq_backbone" in sys.modules]))')


class Environment:
    """A virtual environment with rsq_backbone and nothing else."""

    def __init__(self, folder, variables, **options):
        venv.create(folder, symlinks=os.name == 'posix', **options)
        self.folder = folder
        self.executable = str(folder / ('bin/python' if os.name == 'posix' else 'Scripts/python.exe'))
        (self.site_packages,) = folder.rglob('site-packages')
        self.file = self.site_packages / autoload.FILE_NAME
        self.variables = {**variables, 'PYTHONPATH': ''}
        self.find(PROJECT)

    def find(self, *folders):
        (self.site_packages / 'project.pth').write_text(''.join(f'{folder}\n' for folder in folders))

    def python(self, *args, **variables):
        done = subprocess.run(
            [self.executable, *args], cwd=self.folder, env={**self.variables, **variables}, capture_output=True,
            text=True, timeout=200, check=False)
        return done.returncode, done.stdout, done.stderr

    def knows(self, *options):
        """Whether a program in which timm is looked for registers; all else about it has to be as ever."""
        code, out, err = self.python(*options, '-c', ASK)
        assert (code, err) == (0, '')
        loaded, registers = json.loads(out)
        assert loaded == []
        return registers

    def rsq(self, *args, **variables):
        """The command, whose own dependencies the environment need not hold."""
        code = f'import sys; sys.path += {sys.path!r}; from rsq_backbone.cli import main; main()'
        return self.python('-c', code, 'autoload', *args, **variables)

    def status(self, **variables):
        code, out, err = self.rsq('status', '--json', **variables)
        assert (code, err) == (0, '')
        return json.loads(out)


@pytest.fixture
def environment(tmp_path, child_environment):
    return Environment(tmp_path / 'environment', child_environment)


@pytest.fixture
def switched_on(environment):
    environment.file.write_text(autoload.FILE_TEXT)
    return environment


def test_on_and_off_write_and_remove_one_file_however_often(environment):
    before = sorted(environment.site_packages.iterdir())
    assert not environment.knows()
    for _ in range(2):
        code, out, err = environment.rsq('on')
        assert (code, err) == (0, '')
        assert out.startswith(f'autoload is on for {environment.executable}\n')
        assert str(environment.file) in out
        assert sorted(environment.site_packages.iterdir()) == sorted([*before, environment.file])
        assert environment.knows()
    for _ in range(2):
        code, out, err = environment.rsq('off')
        assert (code, err) == (0, '')
        assert out.startswith(f'autoload is off for {environment.executable}\n')
        assert sorted(environment.site_packages.iterdir()) == before
        assert not environment.knows()


def test_status_says_whether_by_what_and_for_whom(environment):
    off = dict(
        on=False, python=environment.executable, environment=str(environment.folder), files=[],
        package=str(PROJECT / 'rsq_backbone' / '__init__.py'), problem=None)
    assert environment.status() == off
    environment.rsq('on')
    assert environment.status() == {**off, 'on': True, 'files': [str(environment.file)]}
    code, out, _ = environment.rsq('status')
    assert code == 0
    assert str(environment.file) in out
    assert 'rsq autoload off' in out


@pytest.mark.parametrize('content', ['import rsq_backbone\n', '# emptied\n'])
def test_a_file_of_another_version_is_reported_repaired_and_removed(environment, content):
    environment.file.write_text(content)
    status = environment.status()
    assert status['files'] == [str(environment.file)]
    assert 'rsq autoload on' in status['problem']
    assert environment.rsq('on')[0] == 0
    assert environment.status()['problem'] is None
    assert environment.knows()
    environment.file.write_text(content)
    assert environment.rsq('off')[0] == 0
    assert not environment.file.exists()


def test_the_import_of_timm_or_smp_registers_in_programs_that_import_nothing_of_ours(switched_on, child_environment):
    frameworks = ('torch', 'timm', 'segmentation_models_pytorch')
    switched_on.find(PROJECT, *{Path(find_spec(name).origin).parents[1] for name in frameworks})
    code, out, err = switched_on.python('-W', 'error:::rsq_backbone', '-c', '''
import sys
assert not {"torch", "rsq_backbone"} & set(sys.modules)
import segmentation_models_pytorch as smp, timm
print(timm.list_models("res_squeezenet*"), smp.encoders.encoders["res_squeezenet_lite"]["encoder"].__name__)
print(type(timm.__loader__).__name__, type(timm.__spec__.loader).__name__)
''', PYTHONPATH=child_environment['PYTHONPATH'])
    assert code == 0, err
    assert out == (
        "['res_squeezenet', 'res_squeezenet_lite'] ResSqueezeNetEncoder\nSourceFileLoader SourceFileLoader\n")


@pytest.mark.parametrize('options', [
    (), ('-I',), ('-E',), ('-s',), ('-O',), ('-OO',), ('-W', 'error'), ('-X', 'dev'), ('-b', '-b')])
def test_python_starts_as_ever_whatever_its_options(switched_on, options):
    assert switched_on.knows(*options)


def test_python_without_site_packages_does_not_read_the_file(switched_on):
    assert not switched_on.knows('-S')


def test_programs_that_python_starts_in_other_ways_know_the_networks(switched_on):
    (switched_on.folder / 'program.py').write_text(f'''
import multiprocessing, subprocess, sys
def work(queue): import importlib.util; importlib.util.find_spec("timm"); queue.put("rsq_backbone" in sys.modules)
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(queue.get(timeout=60))
    process.join()
    print(subprocess.run([sys.executable, "-c", {ASK!r}], capture_output=True, text=True).stdout)
''')
    assert switched_on.python('program.py')[1:] == ('True\n[[], true]\n\n', '')


def test_a_sitecustomize_of_the_user_still_runs(switched_on):
    (switched_on.site_packages / 'sitecustomize.py').write_text('print("mine")')
    code, out, err = switched_on.python('-c', ASK)
    assert (code, out, err) == (0, 'mine\n[[], true]\n', '')


@pytest.mark.parametrize('left', ['nothing', 'folder', 'half', 'damaged'])
def test_once_the_package_is_gone_or_broken_every_program_runs_as_before(switched_on, left):
    switched_on.find()
    package = switched_on.site_packages / 'rsq_backbone'
    if left != 'nothing':
        package.mkdir()
    if left in ('half', 'damaged'):
        (package / '__init__.py').write_text('' if left == 'half' else 'raise SystemError("damaged")')
    (switched_on.site_packages / 'timm.py').write_text('ready = True')
    assert switched_on.python('-W', 'error', '-c', 'import timm; print(timm.ready)') == (0, 'True\n', '')


def test_without_timm_and_torch_nothing_fails_or_prints(switched_on):
    code = '''
from importlib.util import find_spec
for name in ("timm", "segmentation_models_pytorch", "torch"):
    assert find_spec(name) is None
    try: __import__(name)
    except ModuleNotFoundError as e: print(e)
'''
    assert switched_on.python('-W', 'error', '-c', code) == (0, (
        "No module named 'timm'\nNo module named 'segmentation_models_pytorch'\nNo module named 'torch'\n"), '')


def test_a_timm_that_does_not_fit_is_imported_all_the_same_with_a_warning_that_names_the_way_out(switched_on):
    (switched_on.site_packages / 'timm.py').write_text('ready = True')
    (switched_on.folder / 'program.py').write_text('import timm\nprint(timm.ready)')
    code, out, err = switched_on.python('program.py')
    assert (code, out) == (0, 'True\n')
    assert 'program.py:1: RuntimeWarning: rsq_backbone could not register its networks with timm' in err
    assert 'rsq autoload off' in err
    code, _, err = switched_on.python('-c', 'import rsq_backbone, timm')  # who asks for the networks gets the error
    assert code == 1
    assert err.startswith('Traceback')


def test_a_copy_of_the_package_beside_the_program_comes_first_as_ever(switched_on):
    """For who works on a clone of it in an environment that has another."""
    copy = switched_on.folder / 'clone' / 'rsq_backbone'
    copy.mkdir(parents=True)
    (copy / '__init__.py').touch()
    (copy / '_autoloaded.py').write_text('find_spec = lambda *args: print("of the clone")')
    (switched_on.folder / 'clone' / 'program.py').write_text('import importlib.util as u; u.find_spec("timm")')
    assert switched_on.python('clone/program.py')[1:] == ('of the clone\n', '')


def test_an_environment_above_the_one_that_holds_the_package_works_too(tmp_path, child_environment):
    """Python reads its .pth files before it knows the folders of the environment below."""
    user = {**child_environment, 'PYTHONUSERBASE': str(tmp_path / 'user')}
    above = Environment(tmp_path / 'above', user, system_site_packages=True)
    above.find()
    _user_site(above).mkdir(parents=True)
    (_user_site(above) / 'project.pth').write_text(f'{PROJECT}\n')
    assert above.rsq('on')[0] == 0
    assert above.knows()


def _user_site(environment):
    return Path(environment.python('-m', 'site', '--user-site')[1].strip())


def test_the_user_s_own_site_packages_serve_where_python_reads_them(tmp_path, child_environment):
    user = {**child_environment, 'PYTHONUSERBASE': str(tmp_path / 'user')}
    reads = Environment(tmp_path / 'reads', user, system_site_packages=True)
    code, out, err = reads.rsq('on', '--user')
    assert (code, err) == (0, '')
    file = _user_site(reads) / autoload.FILE_NAME
    assert str(file) in out
    assert file.is_file()
    assert not reads.file.exists()
    assert reads.knows()
    assert not reads.knows('-s')
    assert reads.rsq('off')[0] == 0
    assert not file.exists()


def test_a_virtual_environment_that_does_not_read_the_user_s_site_packages_refuses_them(environment):
    code, out, err = environment.rsq('on', '--user')
    assert (code, out) == (2, '')
    assert err.count('\n') == 1
    assert 'leave out --user' in err


def test_a_package_that_other_programs_would_not_find_is_refused(environment):
    environment.find()
    code, out, err = environment.rsq('on', PYTHONPATH=str(PROJECT))
    assert (code, out) == (2, '')
    assert err.count('\n') == 1
    assert 'pip install' in err
    assert not environment.file.exists()
    environment.file.write_text(autoload.FILE_TEXT)
    status = environment.status(PYTHONPATH=str(PROJECT))
    assert (status['on'], status['package']) == (False, None)
    assert 'rsq autoload off' in status['problem']


@pytest.fixture
def read_only(monkeypatch, tmp_path):
    """Site-packages that cannot be written; as root, to whom everything is permitted, too."""
    folder = tmp_path / 'site-packages'
    folder.mkdir()

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(autoload, '_environment_folder', lambda: folder)
    monkeypatch.setattr('rsq_backbone.files.tempfile.mkstemp', refuse)
    monkeypatch.setattr(autoload, '_ask_fresh_process', lambda: {'on': False, 'package': 'here'})
    return folder


def test_site_packages_that_cannot_be_written_are_refused_with_a_way_that_works(read_only, refused, monkeypatch):
    monkeypatch.setattr('site.ENABLE_USER_SITE', False)
    line = refused('autoload', 'on')
    assert f'{read_only} cannot be written (Permission denied)' in line
    assert 'python -m rsq_backbone SCRIPT' in line
    assert '--user' not in line


@pytest.mark.parametrize('writable', [True, False])
def test_the_user_s_site_packages_are_named_only_where_they_would_do(
        read_only, refused, monkeypatch, tmp_path, writable):
    monkeypatch.setattr('site.ENABLE_USER_SITE', True)
    base = tmp_path / 'user'
    if not writable:
        base.write_text('not a folder')
    monkeypatch.setattr('site.getusersitepackages', lambda: str(base / 'site-packages'))
    line = refused('autoload', 'on')
    assert (f'"rsq autoload on --user" writes to {base / "site-packages"}' in line) == writable


def test_a_file_of_the_environment_below_is_named_and_left_alone(refused, monkeypatch, tmp_path):
    below = tmp_path / 'below'
    below.mkdir()
    (below / autoload.FILE_NAME).write_text(autoload.FILE_TEXT)
    monkeypatch.setattr(autoload, '_environment_folder', lambda: tmp_path)
    monkeypatch.setattr('site.ENABLE_USER_SITE', False)
    monkeypatch.setattr('site.getsitepackages', lambda: [str(below)])
    assert str(below / autoload.FILE_NAME) in refused('autoload', 'off')
    assert (below / autoload.FILE_NAME).is_file()


def test_a_file_that_python_would_not_run_is_not_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(autoload, '_environment_folder', lambda: tmp_path)  # which this Python does not look into
    with pytest.raises(UserError, match='does not run'):
        autoload.switch_on()
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_there_as_a_whole_or_not_at_all(monkeypatch, tmp_path):
    """Python reads whatever ends in .pth, from any process that starts meanwhile."""
    seen = []
    replace = Path.replace

    def watch(self, target):
        seen.append({path.name: path.suffix for path in tmp_path.iterdir()})
        if Path(target).suffix == '.pth':
            raise OSError(errno.ENOSPC, 'No space left on device')
        return replace(self, target)

    monkeypatch.setattr(autoload, '_environment_folder', lambda: tmp_path)
    monkeypatch.setattr(Path, 'replace', watch)
    with pytest.raises(UserError, match='No space left'):
        autoload.switch_on()
    assert seen
    assert all('.pth' not in suffixes.values() for suffixes in seen)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_one_that_every_python_reads():
    """In any encoding; comments, and one line that Python executes since it begins with import."""
    lines = autoload.FILE_TEXT.encode('ascii').decode().splitlines()
    assert [line[:7] for line in lines if not line.startswith('#')] == ['import ']
    assert autoload.FILE_NAME > '__editable__.rsq_backbone-0.1.0.pth'  # read in this order
