"""What a profile says of the machine is what the machine's own files say."""
import json
import os
import platform
import shutil
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from rsq_backbone.errors import UserError
from rsq_backbone.machine import cpu_computes_bfloat16, cpu_name
from rsq_backbone.profiler import cores
from rsq_backbone.profiler.cores import affinity, core_list, pin, usable_cores
from rsq_backbone.profiler.environment import environment

CPU = '/sys/devices/system/cpu'

# As a Core i5-1235U says it, shortened: two cores with two threads each, and eight simple ones in two clusters.
HYBRID_CPUINFO = '''\
processor\t: 0
vendor_id\t: GenuineIntel
model\t\t: 154
model name\t: 12th Gen Intel(R) Core(TM) i5-1235U
flags\t\t: fpu sse2 ht lm fma sse4_1 sse4_2 avx f16c avx2 avx_vnni

processor\t: 1
model name\t: 12th Gen Intel(R) Core(TM) i5-1235U
flags\t\t: fpu sse2 ht lm
'''
RASPBERRY_CPUINFO = '''\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Revision\t: c04170
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
'''


def hybrid():
    files = {'/proc/cpuinfo': HYBRID_CPUINFO, f'{CPU}/online': '0-11\n',
             '/sys/class/dmi/id/sys_vendor': 'LENOVO\n', '/sys/class/dmi/id/product_name': '21BX\n'}
    for core in range(12):
        fast, pair = core < 4, core // 2 * 2
        cluster = core // 4 * 4
        siblings = f'{pair}-{pair + 1}' if fast else str(core)
        files |= {
            f'{CPU}/cpu{core}/topology/thread_siblings_list': siblings,
            f'{CPU}/cpu{core}/cpufreq/cpuinfo_min_freq': '400000\n',
            f'{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq': '4400000\n' if fast else '3300000\n',
            f'{CPU}/cpu{core}/cpufreq/scaling_governor': 'powersave\n',
            f'{CPU}/cpu{core}/cpufreq/scaling_driver': 'intel_pstate\n',
        }
        caches = [('1', 'Data', '48K' if fast else '32K', siblings),
                  ('2', 'Unified', '1280K' if fast else '2048K', siblings if fast else f'{cluster}-{cluster + 3}'),
                  ('3', 'Unified', '12288K', '0-11')]
        for index, (level, kind, size, shared) in enumerate(caches):
            folder = f'{CPU}/cpu{core}/cache/index{index}'
            files |= {f'{folder}/level': level, f'{folder}/type': kind, f'{folder}/size': size,
                      f'{folder}/shared_cpu_list': shared}
    return files


def test_this_machine_goes_through_json_unchanged():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found['memory'] > found['memory_available'] > 0
    assert 1 <= found['usable_cores'] <= found['logical_cores']


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ('linux', 'x86_64') or not shutil.which('lscpu'), reason='needs lscpu on x86')
def test_this_machine_is_the_one_that_lscpu_sees():
    found = environment()
    said = json.loads(subprocess.run(['lscpu', '--json'], capture_output=True, text=True, check=True).stdout)
    lscpu = {row['field'].rstrip(':'): row['data'] for row in _rows(said['lscpu'])}
    assert found['logical_cores'] == int(lscpu['CPU(s)'])
    assert found['architecture'] == lscpu['Architecture']
    assert found['cpu'] == lscpu['Model name']
    assert set(found['instruction_sets']) <= set(lscpu['Flags'].split())
    assert (found['hypervisor'] != 'none') == ('Hypervisor vendor' in lscpu)


def _rows(rows):
    """Newer ones nest them."""
    for row in rows:
        yield row
        yield from _rows(row.get('children', []))


def test_two_kinds_of_cores_are_told_apart(other_machine):
    other_machine(hybrid())
    found = environment()
    assert found['cpu'] == '12th Gen Intel(R) Core(TM) i5-1235U'
    assert found['instruction_sets'] == ['sse4_1', 'sse4_2', 'avx', 'f16c', 'fma', 'avx2', 'avx_vnni']
    assert found['hypervisor'] == 'none'
    common = {'min_frequency': 400, 'governor': 'powersave', 'driver': 'intel_pstate'}
    assert found['core_groups'] == [
        {'cores': [0, 1, 2, 3], 'max_frequency': 4400, **common},
        {'cores': [4, 5, 6, 7, 8, 9, 10, 11], 'max_frequency': 3300, **common},
    ]
    assert found['caches'] == [
        {'level': 1, 'type': 'data', 'size': 32 * 1024, 'count': 8},
        {'level': 1, 'type': 'data', 'size': 48 * 1024, 'count': 2},
        {'level': 2, 'type': 'unified', 'size': 1280 * 1024, 'count': 2},
        {'level': 2, 'type': 'unified', 'size': 2048 * 1024, 'count': 2},
        {'level': 3, 'type': 'unified', 'size': 12 * 1024 ** 2, 'count': 1},
    ]


@pytest.mark.parametrize(('allowed', 'expected'), [
    (range(12), 10),
    ([0, 1, 2], 2),  # two of them are one core
    ([1, 3, 8], 3),
])
def test_two_threads_of_a_core_count_as_one_usable_core(other_machine, monkeypatch, allowed, expected):
    other_machine(hybrid())
    monkeypatch.setattr(cores, 'affinity', lambda: list(allowed))
    assert usable_cores() == expected


def test_a_raspberry_pi_has_its_name_from_the_device_tree(other_machine):
    other_machine({'/proc/cpuinfo': RASPBERRY_CPUINFO, '/proc/device-tree/model': 'Raspberry Pi 5 Model B Rev 1.0\0',
                   f'{CPU}/online': '0-3'})
    found = environment()
    assert found['cpu'] == 'Raspberry Pi 5 Model B Rev 1.0'
    assert found['instruction_sets'] == ['asimd', 'fphp', 'asimdhp', 'asimddp']
    assert found['hypervisor'] is None  # ARM processors do not tell
    assert (found['core_groups'], found['caches']) == ([], [])


