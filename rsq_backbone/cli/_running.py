"""How a command ends: with one line and an exit code, whatever happened."""
import io
import os
import sys
from typing import Annotated, Any

import typer

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.printable import printable

__all__ = ['AllowCode', 'plain_app', 'run_app']

# The option of all commands that open artifacts.
AllowCode = Annotated[bool, typer.Option(
    '--allow-code', help='Open an artifact of the target torch-export, which can run any code of its maker.')]


def plain_app(**settings: Any) -> typer.Typer:
    """A command line whose help is plain text, in which no option's name is cut at 80 columns."""
    return typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
        context_settings={'help_option_names': ['-h', '--help']}, **settings)


def run_app(app: typer.Typer, command: str) -> None:
    """Run a command line to its end.

    Exit code 0: done; 2: input that the user can mend; 1: a fault of ours or of the machine; 130: stopped by Ctrl-C.

    Args:
        app: All it can do.
        command: How it is called; the last word is put before what is said about errors.
    """
    name = command.split()[-1]
    # print() would take standard output for it, into the middle of JSON.
    sys.stdout, sys.stderr = (stream or open(os.devnull, 'w') for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # a pipe's encoding, on Windows for one, may lack what names are made of
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    try:
        app(prog_name=command)
    except UserError as e:
        _fail(e, f'{name}: {e}', code=2)
    except SystemExit as e:
        # typer says nothing about Ctrl-C; who caught it before has said more.
        if isinstance(getattr(e.__context__, '__cause__', None), KeyboardInterrupt):
            print(f'{name}: interrupted', file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print(f'{name}: interrupted', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `rsq analyze ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as e:
        _fail(e, f'{name}: {type(e).__name__}: {one_line(e)} (RSQ_TRACEBACK=1 shows where)', code=1)


def _fail(e: Exception, message: str, code: int) -> None:
    if os.environ.get('RSQ_TRACEBACK'):
        raise e
    print(printable(message), file=sys.stderr)
    sys.exit(code)
