"""rsq autoload"""
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rsq_backbone.autoload import Status

app = typer.Typer(no_args_is_help=True)


@app.callback()
def autoload() -> None:
    """Make the networks known to timm and smp in every program of this Python environment.

    timm, segmentation_models_pytorch and transformers have no plug-ins, so `timm.create_model("res_squeezenet")` fails
    in programs that do not import rsq_backbone. `on` writes one small file, rsq_backbone_autoload.pth, into the
    site-packages of the environment whose `rsq` you run. From then on every program that imports timm or smp there
    has the networks registered. Nothing is imported before, torch least of all; Python starts about as fast as ever;
    and once the package is uninstalled the file does nothing.

    For a single program, `python -m rsq_backbone SCRIPT` does the same without a file.

    Examples:

        rsq autoload on

        rsq autoload status

        rsq autoload off
    """


@app.command()
def on(
        user: Annotated[bool, typer.Option(
            '--user', help='Write to your own site-packages, which all environments of this Python version share '
            'that read it. Virtual environments usually do not.')] = False,
) -> None:
    """Write the file, or renew it.

    Examples:

        rsq autoload on

        rsq autoload on --user   (where the environment's site-packages cannot be written)
    """
    from rsq_backbone.autoload import switch_on

    _print_status(switch_on(user))


@app.command()
def off() -> None:
    """Remove the file.

    Examples:

        rsq autoload off
    """
    from rsq_backbone.autoload import switch_off

    _print_status(switch_off())


@app.command(short_help='Say whether it is on, and by which file.')
def status(json: Annotated[bool, typer.Option('--json', help='Print JSON.')] = False) -> None:
    """Say whether it is on, by which file and for which Python; asks a fresh process.

    Examples:

        rsq autoload status

        rsq autoload status --json
    """
    from rsq_backbone.autoload import status as read_status
    from rsq_backbone.cli._output import print_json

    found = read_status()
    if json:
        print_json(found)
    else:
        _print_status(found)


def _print_status(status: 'Status') -> None:
    from rsq_backbone.cli._output import print_path

    print_path(f'autoload is {"on" if status.on else "off"} for {status.python}', 'bold')
    print_path(f'environment:  {status.environment}')
    for file in status.files:
        print_path(f'file:         {file}')
    if status.on:
        print_path(f'package:      {status.package}')
        print_path('undo:         rsq autoload off, or delete the file')
    if status.problem is not None:
        print_path(f'problem:      {status.problem}', 'yellow')