def test_a_machine_without_proc_and_sys_says_none_instead_of_guessing(other_machine):
    other_machine({})
    found = environment()
    assert found['cpu'] == cpu_name() != ''
    for unknown in ('instruction_sets', 'cpu_quota', 'hypervisor', 'memory_limit'):
        assert found[unknown] is None, unknown
    assert (found['core_groups'], found['caches']) == ([], [])
    assert not cpu_computes_bfloat16()


@pytest.mark.parametrize(('files', 'named'), [
    ({'/sys/class/dmi/id/sys_vendor': 'Amazon EC2', '/sys/class/dmi/id/product_name': 't3.micro'},
     'Amazon EC2 t3.micro'),
    ({'/sys/hypervisor/type': 'xen'}, 'xen'),
    ({}, 'unknown'),
])
def test_a_virtual_machine_names_its_hypervisor(other_machine, files, named):
    other_machine({'/proc/cpuinfo': 'model name : Xeon\nflags : sse2 lm hypervisor avx2', **files})
    assert environment()['hypervisor'] == named


V1 = '4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a\n'
LIMITS = {
    'v2 in a container': (
        {'/proc/self/cgroup': '0::/', '/sys/fs/cgroup/cpu.max': '150000 100000',
         '/sys/fs/cgroup/memory.max': '536870912'}, 1.5, 512 * 1024 ** 2),
    'v2, the tightest of the groups around it': (
        {'/proc/self/cgroup': '0::/job.slice/step', '/sys/fs/cgroup/job.slice/cpu.max': '50000 100000',
         '/sys/fs/cgroup/job.slice/step/cpu.max': '400000 100000', '/sys/fs/cgroup/job.slice/memory.max': 'max',
         '/sys/fs/cgroup/job.slice/step/memory.max': '1048576'}, 0.5, 1048576),
    'v2 without limits': (
        {'/proc/self/cgroup': '0::/user.slice', '/sys/fs/cgroup/user.slice/cpu.max': 'max 100000',
         '/sys/fs/cgroup/user.slice/memory.max': 'max'}, None, None),
    'v2 beside v1': (
        {'/proc/self/cgroup': '0::/', '/sys/fs/cgroup/unified/cpu.max': '200000 100000'}, 2, None),
    'v1 on the host': (
        {'/proc/self/cgroup': V1, '/sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us': '300000',
         '/sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us': '100000',
         '/sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes': '2147483648'}, 3, 2 * 1024 ** 3),
    'v1 in the container, where the path of the group does not exist': (
        {'/proc/self/cgroup': V1, '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '25000',
         '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000'}, 0.25, None),
    'v1 without limits': (
        {'/proc/self/cgroup': V1, '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '-1',
         '/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000',
         '/sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712'}, None, None),
}


@pytest.mark.parametrize('case', LIMITS)
def test_limits_of_a_control_group_are_found(other_machine, monkeypatch, case):
    files, quota, memory = LIMITS[case]
    other_machine(files)
    monkeypatch.setattr(psutil, 'cpu_count', lambda logical=True: 8)
    found = environment()
    assert (found['cpu_quota'], found['memory_limit']) == (quota, memory)
    assert found['usable_cores'] == (8 if quota is None else max(1, int(quota)))


def test_variables_that_change_timings_are_kept_and_others_are_nobodys_business(monkeypatch):
    monkeypatch.setenv('OMP_PROC_BIND', 'true')
    monkeypatch.setenv('LD_PRELOAD', '')
    monkeypatch.setenv('SECRET_TOKEN', 'x')
    found = environment()['variables']
    assert found['OMP_PROC_BIND'] == 'true'
    assert 'LD_PRELOAD' in found
    assert 'SECRET_TOKEN' not in found


@pytest.mark.parametrize(('battery', 'power'), [
    (None, None), (SimpleNamespace(power_plugged=True), 'mains'), (SimpleNamespace(power_plugged=False), 'battery'),
    (SimpleNamespace(power_plugged=None), None),
])
def test_a_notebook_says_what_feeds_it(monkeypatch, battery, power):
    monkeypatch.setattr(psutil, 'sensors_battery', lambda: battery, raising=False)
    assert environment()['power'] == power


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='this system cannot pin')
def test_a_pinned_process_and_the_threads_it_starts_stay_on_their_core(run_python):
    core = min(os.sched_getaffinity(0))
    done = run_python('''
        import os, sys, threading
        from rsq_backbone.profiler.cores import affinity, pin, usable_cores
        pin([int(sys.argv[1])])
        thread = threading.Thread(target=lambda: print(os.sched_getaffinity(0)))
        thread.start(); thread.join()
        print(affinity(), usable_cores())
    ''', str(core))
    assert done.stdout == f'{{{core}}}\n[{core}] 1\n'


def test_cores_that_are_not_there_are_refused():
    with pytest.raises(UserError, match='cannot pin to the cores 0, 4096: this process may use'):
        pin([0, 4096])
    with pytest.raises(UserError, match='empty list'):
        pin([])


def test_a_system_that_cannot_pin_says_so(monkeypatch):
    monkeypatch.delattr(psutil.Process, 'cpu_affinity', raising=False)
    assert affinity() is None
    with pytest.raises(UserError, match='cannot pin'):
        pin([0])


def test_lists_of_cores_are_linuxs():
    assert core_list('0-2,5,7-8') == {0, 1, 2, 5, 7, 8}
    assert core_list('') == set()
