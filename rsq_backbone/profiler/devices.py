"""Public figures of machines that people ask about: small laptops' GPUs and processors, and single boards."""
import difflib
from dataclasses import dataclass
from typing import Tuple

from rsq_backbone.errors import UserError
from rsq_backbone.profiler.profile import Peaks

__all__ = ['DEVICES', 'Device', 'find_device', 'this_machine']

GIB = 2 ** 30
_SYSTEM = GIB  # that an operating system with a desktop keeps for itself


@dataclass(frozen=True)
class Device:
    name: str
    peaks: Peaks
    memory: int  # bytes that a program can have
    basis: Tuple[str, ...]  # where the figures come from, one line each
    sources: Tuple[str, ...]


def _device(
        name: str, units: int, per_cycle: int, ghz: float, bus_bits: int, gigatransfers: float, memory_gib: int,
        sources: Tuple[str, ...], shared: bool = False, note: str = '',
) -> Device:
    """From what data sheets say.

    Args:
        name: What users call it.
        units: Cores of a processor, shader or execution units of a GPU.
        per_cycle: Float32 operations of a unit in a cycle; a fused multiply-add counts two.
        ghz: The highest clock that all units reach together.
        bus_bits: Width of the memory bus, all channels.
        gigatransfers: A second, on each line of the bus.
        memory_gib: As sold.
        sources: Pages with these figures.
        shared: Whether the operating system lives in the same memory.
        note: What differs between things sold under this name.
    """
    macs = units * per_cycle / 2 * ghz * 1e9
    bandwidth = bus_bits / 8 * gigatransfers * 1e9
    memory = f'{memory_gib} GiB' + (', of which the system keeps 1 GiB' if shared else '')
    return Device(
        name,
        Peaks(units, name, macs, bandwidth),
        memory_gib * GIB - (_SYSTEM if shared else 0),
        (
            f'{macs / 1e9:.0f} GMAC/s: {units} units x {per_cycle} operations x {ghz:g} GHz / 2',
            f'{bandwidth / 1e9:.1f} GB/s: {bus_bits} bit x {gigatransfers:g} GT/s',
            memory + (f'; {note}' if note else ''),
        ),
        sources,
    )


# Operations in a cycle: https://stackoverflow.com/questions/15655835
DEVICES: Tuple[Device, ...] = (
    _device(
        'GeForce MX130', 384, 2, 1.189, 64, 5.012, 2, ('https://www.techpowerup.com/gpu-specs/geforce-mx130.c3043',),
        note='with GDDR5; there is one with DDR3 at less than half of the bandwidth'),
    _device(
        'GeForce MX150', 384, 2, 1.532, 64, 6.008, 2, ('https://www.techpowerup.com/gpu-specs/geforce-mx150.c2959',),
        note='the 25 W one; the 10 W one has two thirds of the clock'),
    _device(
        'GeForce GTX 1050', 640, 2, 1.455, 128, 7.008, 2,
        ('https://www.techpowerup.com/gpu-specs/geforce-gtx-1050.c2875',), note='the desktop card'),
    _device(
        'GeForce MX450', 896, 2, 1.575, 64, 10.002, 2, ('https://data-check.eu/en/nvidia-geforce-mx450/',),
        note='the 25 W one with GDDR6; the 12 W one has 0.93 GHz'),
    _device(
        'Jetson Nano', 128, 2, 0.9216, 64, 3.2, 4, ('https://developer.nvidia.com/embedded/jetson-modules',),
        shared=True),
    _device(
        'Jetson Orin Nano', 1024, 2, 0.625, 128, 4.266, 8, ('https://developer.nvidia.com/embedded/jetson-modules',),
        shared=True, note='the 8 GB one at 15 W; the "Super" mode has 1.02 GHz and 102 GB/s'),
    _device('T4', 2560, 2, 1.59, 256, 10.0, 16, (
        'https://www.nvidia.com/en-us/data-center/tesla-t4/', 'https://www.techpowerup.com/gpu-specs/tesla-t4.c3316')),
    _device(
        'UHD 620', 24, 16, 1.1, 128, 2.133, 8,
        (
            'https://notebookinfo.de/prozessoren/intel-core-i5-8250u',
            'https://hmc-tech.com/gpus/intel-graphics-4c-2000mhz-vs-intel-uhd-620-1150mhz'),
        shared=True, note='in an i5-8250U with two channels of memory; 8 GiB are taken for granted'),
    _device(
        'i5-8250U', 4, 32, 3.4, 128, 2.133, 8, (
            'https://www.notebookcheck.com/Intel-Core-i5-8250U-SoC-Benchmarks-und-Specs.242162.0.html',),
        shared=True,
        note='its 15 W hold 3.4 GHz for seconds only; two channels of memory and 8 GiB are taken for granted'),
    _device(
        'Celeron N4020', 2, 8, 2.7, 128, 2.4, 4, (
            'https://www.cpu-monkey.com/en/cpu-intel_celeron_n4020-1080',
            'https://www.notebookcheck.net/Intel-Celeron-N4020-Processor-Gemini-Lake.441184.0.html'),
        shared=True, note='no AVX; two channels of memory are taken for granted, cheap notebooks have one'),
    _device(
        'Raspberry Pi 4', 4, 8, 1.8, 32, 3.2, 4,
        ('https://www.raspberrypi.com/products/raspberry-pi-4-model-b/specifications/',),
        shared=True, note='the 4 GB one; early boards run at 1.5 GHz'),
    _device(
        'Raspberry Pi 5', 4, 16, 2.4, 32, 4.267, 4, (
            'https://www.raspberrypi.com/products/raspberry-pi-5/',
            'https://threedots.ovh/blog/2023/09/gathering-some-raspberry-pi-5-details/'),
        shared=True, note='the 4 GB one'),
)


def find_device(name: str) -> Device:
    """By its name, in capitals or not, with or without words before it: 'mx130', 'NVIDIA GeForce MX130'.

    Raises:
        UserError: if the table does not have it.
    """
    wanted = ' '.join(name.casefold().split())
    by_name = {device.name.casefold(): device for device in DEVICES}
    found = [
        device for key, device in by_name.items()
        if wanted and (f' {wanted}'.endswith(f' {key}') or f' {key}'.endswith(f' {wanted}'))]
    if len(found) == 1:
        return found[0]
    close = [by_name[key].name for key in difflib.get_close_matches(wanted, by_name, n=3)]
    if close:
        raise UserError(f'no figures of {name!r}; did you mean {" or ".join(close)}?')
    raise UserError(f'no figures of {name!r}; there are those of {", ".join(d.name for d in DEVICES)}.')


def this_machine(peaks: Peaks, memory: int) -> Device:
    """As if it were one of the table, to see how far an estimate is from a measurement.

    Args:
        peaks: Measured here.
        memory: Bytes that are free for a program.
    """
    return Device(
        'this machine', peaks, memory,
        (
            f'{peaks.macs_per_second / 1e9:.0f} GMAC/s, {peaks.bytes_per_second / 1e9:.1f} GB/s: '
            f'measured with {peaks.threads} thread{"s" * (peaks.threads != 1)} on {peaks.device}',
            f'{memory / GIB:.1f} GiB',
        ),
        (),
    )
