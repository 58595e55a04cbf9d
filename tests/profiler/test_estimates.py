"""Figures of devices against what their makers and TechPowerUp print, and estimates by hand."""
import pytest

from rsq_backbone.errors import UserError
from rsq_backbone.profiler.devices import DEVICES, find_device, this_machine
from rsq_backbone.profiler.estimates import RUNTIME_BYTES, estimate
from rsq_backbone.profiler.peaks import roofline
from rsq_backbone.profiler.profile import Peaks, StageWork, Work

GB = 10 ** 9
GIB = 2 ** 30


@pytest.mark.parametrize(('name', 'gflops', 'gb_per_second'), [
    ('GeForce MX130', 913.2, 40.1),
    ('GeForce MX150', 1177, 48.06),
    ('GeForce GTX 1050', 1862, 112.1),
    ('GeForce MX450', 2822, 80.02),
    ('Jetson Nano', 235.8, 25.6),
    ('Jetson Orin Nano', 1280, 68.3),
    ('T4', 8141, 320),
    ('UHD 620', 422.4, 34.1),
    ('i5-8250U', 435.2, 34.1),
    ('Celeron N4020', 43.2, 38.4),
    ('Raspberry Pi 4', 57.6, 12.8),
    ('Raspberry Pi 5', 153.6, 17),
])
def test_peaks_are_the_published_ones(name, gflops, gb_per_second):
    device = find_device(name)
    assert 2 * device.peaks.macs_per_second == pytest.approx(gflops * GB, rel=2e-3)
    assert device.peaks.bytes_per_second == pytest.approx(gb_per_second * GB, rel=5e-3)


def test_every_device_says_where_its_figures_come_from():
    for device in DEVICES:
        assert device.sources
        assert all(source.startswith('https://') for source in device.sources)
        assert len(device.basis) == 3


@pytest.mark.parametrize(('asked', 'name'), [
    ('geforce mx130', 'GeForce MX130'), ('MX130', 'GeForce MX130'), ('NVIDIA  GeForce MX130', 'GeForce MX130'),
    ('Tesla T4', 'T4'), ('Pi 5', 'Raspberry Pi 5'), ('Intel Core i5-8250U', 'i5-8250U'),
    ('NVIDIA Jetson Orin Nano', 'Jetson Orin Nano'), ('jetson nano', 'Jetson Nano'),
])
def test_a_device_is_found_by_the_names_that_people_use(asked, name):
    assert find_device(asked).name == name


@pytest.mark.parametrize(('asked', 'says'), [
    ('GeForce MX460', 'GeForce MX450'),
    ('Raspberry Pi', 'Raspberry Pi 4'),
    ('nano', 'Jetson Nano'),  # two have this name
    ('abacus', 'Celeron N4020'),  # nothing is close: all of them
    ('', 'Celeron N4020'),
])
def test_an_unknown_device_is_refused_with_names_that_are_known(asked, says):
    with pytest.raises(UserError, match=says) as raised:
        find_device(asked)
    assert '\n' not in str(raised.value)


def work_of(macs: int, moved: int, parameters: int = 0, peak: int = 0) -> Work:
    stage = StageWork('stage', parameters, macs, 0, moved + 4 * parameters)
    return Work('net', (3, 8, 8), parameters, macs, 0, stage.bytes_moved, peak, (stage,), ())


def test_time_is_twice_the_rooflines():
    """An MX130 has 384 x 1.189 GHz = 456.6 GMAC/s, so 4.566 GMACs at half of it take 20 ms."""
    found = estimate(work_of(4_565_760_000, 1000), 1, find_device('MX130'))
    assert found.seconds == pytest.approx(0.02)
    assert (found.device, found.bound, found.batch, found.model) == ('GeForce MX130', 'compute', 1, 'net')


def test_time_of_a_network_that_memory_binds():
    """A Raspberry Pi 4 moves 12.8 GB/s: 128 MB take 10 ms, at half of it 20 ms."""
    found = estimate(work_of(1000, 64_000_000), 2, find_device('Raspberry Pi 4'))
    assert found.seconds == pytest.approx(0.02)
    assert found.bound == 'memory'


def test_memory_is_weights_activations_and_the_runtime():
    work = work_of(1000, 1000, parameters=1_000_000, peak=100 * 10 ** 6)
    found = estimate(work, 3, find_device('MX130'))
    assert found.memory == 4_000_000 + 300 * 10 ** 6 + RUNTIME_BYTES
    assert any('4 MB of weights, 300 MB of activations, 500 MB of PyTorch' in line for line in found.assumptions)


@pytest.mark.parametrize(('device', 'available'), [('GeForce MX130', 2 * GIB), ('Raspberry Pi 4', 3 * GIB)])
def test_fits_up_to_the_last_byte_that_the_system_leaves(device, available):
    assert estimate(work_of(1, 1, peak=available - RUNTIME_BYTES), 1, find_device(device)).fits
    assert not estimate(work_of(1, 1, peak=available - RUNTIME_BYTES + 1), 1, find_device(device)).fits


def test_assumptions_name_what_the_figures_rest_on():
    text = '\n'.join(estimate(work_of(1, 1), 1, find_device('MX130')).assumptions)
    for part in ('384 units x 2 operations x 1.189 GHz', '64 bit x 5.012 GT/s', '50%', 'past all caches', 'DDR3'):
        assert part in text


def test_this_machine_is_estimated_like_the_others():
    peaks = Peaks(2, 'cpu', 80e9, 10e9)
    work = work_of(10 ** 9, 10 ** 8)
    found = estimate(work, 1, this_machine(peaks, 8 * GIB))
    assert found.seconds == pytest.approx(2 * roofline(work, 1, peaks)[0])
    assert found.device == 'this machine'
    assert '80 GMAC/s, 10.0 GB/s: measured with 2 threads on cpu' in found.assumptions
