"""rsq predict"""
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Callable, List, Optional

import typer

from rsq_backbone.cli._running import AllowCode

if TYPE_CHECKING:
    from rsq_backbone.predictions import Classification


def predict(
        run: Annotated[Path, typer.Argument(
            metavar='RUN', help='Run folder of rsq finetune or rsq import, or artifact of rsq deploy.')],
        photos: Annotated[List[Path], typer.Argument(metavar='PHOTO', help='Pictures, or folders of pictures.')],
        topk: Annotated[int, typer.Option(min=1, help='How many classes to give for each picture.')] = 1,
        csv: Annotated[Optional[Path], typer.Option(help='Write a CSV file: path, rank, class, probability.')] = None,
        allow_code: AllowCode = False,
        json: Annotated[bool, typer.Option('--json', help='Print JSON instead of tables.')] = False,
) -> None:
    """Name the class of pictures with a classifier that you trained.

    Examples:

        rsq predict runs/photos-laptop new/*.jpg

        rsq predict runs/photos-laptop new/ --topk 3 --csv classes.csv

        rsq predict runs/photos-laptop-artifact new/*.jpg   (no PyTorch)
    """
    from rsq_backbone.cli._classifying import classify_each, print_classifications
    from rsq_backbone.cli._output import print_path, report_bad_input
    from rsq_backbone.errors import UserError
    from rsq_backbone.files import is_stream
    from rsq_backbone.images import list_images
    from rsq_backbone.predictions import write_csv

    classify = _classifier(run, topk, allow_code)
    files = [file for photo in photos for file in (list_images(photo) if photo.is_dir() else [photo])]
    if not files:
        raise UserError(
            f'{", ".join(map(str, photos))}: no pictures directly in there; name pictures or folders that hold some.')
    results, bad = classify_each(files, classify)
    if csv is not None:
        write_csv(results, csv)
        if not is_stream(csv):  # else it may be what standard output goes to
            print_path(f'{len(results)} pictures: {csv}')
    else:
        print_classifications(results, json)
    report_bad_input(bad)


def _classifier(run: Path, topk: int, allow_code: bool) -> Callable[[Path], 'Classification']:
    """What a run or an artifact says of a picture."""
    from rsq_backbone.cli._progress import loading
    from rsq_backbone.deploy.artifact import is_artifact, open_artifact

    if is_artifact(run):
        from rsq_backbone.deploy.classifying import classify_by

        return partial(classify_by, open_artifact(run, 'classification', allow_code), topk=topk)
    with loading('loading PyTorch'):
        from rsq_backbone.classification import classify
        from rsq_backbone.model_loading import load_model
        from rsq_backbone.training.run_folder import RunFolder

        network = load_model(RunFolder(run).timm_name(), pretrained=True)
    classes = getattr(network, 'num_classes', topk)
    return lambda photo: classify([photo], network, min(topk, classes))[0]
