"""Running a command line so that whatever goes wrong is one line and an exit code."""
import os
import sys
from typing import NoReturn

import typer

from rsq_backbone.errors import UserError, one_line

__all__ = ['run_app']


def run_app(app: typer.Typer, name: str) -> None:
    """Exit code 0: done; 2: input that the user can mend; 1: a fault of ours or of the machine; 130: interrupted."""
    label = name.split()[-1]
    try:
        app(prog_name=name)
    except UserError as e:
        _fail(e, label, str(e), code=2)
    except KeyboardInterrupt:
        print(f'{label}: interrupted', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `rsq analyze ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as e:
        _fail(e, label, f'{type(e).__name__}: {one_line(e)} (RSQ_TRACEBACK=1 shows where)', code=1)


def _fail(e: Exception, label: str, message: str, code: int) -> NoReturn:
    if os.environ.get('RSQ_TRACEBACK'):
        raise e
    print(f'{label}: {message}', file=sys.stderr)
    sys.exit(code)
