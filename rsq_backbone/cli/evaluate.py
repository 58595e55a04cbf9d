"""rsq evaluate"""
from pathlib import Path
from typing import Annotated, Optional

import typer

from rsq_backbone.cli._running import AllowCode


def evaluate(
        run: Annotated[Path, typer.Argument(
            metavar='RUN', help='Run folder of rsq finetune or rsq import, or artifact of rsq deploy.')],
        source: Annotated[str, typer.Argument(
            metavar='DATA', help='food, synthetic, or your own: a folder with one sub-folder a class, a folder with '
            'train/ and val/ (val/ is used), or a CSV file with columns path,label.')],
        include_training: Annotated[bool, typer.Option(
            '--include-training', help='Keep the pictures that the model learned from; they flatter it.')] = False,
        allow_code: AllowCode = False,
        output: Annotated[Optional[Path], typer.Option(
            help='Folder for confusion.png, mistakes.png and evaluation.json.')] = None,
        json: Annotated[bool, typer.Option('--json', help='Print JSON instead of the table.')] = False,
) -> None:
    """See how good a trained classifier is on pictures whose classes are known.

    Pictures that it learned from are recognised by their content and left out.

    Examples:

        rsq evaluate runs/photos-laptop more-photos/

        rsq evaluate runs/photos-laptop more-photos.csv --output evaluation/
    """
    from rsq_backbone.cli._output import print_evaluation, print_json
    from rsq_backbone.cli._progress import loading, progress_bars

    with loading('loading PyTorch'):
        from rsq_backbone.evaluation import evaluate as evaluate_run
        from rsq_backbone.evaluation import save_evaluation

    with progress_bars() as progress:
        evaluation = evaluate_run(
            run, source, include_training=include_training, allow_code=allow_code, progress=progress)
    if output is not None:
        save_evaluation(evaluation, output)
    if json:
        print_json(evaluation)
    else:
        print_evaluation(evaluation)
