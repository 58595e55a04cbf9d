"""python -m rsq_backbone runs a program as python does, with the networks known."""
import json
import os
import py_compile
import subprocess
import sys
import textwrap
import zipfile

import pytest

from rsq_backbone import autoload

SEEN = '''
import json, sys
print(json.dumps([
    sys.argv, sys.path, __file__, __name__, __package__, __spec__ and __spec__.name, type(__loader__).__name__,
    type(__builtins__).__name__, sys.modules['__main__'].__dict__ is globals(), sys.stdin.read()]))
'''
SAFE_PATH = pytest.param('-P', marks=pytest.mark.skipif(sys.version_info < (3, 11), reason='-P came with Python 3.11'))


@pytest.fixture
def python(tmp_path, child_environment):
    """Run Python in a folder of programs; gives exit code, standard output, standard error."""

    def run(*args, stdin=''):
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, env=child_environment, input=stdin, capture_output=True, text=True,
            timeout=200, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def program(tmp_path):
    """Write a program; gives its path as a user would type it."""

    def write(code, name='program.py'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(code))
        return name

    return write


def seen(outcome):
    code, out, err = outcome
    assert (code, err) == (0, '')
    return json.loads(out)


@pytest.fixture
def programs(program, tmp_path):
    """The same program in every shape that Python runs."""
    program(SEEN, 'folder/program.py')
    program(SEEN, 'folder/__main__.py')
    py_compile.compile(str(tmp_path / 'folder' / 'program.py'), str(tmp_path / 'compiled.pyc'))
    with zipfile.ZipFile(tmp_path / 'archive.zip', 'w') as archive:
        archive.write(tmp_path / 'folder' / '__main__.py', '__main__.py')
    if sys.platform != 'win32':
        (tmp_path / 'link.py').symlink_to(tmp_path / 'folder' / 'program.py')


@pytest.mark.usefixtures('programs')
@pytest.mark.parametrize('path', ['folder/program.py', 'folder', 'link.py', 'compiled.pyc', 'archive.zip'])
@pytest.mark.parametrize('option', ['-B', '-I', SAFE_PATH])
def test_a_path_is_run_as_python_runs_it(python, path, option):
    if path == 'link.py' and sys.platform == 'win32':
        pytest.skip('links need a privilege on Windows')
    args = (path, '--help', '-m', '', 'a b')  # none of them is for us
    expected = seen(python(option, *args, stdin='piped'))
    assert seen(python(option, '-m', 'rsq_backbone', *args, stdin='piped')) == expected
    assert expected[0] == list(args)


def test_a_module_is_run_as_python_runs_it(python, program):
    program(SEEN, 'package/__main__.py')
    program(SEEN, 'package/inner.py')
    program(SEEN, 'single.py')
    for name in ('package', 'package.inner', 'package.__main__', 'single'):
        expected = seen(python('-m', name, '--help', stdin='piped'))
        assert seen(python('-m', 'rsq_backbone', '-m', name, '--help', stdin='piped')) == expected


ENDINGS = {
    'exit code': 'import sys; sys.exit(7)',
    'message': 'import sys; sys.exit("that is all")',
    'error': '''
        def outer(): inner()
        def inner():
            try: 1 / 0
            except ZeroDivisionError as e: raise ValueError("chained") from e
        outer()''',
    'error under a hook of its own': '''
        import sys, traceback
        def hook(kind, error, tb):
            for one in (tb, error.__traceback__):
                print("own hook", kind, [(f.filename, f.name) for f in traceback.extract_tb(one)])
        sys.excepthook = hook
        open("missing")''',
    'Ctrl-C': 'raise KeyboardInterrupt',
    'syntax error': 'x = (',
    'error below runpy': '''
        import runpy
        runpy.run_path("raises.py")''',
    'exit handlers and threads': '''
        import atexit, sys, threading, time
        def late(): time.sleep(0.2); print("thread", sys.modules["__main__"].late is late, sys.argv)
        threading.Thread(target=late).start()
        atexit.register(lambda: print("exit", sys.modules["__main__"].late is late, sys.argv))''',
}


@pytest.mark.parametrize('ending', ENDINGS)
def test_a_program_ends_as_it_ends_under_python(python, program, ending):
    program('raise OSError("within runpy")', 'raises.py')
    path = program(ENDINGS[ending])
    expected = python(path)
    assert python('-m', 'rsq_backbone', path) == expected
    if ending == 'Ctrl-C' and os.name == 'posix':
        assert expected[0] == -2  # ended by the signal, which a shell stops its loop for


def test_tracebacks_of_a_module_begin_in_the_module(python, program):
    program('raise ValueError("here")', 'package/__main__.py')
    code, out, err = python('-m', 'rsq_backbone', '-m', 'package')
    assert (code, out) == (1, '')
    assert err.splitlines()[0] == 'Traceback (most recent call last):'
    assert err.splitlines()[1].strip().endswith('package' + os.sep + '__main__.py", line 1, in <module>')


