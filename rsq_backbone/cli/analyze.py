"""rsq analyze"""
from typing import Annotated, Any, Dict, Optional

import typer


def analyze(
        model: Annotated[str, typer.Argument(help='Any timm model that torch.fx can trace.')] = 'res_squeezenet',
        input_size: Annotated[
            Optional[int], typer.Option(help="Side of the input in pixels; the model's own if not given.")] = None,
        num_classes: Annotated[Optional[int], typer.Option(help='Classes of the head.')] = None,
        in_chans: Annotated[Optional[int], typer.Option(help='Input channels.')] = None,
        output_stride: Annotated[Optional[int], typer.Option(help='8, 16 or 32, where the model can.')] = None,
        depth: Annotated[
            Optional[int], typer.Option(help='Levels (1 .. 5) of the encoder to analyze, without a head.')] = None,
        json: Annotated[bool, typer.Option('--json', help='Print JSON instead of the table.')] = False,
) -> None:
    """Show every layer of a network: name, type, output shape, learnables, MACs; totals; warnings.

    The columns are those of the paper's network analyzer. The output is channels x height x width for one image, MACs
    are its multiply-accumulates in convolutions, matrix products and attention, and the activations of the last line
    are the values that these put out.

    Examples:

        rsq analyze res_squeezenet

        rsq analyze res_squeezenet --depth 5 --output-stride 8 --input-size 512

        rsq analyze resnet18 --num-classes 9 --json
    """
    from rsq_backbone.cli._output import print_analysis, print_json
    from rsq_backbone.cli._progress import loading
    from rsq_backbone.errors import UserError

    if depth is not None and not 1 <= depth <= 5:
        raise UserError(f'depth should be 1 .. 5, got {depth}.')
    if input_size is not None and not 32 <= input_size <= 4096:
        raise UserError(f'input size should be 32 .. 4096 pixels, got {input_size}.')
    with loading(f'analyzing {model}'):
        from timm.data import resolve_data_config

        from rsq_backbone.analysis import analyze as analyze_network
        from rsq_backbone.model_loading import load_model

        encoder: Dict[str, Any] = {} if depth is None else {'features_only': True, 'out_indices': tuple(range(depth))}
        network = load_model(
            model, num_classes=num_classes, in_chans=in_chans, output_stride=output_stride, **encoder)
        channels, height, width = resolve_data_config(model=network)['input_size']
        size = (in_chans or channels, input_size or height, input_size or width)
        analysis = analyze_network(network, size, model)
    if json:
        print_json(analysis)
    else:
        print_analysis(analysis)
