"""Energy as Linux tells it, from files that stand for those of a machine."""
import pytest

from rsq_backbone import machine
from rsq_backbone.profiler.energy import EnergyMeter


@pytest.fixture
def zones(tmp_path, monkeypatch):
    """Write a counter of microjoules for each zone, by name."""
    monkeypatch.setattr(machine, '_ROOT', tmp_path)

    def write(*counters, limit=10_000_000):
        for number, (name, count) in enumerate(counters):
            folder = tmp_path / f'sys/class/powercap/intel-rapl:{number}'
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'name').write_text(f'{name}\n')
            (folder / 'max_energy_range_uj').write_text(f'{limit}\n')
            if count is None:
                (folder / 'energy_uj').unlink(missing_ok=True)
            else:
                (folder / 'energy_uj').write_text(f'{count}\n')

    return write


def test_energy_is_the_sum_of_all_packages_lap_by_lap(zones):
    zones(('package-0', 1_000_000), ('package-1', 500_000))
    meter = EnergyMeter()
    zones(('package-0', 3_000_000), ('package-1', 750_000))
    assert meter.lap() == 2.25
    zones(('package-0', 3_000_001), ('package-1', 750_000))
    assert meter.lap() == pytest.approx(1e-6)


def test_a_counter_that_began_anew_has_gone_on(zones):
    zones(('package-0', 9_000_000))
    meter = EnergyMeter()
    zones(('package-0', 500_000))
    assert meter.lap() == 1.5  # 1 up to the limit of 10 J, and 0.5 since


def test_what_nobody_may_read_is_not_measured(zones):
    assert EnergyMeter().lap() is None  # as in a virtual machine
    zones(('package-0', None))
    assert EnergyMeter().lap() is None
    zones(('package-0', 1))
    meter = EnergyMeter()
    zones(('package-0', None))
    assert meter.lap() is None


def test_a_zone_within_a_package_does_not_count_for_one(zones):
    zones(('psys', 1_000_000))  # the whole platform
    assert EnergyMeter().lap() is None
