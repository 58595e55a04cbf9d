"""The `rsq` command. Sub-commands parse, call and print; what they call is imported when they run."""
import typer

from rsq_backbone.cli import (
    analyze,
    autoload,
    classify,
    demo,
    deploy,
    evaluate,
    finetune,
    import_checkpoint,
    predict,
    profile,
    serve,
)
from rsq_backbone.cli._running import run_app

app = typer.Typer(
    name='rsq',
    help='Res-SqueezeNet: a small backbone for timm and segmentation_models_pytorch.',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode='markdown',
)
for command in (
        demo.demo, finetune.finetune, evaluate.evaluate, predict.predict, classify.classify, analyze.analyze,
        deploy.deploy, serve.serve, profile.profile):
    app.command()(command)
app.command('import')(import_checkpoint.import_checkpoint)
app.add_typer(autoload.app, name='autoload')


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, '--version', help='Show the version and exit.')) -> None:
    if version:
        from rsq_backbone import __version__

        print(f'rsq {__version__}')
        raise typer.Exit


def main() -> None:
    run_app(app, 'rsq')