def test_a_module_whose_own_import_fails_is_not_called_missing(python, program):
    program('import absent', 'package/__init__.py')
    program('', 'package/__main__.py')
    for name in ('package', 'package.inner'):
        code, out, err = python('-m', 'rsq_backbone', '-m', name)
        assert (code, out) == (1, '')
        assert err.startswith('Traceback')
        assert err.endswith("ModuleNotFoundError: No module named 'absent'\n")


@pytest.mark.parametrize(('args', 'remedy'), [
    (('missing.py',), 'give the path of a Python program'),
    (('empty',), 'give the path of one of its files'),
    (('empty.zip',), 'give the path of one of its files'),
    (('-m',), 'needs the name of a module'),
    (('-m', 'missing'), 'install it'),
    (('-m', 'package.missing'), 'install it'),
    (('-m', '.program'), 'install it'),
    (('-m', 'package'), 'name one of its modules'),
    (('-m', 'program.py'), 'leave out -m: python -m rsq_backbone program.py'),
    (('--model', 'res_squeezenet'), 'the program comes first'),
    (('-W', 'error', 'program.py'), 'come before -m rsq_backbone'),
])
def test_what_cannot_be_run_gets_one_line_with_the_remedy_and_exit_code_2(python, program, tmp_path, args, remedy):
    program('print("ran")')
    program('', 'package/__init__.py')
    (tmp_path / 'empty').mkdir()
    zipfile.ZipFile(tmp_path / 'empty.zip', 'w').close()
    code, out, err = python('-m', 'rsq_backbone', *args)
    assert (code, out) == (2, '')
    assert err.startswith('rsq_backbone: ')
    assert err.count('\n') == 1
    assert remedy in err


def test_help_explains_itself_and_so_does_silence(python):
    code, out, err = python('-m', 'rsq_backbone', '--help')
    assert (code, err) == (0, '')
    assert out.count('python -m rsq_backbone ') > 6
    assert max(map(len, out.splitlines())) <= 100
    assert python('-m', 'rsq_backbone', '-h') == (0, out, '')
    assert python('-m', 'rsq_backbone') == (2, out, '')


def test_launching_loads_no_framework(python, program):
    path = program('import sys; print({"torch", "timm", "numpy", "typer", "multiprocessing"} & set(sys.modules))')
    assert python('-m', 'rsq_backbone', path) == (0, 'set()\n', '')


def test_processes_of_every_start_method_have_the_package(python, program):
    """Also where the program does its work somewhere else, from where the package cannot be found."""
    path = program('''
        import multiprocessing, os, sys

        def work(queue):
            queue.put("rsq_backbone" in sys.modules)

        if __name__ == "__main__":
            os.mkdir("elsewhere")
            os.chdir("elsewhere")
            for method in multiprocessing.get_all_start_methods():
                context = multiprocessing.get_context(method)
                queue = context.Queue()
                process = context.Process(target=work, args=(queue,))
                process.start()
                print(queue.get(timeout=60))
                process.join()
    ''')
    code, out, err = python('-m', 'rsq_backbone', path)
    assert (code, err) == (0, '')
    assert set(out.split()) == {'True'}


def test_the_networks_are_known_to_the_program_and_to_the_workers_of_its_data_loader(python, program):
    if autoload.status().on:
        pytest.skip('rsq autoload is on here, so every program knows the networks')
    path = program('''
        import sys, timm, torch

        class Sizes(torch.utils.data.Dataset):
            def __len__(self):
                return 2

            def __getitem__(self, i):
                return sum(p.numel() for p in timm.create_model("res_squeezenet", num_classes=9).parameters())

        if __name__ == "__main__":
            print(timm.create_model(sys.argv[1], pretrained=True)(torch.rand(1, 3, 64, 64)).shape)
            loader = torch.utils.data.DataLoader(Sizes(), 2, num_workers=1, multiprocessing_context="spawn")
            print(next(iter(loader)).tolist())
    ''')
    code, out, err = python('-m', 'rsq_backbone', path, 'res_squeezenet_lite')
    assert code == 0, err
    assert out == 'torch.Size([1, 1000])\n[10431561, 10431561]\n'


@pytest.mark.slow
def test_torchrun_starts_a_program_in_processes_that_know_the_networks(program, child_environment, tmp_path):
    path = program('''
        import os, timm, torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        torch.manual_seed(dist.get_rank())  # DDP starts all from the first one's weights
        model = torch.nn.parallel.DistributedDataParallel(timm.create_model("res_squeezenet_lite", num_classes=3))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(2):
            loss = torch.nn.functional.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.tensor([0, 2]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        own = torch.cat([p.detach().flatten() for p in model.parameters()])
        others = [torch.empty_like(own) for _ in range(2)]
        dist.all_gather(others, own)
        print(dist.get_rank(), all(torch.equal(own, other) for other in others), flush=True)
        dist.destroy_process_group()
    ''')
    del child_environment['PYTHONPATH']  # torchrun looks up this machine's own name
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
         '-m', 'rsq_backbone', path], cwd=tmp_path, env={**child_environment, 'OMP_NUM_THREADS': '1'},
        capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ['0 True', '1 True']
