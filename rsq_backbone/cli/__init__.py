"""The `rsq` command. Sub-commands parse, call and print; what they call is imported when they run."""
import os
import sys

import typer

from rsq_backbone.cli import analyze, classify, demo, evaluate, finetune, predict
from rsq_backbone.errors import UserError, one_line

app = typer.Typer(
    name='rsq',
    help='Res-SqueezeNet: a small backbone for timm and segmentation_models_pytorch.',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode='markdown',
)
for command in (
        demo.demo, finetune.finetune, evaluate.evaluate, predict.predict, classify.classify, analyze.analyze):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, '--version', help='Show the version and exit.')) -> None:
    if version:
        from rsq_backbone import __version__

        print(f'rsq {__version__}')
        raise typer.Exit


def main() -> None:
    """Exit code 0: done; 2: input that the user can mend; 1: a fault of ours or of the machine."""
    try:
        app(prog_name='rsq')
    except UserError as e:
        _fail(e, str(e), code=2)
    except KeyboardInterrupt:
        print('rsq: interrupted', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `rsq analyze ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as e:
        _fail(e, f'{type(e).__name__}: {one_line(e)} (RSQ_TRACEBACK=1 shows where)', code=1)


def _fail(e: Exception, message: str, code: int) -> None:
    if os.environ.get('RSQ_TRACEBACK'):
        raise e
    print(f'rsq: {message}', file=sys.stderr)
    sys.exit(code)
