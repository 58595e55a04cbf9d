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
from rsq_backbone.cli._running import plain_app, run_app

app = plain_app(
    name='rsq',
    help='Res-SqueezeNet: a small backbone for timm and segmentation_models_pytorch. Begin with: rsq demo',
    epilog='Segmentation: python -m seg_demos.unet -h (deeplab, pspnet and segnet train in the same way, predict '
    'segments images and videos, export writes ONNX).',
    no_args_is_help=True,
)
for name, command, short_help in (
        ('demo', demo.demo, 'See what the network does: three photographs and a U-Net.'),
        ('classify', classify.classify, 'Classify photographs by the classes of ImageNet.'),
        ('finetune', finetune.finetune, 'Train a classifier on your own images.'),
        ('evaluate', evaluate.evaluate, 'Measure a trained classifier on labeled images.'),
        ('predict', predict.predict, 'Classify images with a trained classifier.'),
        ('deploy', deploy.deploy, 'Make a trained network small and fast, without PyTorch.'),
        ('serve', serve.serve, 'Open a web page and an HTTP API for a deployed network.'),
        ('profile', profile.profile, 'Measure latency, memory and work of networks.'),
        ('analyze', analyze.analyze, 'List every layer of a network, with warnings.'),
        ('import', import_checkpoint.import_checkpoint, 'Make a run folder of a classifier that timm trained.')):
    app.command(name, short_help=short_help)(command)
app.add_typer(autoload.app, name='autoload', short_help='Make the networks known in every program of an environment.')


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, '--version', help='Show the version and exit.')) -> None:
    if version:
        from rsq_backbone import __version__

        print(f'rsq {__version__}')
        raise typer.Exit


def main() -> None:
    run_app(app, 'rsq')
