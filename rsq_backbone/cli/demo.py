"""rsq demo"""
from pathlib import Path
from typing import Annotated

import typer


def demo(
        output: Annotated[Path, typer.Option(help='Folder for the pictures.')] = Path('rsq-demo'),
) -> None:
    """Show what the backbone does: classes and feature pyramids of three photographs, and a U-Net that learns within a
    minute or so to segment drawn plates of food. Needs no network.

    Examples:

        rsq demo

        rsq demo --output /tmp/demo
    """
    from rsq_backbone.cli._output import print_classification, print_path, print_segmentation_sizes, require, stdout
    from rsq_backbone.cli._progress import loading, progress, progress_bars

    with loading('loading torch, timm and smp'):
        from rsq_backbone.demo import PHOTOGRAPHS, demonstrate

    results = list(progress(demonstrate(output), 'photographs', total=len(PHOTOGRAPHS)))
    for result in results:
        print_classification(result.classification)
        print_segmentation_sizes(result)
    stdout.print('The maps of every pyramid level (1/2 .. 1/32 of the input) lie in')
    for result in results:
        print_path(f'  {result.pyramid}')

    require('train')
    with loading('loading Lightning'):
        from seg_demos import unet
        from seg_demos.recipe import SegmentationRecipe
        from seg_demos.training import train
    with progress_bars() as bars:
        plates = train(
            'unet', unet.build, 'synthetic-food', SegmentationRecipe(epochs=4, crop=128, learning_rate=3e-3),
            output=output, name='segmentation', overwrite=True, progress=bars)
    stdout.print()
    print_path(
        f'A U-Net has learned in {plates.seconds["total"]:.0f} s, from {plates.data.train_pictures} drawn plates, '
        f'what is food and what is not. Of {plates.metrics.n} others it gets '
        f'{100 * plates.metrics.pixel_accuracy:.0f} % of the pixels right (mean IoU {plates.metrics.mean_iou:.2f}):')
    print_path(f'  {output / plates.name / "overlays.png"}')
