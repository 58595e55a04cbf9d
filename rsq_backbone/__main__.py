"""python -m rsq_backbone SCRIPT: run any Python program with the networks registered.

Importing this package, which `-m` has done by now, is all the registration there is. The rest of this file makes the
program believe that Python started it itself. A module runs by `runpy`; a file, folder or zip file does not, since
`runpy.run_path` gives a program one path as `sys.argv[0]` and as `__file__` (Python leaves the first as typed and makes
the second absolute), no loader, and no `__main__` any more when its threads and exit handlers run.
"""
import builtins
import importlib.util
import io
import os
import runpy
import sys
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from pkgutil import get_importer
from types import CodeType, ModuleType, TracebackType
from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple, Type, cast

from rsq_backbone._import_hooks import when_imported

_LAUNCHING = (__file__, runpy.__file__, importlib.util.__file__)  # files that a traceback leaves out at its beginning
_HELP = '''\
Usage: python -m rsq_backbone SCRIPT [ARGUMENT]...
       python -m rsq_backbone -m MODULE [ARGUMENT]...

Run a Python program, unchanged, with res_squeezenet and res_squeezenet_lite known to timm and
segmentation_models_pytorch. SCRIPT is a file, a folder or a zip file with a __main__.py; MODULE is
found as by python -m. Everything after it goes to the program, which runs as if Python had
started it: same arguments, paths, standard input, exit code and error messages.

Examples, in a clone of timm's repository (github.com/huggingface/pytorch-image-models):

  python -m rsq_backbone validate.py photos/ --model res_squeezenet --pretrained --device cpu
  python -m rsq_backbone benchmark.py --model res_squeezenet --device cpu --bench inference -b 8
  python -m rsq_backbone inference.py photos/ --model res_squeezenet --pretrained --device cpu
  python -m rsq_backbone onnx_export.py res_squeezenet.onnx --model res_squeezenet
  python -m rsq_backbone train.py photos/ --model res_squeezenet_lite --pretrained --num-classes 9

A module; one program in two processes; options of Python itself, which come before -m:

  python -m rsq_backbone -m pytest tests/
  torchrun --nproc-per-node 2 -m rsq_backbone my_training.py --model res_squeezenet
  python -W error -m rsq_backbone my_training.py

Processes that the program starts by multiprocessing (PyTorch's data loaders, torch.multiprocessing)
know the networks too. Programs that it starts by a command line of their own do not. For these, and
for notebooks and other people's commands, "rsq autoload on" makes the networks known everywhere.
'''


def main(arguments: List[str]) -> None:
    if not arguments or arguments[0] in ('-h', '--help'):
        print(_HELP, end='')
        sys.exit(0 if arguments else 2)
    when_imported('multiprocessing.spawn', _register_in_spawned_processes)
    try:
        if arguments[0] == '-m':
            _run_module(arguments)
        elif arguments[0].startswith('-'):
            _refuse(
                f'unknown option {arguments[0]}; the program comes first, then its own options, and options of Python '
                'come before -m rsq_backbone ("python -m rsq_backbone --help" has examples).')
        else:
            _run_path(arguments)
    except BaseException:
        _hide_launcher_in_traceback()
        raise


def _refuse(message: str) -> NoReturn:
    print(f'rsq_backbone: {message}', file=sys.stderr)
    sys.exit(2)


def _run_module(arguments: List[str]) -> None:
    """As `python -m`: the current folder stays the first entry of sys.path."""
    if len(arguments) == 1:
        _refuse('-m needs the name of a module, as in "python -m rsq_backbone -m pytest".')
    name = arguments[1]
    sys.argv[:] = ['-m', *arguments[2:]]
    _check_module(name)
    runpy.run_module(name, {'__builtins__': builtins}, '__main__', alter_sys=True)


def _check_module(name: str) -> None:
    if name.endswith('.py') and os.path.isfile(name):
        _refuse(f'{name} is a file; leave out -m: python -m rsq_backbone {name}')
    spec = None
    if name and not name.startswith('.'):
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations is not None:
                spec = importlib.util.find_spec(f'{name}.__main__')
                if spec is None:
                    _refuse(f'{name} is a package without a __main__.py; name one of its modules.')
        except ModuleNotFoundError as e:
            if e.name is None or not f'{name}.'.startswith(f'{e.name}.'):  # something that the package imports
                raise
    if spec is None:
        _refuse(
            f'no module named {name}; install it into the environment of {sys.executable}, or run this in the folder '
            'that holds it.')


def _run_path(arguments: List[str]) -> None:
    """As `python PATH`: a file's folder, or else PATH itself, is the first entry of sys.path."""
    path = os.path.abspath(arguments[0])
    importer = get_importer(path)  # none for a plain file
    module, code = _open_file(path) if importer is None else _open_folder(path, importer)
    safe_path = getattr(sys.flags, 'safe_path', bool(sys.flags.isolated))  # python -P; 3.10 knows only -I
    if not safe_path:
        del sys.path[0]  # the current folder, because of -m
    if importer is not None:
        sys.path.insert(0, path)
    elif not safe_path:
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    sys.argv[:] = arguments
    sys.modules['__main__'] = module
    module.__dict__['__builtins__'] = builtins
    exec(code, module.__dict__)


def _open_file(path: str) -> Tuple[ModuleType, CodeType]:
    module = ModuleType('__main__')
    module.__file__ = path
    try:
        if path.endswith('.pyc'):
            module.__loader__ = compiled = SourcelessFileLoader('__main__', path)
            return module, cast(CodeType, compiled.get_code('__main__'))
        module.__loader__ = SourceFileLoader('__main__', path)
        with io.open_code(path) as file:
            return module, compile(file.read(), path, 'exec', dont_inherit=True)
    except OSError as e:
        _refuse(f'{path} cannot be read ({e.strerror}); give the path of a Python program, or -m and a module.')


def _open_folder(path: str, importer: Any) -> Tuple[ModuleType, CodeType]:
    """Of a folder or zip file, its __main__.py."""
    spec = importer.find_spec('__main__')
    if spec is None or spec.loader is None or spec.submodule_search_locations is not None:
        _refuse(f'{path} holds no __main__.py; give the path of one of its files.')
    return importlib.util.module_from_spec(spec), spec.loader.get_code('__main__')


class _Registration:
    """Registers wherever it is unpickled, if the package can be found there."""

    def __reduce__(self) -> Tuple[Callable[..., object], Tuple[str]]:
        return exec, ('try:\n    import rsq_backbone\nexcept ImportError:\n    pass',)


def _register_in_spawned_processes() -> None:
    """A spawned process starts as a fresh Python and unpickles first of all what it should know of its parent."""
    from multiprocessing import spawn

    get_preparation_data = spawn.get_preparation_data

    def with_registration(name: str) -> Dict[str, Any]:
        return {**get_preparation_data(name), 'rsq_backbone': _Registration()}

    spawn.get_preparation_data = with_registration


def _hide_launcher_in_traceback() -> None:
    """Show an error that ends the program as if Python had started it, by whatever hook the program has set."""
    show = sys.excepthook

    def show_program_only(
            kind: Type[BaseException], error: BaseException, traceback: Optional[TracebackType]) -> None:
        inner = traceback
        while inner is not None and inner.tb_frame.f_code.co_filename.startswith(('<frozen ', *_LAUNCHING)):
            inner = inner.tb_next
        if inner is not None or isinstance(error, SyntaxError):  # that of a program that could not be started
            traceback = inner
        show(kind, error.with_traceback(traceback), traceback)

    sys.excepthook = show_program_only


if __name__ == '__main__':
    main(sys.argv[1:])
