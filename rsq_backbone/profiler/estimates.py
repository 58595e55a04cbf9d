"""What a network would take on a machine that is not here."""
from rsq_backbone.profiler.devices import Device
from rsq_backbone.profiler.peaks import roofline
from rsq_backbone.profiler.profile import Estimate, Work

__all__ = ['EFFICIENCY', 'estimate']

# Of both peaks. In published timings of ncnn on x86 processors (one thread of a Threadripper 3970X and of a V1605B,
# https://github.com/Tencent/ncnn/blob/master/benchmark/README.md) MobileNetV2, SqueezeNet and ResNet-18 reach between
# 0.3 and 0.8 of the arithmetic, in this order.
EFFICIENCY = 0.5
RUNTIME_BYTES = 500 * 10 ** 6  # PyTorch with its libraries in memory; of a GPU's memory its context and cuDNN's kernels
_FLOAT32 = 4


def estimate(work: Work, batch: int, device: Device) -> Estimate:
    """Time by the roofline at `EFFICIENCY` of the device's peaks, and memory by weights, activations and the runtime.

    Nothing is measured. A factor of two in either direction is no surprise; `this_machine` tells how large it is where
    both can be had.
    """
    seconds, bound = roofline(work, batch, device.peaks)
    weights, activations = _FLOAT32 * work.parameters, batch * work.peak_activations
    memory = weights + activations + RUNTIME_BYTES
    return Estimate(
        model=work.model,
        input_size=work.input_size,
        batch=batch,
        device=device.name,
        seconds=seconds / EFFICIENCY,
        bound=bound,
        memory=memory,
        fits=memory <= device.memory,
        assumptions=(
            *device.basis,
            f'{EFFICIENCY:.0%} of both are reached, by each stage of the network',
            'float32; every operation reads its input from memory and writes its output there, past all caches',
            'nothing for starting an operation, which decides on fast GPUs at small batches',
            f'memory: {weights / 1e6:.0f} MB of weights, {activations / 1e6:.0f} MB of activations, '
            f'{RUNTIME_BYTES / 1e6:.0f} MB of PyTorch; nothing for workspaces of convolutions',
        ),
    )
