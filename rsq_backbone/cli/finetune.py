"""rsq finetune"""
from pathlib import Path
from typing import Annotated, Any, Dict, Optional

import typer


def finetune(
        source: Annotated[str, typer.Argument(
            metavar='DATA', help='food, synthetic, or your own: a folder with one sub-folder a class, a folder with '
            'train/ and val/, or a CSV file with columns path,label.')] = 'synthetic',
        recipe: Annotated[str, typer.Option(help='laptop, paper or linear.')] = 'laptop',
        model: Annotated[str, typer.Option(help='Any timm model.')] = 'res_squeezenet',
        pretrained: Annotated[bool, typer.Option(help="Start from the model's pretrained weights.")] = True,
        seed: Annotated[int, typer.Option(help='Of the split and of everything random.')] = 0,
        output: Annotated[Path, typer.Option(help='Folder of the run folders.')] = Path('runs'),
        name: Annotated[Optional[str], typer.Option(help='Of the run folder; DATA-RECIPE if not given.')] = None,
        resume: Annotated[bool, typer.Option(
            '--resume', help='Go on where the same command was stopped, whatever stopped it.')] = False,
        overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace a run of the same name.')] = False,
        epochs: Annotated[Optional[int], typer.Option(min=1, help="Instead of the recipe's.")] = None,
        batch_size: Annotated[
            Optional[int], typer.Option(min=1, help="Instead of the recipe's; of all devices together.")] = None,
        learning_rate: Annotated[Optional[float], typer.Option(help="Instead of the recipe's.")] = None,
        augmentation: Annotated[
            Optional[str], typer.Option(help="none, light, paper or strong, instead of the recipe's.")] = None,
        input_size: Annotated[Optional[int], typer.Option(
            min=32, max=1024, help="Side of the input in pixels; the model's own if not given.")] = None,
        train_share: Annotated[float, typer.Option(
            min=0.05, max=0.95, help='Share of each class to train on, where DATA has no split of its own.')] = 0.7,
        show_augmentations: Annotated[bool, typer.Option(
            '--show-augmentations', help='Write a picture of what the network would see, and stop.')] = False,
        feature_cache: Annotated[bool, typer.Option(
            help='Compute the frozen part of the network once, where that gives the same.')] = True,
        accelerator: Annotated[str, typer.Option(help="Lightning's: auto, cpu, gpu, mps.")] = 'auto',
        devices: Annotated[str, typer.Option(help="Lightning's: a number, or auto for all GPUs there are.")] = 'auto',
        strategy: Annotated[str, typer.Option(help="Lightning's: auto, ddp.")] = 'auto',
        num_nodes: Annotated[int, typer.Option(min=1, help='Machines; start the same command on each.')] = 1,
        precision: Annotated[Optional[str], typer.Option(
            help="32-true, bf16-mixed, or auto: the faster one on this machine. Instead of the recipe's.")] = None,
        json: Annotated[bool, typer.Option('--json', help='Print metrics.json instead of the table.')] = False,
) -> None:
    """Train a classifier on your pictures, and see how good it is.

    Everything goes to a run folder: the model, as timm loads it, metrics.json, curves, confusion matrix, the worst
    mistakes, and report.html, which shows it all.

    Examples:

        rsq finetune synthetic   (nine drawn food classes, works offline)

        rsq finetune photos/   (photos/cat/*.jpg, photos/dog/*.jpg, ...)

        rsq finetune photos.csv --recipe linear   (seconds)

        rsq finetune food --recipe paper --seed 1   (downloads 77 MB)

        rsq finetune photos/ --model resnet18 --epochs 10 --name first-try
    """
    from rsq_backbone.cli._output import print_json, print_path, print_training, require, resumable
    from rsq_backbone.cli._progress import loading, progress_bars

    require('train')
    with loading('loading PyTorch'):
        import dataclasses

        from rsq_backbone.training.finetuning import choose_recipe
        from rsq_backbone.training.finetuning import finetune as run
        from rsq_backbone.training.finetuning import show_augmentations as show
        from rsq_backbone.training.fitting import Hardware

    changes: Dict[str, Any] = {
        'epochs': epochs, 'batch_size': batch_size, 'learning_rate': learning_rate, 'augmentation': augmentation,
        'precision': precision}
    chosen = dataclasses.replace(
        choose_recipe(recipe), **{key: value for key, value in changes.items() if value is not None})
    with progress_bars() as progress:
        if show_augmentations:
            print_path(str(show(source, chosen, model, input_size=input_size, seed=seed, progress=progress)))
            return
        with resumable('rsq'):
            result = run(
                source, chosen, model, pretrained=pretrained, input_size=input_size, train_share=train_share, seed=seed,
                output=output, name=name, resume=resume, overwrite=overwrite, feature_cache=feature_cache,
                hardware=Hardware(accelerator, devices, strategy, num_nodes), progress=progress)
    if json:
        print_json(result)
    else:
        print_training(result, output / result.name)
