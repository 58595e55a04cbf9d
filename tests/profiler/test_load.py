"""Load that is not the measurement's own is noticed, and its own is not taken for another's."""
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from rsq_backbone.profiler import load as load_module
from rsq_backbone.profiler.load import LoadWatch, disturbances
from rsq_backbone.profiler.profile import Load

QUIET = Load(0.02, 0.0, 0.5, 2000.0, 3400.0, 40.0, 60.0, 0, (9.0, 9.0, 9.0), (9.0, 9.0, 9.0), 0)

# Waits for a line, uses the given CPU time, says so, and lives on until its standard input is closed.
SPIN = '''
import sys, time
sys.stdin.readline()
while time.process_time() < float(sys.argv[1]):
    pass
print("done", flush=True)
sys.stdin.read()
'''
# The same in a process that nobody here has started: its parent is gone.
ORPHAN = f'''
import os
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
{SPIN}
'''
linux = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')


def start(code, seconds):
    return subprocess.Popen([sys.executable, '-c', code, str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True, bufsize=1)


def let_spin(process):
    process.stdin.write('now\n')
    assert process.stdout.readline() == 'done\n'


def cpu_seconds(pid):
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@linux
def test_a_planted_load_is_noticed():
    """Judged by the CPU time that the planted process got, so that no other load can make this fail."""
    planted = start(ORPHAN, 1)
    try:
        pid = int(planted.stdout.readline())
        planted.wait()  # for the one that started it
        clock, before = time.perf_counter(), cpu_seconds(pid)
        watch = LoadWatch()
        let_spin(planted)
        found = watch.lap()
        used, seconds = cpu_seconds(pid) - before, time.perf_counter() - clock
    finally:
        planted.stdin.close()
        planted.stdout.close()
    assert used > 0.9
    assert found.foreign_cores * seconds >= 0.5 * used
    assert disturbances([found])[0].startswith('other processes kept ')


@pytest.fixture
def busy(monkeypatch):
    """What the machine says that all its cores together did, in seconds."""
    times = SimpleNamespace(user=0.0, nice=0.0, system=0.0, idle=0.0, irq=0.0, softirq=0.0, steal=0.0)
    monkeypatch.setattr(psutil, 'cpu_times', lambda: times)
    monkeypatch.setattr(load_module.time, 'perf_counter', lambda: times.user + times.idle)
    return times


@linux
def test_children_are_not_foreign_whether_they_live_or_have_ended(busy):
    """Of 10 busy seconds, what is not foreign is what this process and its child used."""
    watch, own = LoadWatch(), cpu_seconds(psutil.Process().pid)

    def not_foreign():
        nonlocal own
        busy.user += 10
        found = watch.lap().foreign_cores
        before, own = own, cpu_seconds(psutil.Process().pid)
        return 10 - 10 * found - (own - before)

    with start(SPIN, 0.5) as child:
        let_spin(child)
        used = cpu_seconds(child.pid)
        assert used > 0.45
        assert not_foreign() == pytest.approx(used, abs=0.15)  # alive
        assert not_foreign() == pytest.approx(0, abs=0.15)  # and idle since
    assert child.returncode == 0
    assert not_foreign() == pytest.approx(0, abs=0.15)  # what it used before is not counted again


@linux
def test_what_a_child_started_is_not_foreign_either(busy):
    watch, own = LoadWatch(), cpu_seconds(psutil.Process().pid)
    code = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {SPIN!r}, sys.argv[1]])'
    with start(code, 0.5) as child:
        let_spin(child)
        tree = [child.pid, *(p.pid for p in psutil.Process(child.pid).children())]
        assert len(tree) == 2
        used = sum(map(cpu_seconds, tree)) + cpu_seconds(psutil.Process().pid) - own
        busy.user += 10
        assert 10 - 10 * watch.lap().foreign_cores == pytest.approx(used, abs=0.15)


@linux
def test_time_that_a_hypervisor_took_is_a_share_of_what_was_wanted_and_not_another_processs(busy):
    watch = LoadWatch()
    busy.user, busy.steal, busy.idle = 6.0, 2.0, 92.0
    found = watch.lap()
    assert found.steal == pytest.approx(2 / 8)
    assert found.foreign_cores == pytest.approx(6 / 98, abs=0.01)


