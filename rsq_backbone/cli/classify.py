"""rsq classify"""
from pathlib import Path
from typing import Annotated, List

import typer


def classify(
        photos: Annotated[List[Path], typer.Argument(metavar='PHOTO', help='Pictures of any size and kind.')],
        topk: Annotated[int, typer.Option(help='How many classes to show for each picture.')] = 5,
        model: Annotated[str, typer.Option(help='Any timm classifier with weights.')] = 'res_squeezenet',
        json: Annotated[bool, typer.Option('--json', help='Print JSON instead of tables.')] = False,
) -> None:
    """Name what is in photographs, by the 1000 classes of ImageNet or those of the model.

    Examples:

        rsq classify photo.jpg

        rsq classify *.jpg --topk 1 --json

        rsq classify photo.jpg --model resnet18   (downloads its weights)
    """
    from rsq_backbone.cli._classifying import classify_each, print_classifications
    from rsq_backbone.cli._output import report_bad_input
    from rsq_backbone.cli._progress import loading

    with loading(f'loading {model}'):
        from rsq_backbone.classification import classify as classify_all
        from rsq_backbone.model_loading import load_model

        network = load_model(model, pretrained=True)
    results, bad = classify_each(photos, lambda photo: classify_all([photo], network, topk)[0])
    if bad and len(photos) == 1:
        raise bad[0]
    print_classifications(results, json)
    report_bad_input(bad)
