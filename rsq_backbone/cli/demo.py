"""rsq demo"""
from pathlib import Path
from typing import Annotated

import typer


def demo(
        output: Annotated[Path, typer.Option(help='Folder for the pictures.')] = Path('rsq-demo'),
) -> None:
    """Show what the backbone does with three photographs: classes, feature pyramid, segmentation. Needs no network.

    Examples:

        rsq demo

        rsq demo --output /tmp/demo
    """
    from rsq_backbone.cli._output import (
        loading,
        print_classification,
        print_path,
        print_segmentation_sizes,
        progress,
        stdout,
    )

    with loading('loading torch, timm and smp'):
        from rsq_backbone.demo import PHOTOGRAPHS, demonstrate

    results = list(progress(demonstrate(output), 'photographs', total=len(PHOTOGRAPHS)))
    for result in results:
        print_classification(result.classification)
        print_segmentation_sizes(result)
    stdout.print('The maps of every pyramid level (1/2 .. 1/32 of the input) lie in')
    for result in results:
        print_path(f'  {result.pyramid}')