def test_waiting_and_heat_are_those_of_the_lap(other_machine, busy):
    def said(waited, counts):
        other_machine({
            '/proc/pressure/cpu': f'some avg10=9.11 avg60=5.70 avg300=10.73 total={waited}\nfull avg10=0.00 total=77\n',
            '/sys/devices/system/cpu/online': '0-1',
            **{f'/sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count': str(count)
               for core, count in enumerate(counts)}})

    said(1_000_000, (3, 4))
    watch = LoadWatch()
    busy.idle += 4
    said(2_000_000, (5, 4))
    first = watch.lap()
    busy.idle += 4
    second = watch.lap()
    assert (first.pressure, first.throttled) == (0.25, 2)
    assert (second.pressure, second.throttled) == (0.0, 0)


def test_a_system_that_tells_nothing_is_not_called_quiet(other_machine, monkeypatch, busy):
    other_machine({})
    for name in ('cpu_freq', 'sensors_temperatures'):
        monkeypatch.delattr(psutil, name, raising=False)
    monkeypatch.setattr(psutil, 'WINDOWS', True)
    monkeypatch.setattr(psutil, 'LINUX', False)
    watch = LoadWatch()
    busy.user += 1
    found = watch.lap()
    assert replace(found, load_average_before=None, load_average_after=None) == Load(*[None] * 11)


def test_frequency_is_that_of_the_fastest_core_and_temperature_that_of_the_hottest_sensor(monkeypatch):
    cores = [SimpleNamespace(current=800.0), SimpleNamespace(current=3400.0)]
    sensors = {'coretemp': [SimpleNamespace(current=61.0), SimpleNamespace(current=64.0)],
               'acpitz': [SimpleNamespace(current=27.8)]}
    monkeypatch.setattr(psutil, 'cpu_freq', lambda percpu: cores)
    monkeypatch.setattr(psutil, 'sensors_temperatures', lambda: sensors, raising=False)
    watch = LoadWatch()
    cores[1].current, sensors['coretemp'][0].current = 2100.0, 95.0
    found = watch.lap()
    assert (found.frequency_before, found.frequency_after) == (3400, 2100)
    assert (found.temperature_before, found.temperature_after) == (64, 95)


def test_own_processes_on_the_gpu_are_not_foreign(monkeypatch):
    own = psutil.Process().pid
    monkeypatch.setattr(load_module, 'gpu_processes', lambda: {own: 1000, 1: 2000, 2: None})
    assert LoadWatch(gpu=True).lap().foreign_gpu_processes == 2
    assert LoadWatch().lap().foreign_gpu_processes is None
    monkeypatch.setattr(load_module, 'gpu_processes', lambda: None)
    assert LoadWatch(gpu=True).lap().foreign_gpu_processes is None


@pytest.mark.parametrize(('load', 'said'), [
    (QUIET, []),  # its own load average and its own waiting threads are no disturbance
    (replace(QUIET, foreign_cores=0.42), ['other processes kept 0.42 cores busy']),
    (replace(QUIET, foreign_cores=None, load_average_before=(0.7, 0, 0)),
     ['the load average was 0.7 before the run']),
    (replace(QUIET, foreign_cores=None, load_average_before=None), []),
    (replace(QUIET, steal=0.08), ['the hypervisor took 8% of the time']),
    (replace(QUIET, foreign_cores=0.09, steal=0.01), []),
    (replace(QUIET, frequency_before=3400.0, frequency_after=2100.0),
     ['the frequency fell by 38%']),
    (replace(QUIET, frequency_before=3400.0, frequency_after=3100.0), []),
    (replace(QUIET, frequency_before=2000.0, frequency_after=3000.0), []),
    (replace(QUIET, throttled=3), ['a core slowed itself down 3 times because it was hot']),
    (replace(QUIET, foreign_gpu_processes=2, foreign_cores=1.0),
     ['other processes kept 1.00 cores busy', '2 other processes were on the GPU']),
])
def test_disturbances_are_said_in_sentences(load, said):
    assert disturbances([load]) == said


def test_of_several_loads_the_worst_is_said_and_how_many_there_were():
    loads = [QUIET, replace(QUIET, foreign_cores=0.3), replace(QUIET, foreign_cores=0.5)]
    assert disturbances(loads) == ['other processes kept 0.50 cores busy, at the worst; in 2 of 3 cases']
