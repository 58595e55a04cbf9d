"""A case's process: whatever becomes of it, the parent gets one line and goes on."""
import os
import signal
import time

import psutil
import pytest

from rsq_backbone.profiler.process import WorkerFailed, WorkerProcess

ECHO = '''
import json, os, signal, subprocess, sys, time
for line in sys.stdin:
    request = json.loads(line)
    do = request['do']
    if do == 'echo':
        print(json.dumps({'result': request.get('value')}))
    elif do == 'variable':
        print(json.dumps({'result': os.environ.get(request['name'])}))
    elif do == 'refuse':
        print(json.dumps({'error': 'refused', 'message': 'too small'}))
    elif do == 'exit':
        print('about to go', file=sys.stderr)
        print('Killed by hand', file=sys.stderr)
        sys.exit(7)
    elif do == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == 'sleep':
        time.sleep(60)
    elif do == 'child':
        child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
        print(json.dumps({'result': child.pid}))
'''


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / 'echoing.py').write_text(ECHO)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    with WorkerProcess('echoing', {'RSQ_TEST_VARIABLE': 'there before anything is loaded'}) as process:
        yield process


def test_it_answers_what_it_is_asked(worker):
    assert worker.ask({'do': 'echo', 'value': [1, 'Größe', None]}) == [1, 'Größe', None]
    assert worker.ask({'do': 'variable', 'name': 'RSQ_TEST_VARIABLE'}) == 'there before anything is loaded'
    assert psutil.pid_exists(worker.pid)


def test_a_fault_that_it_reports_keeps_it_alive(worker):
    with pytest.raises(WorkerFailed, match='too small') as failed:
        worker.ask({'do': 'refuse'})
    assert failed.value.kind == 'refused'
    assert worker.ask({'do': 'echo', 'value': 1}) == 1


def test_one_that_ends_is_quoted_by_its_last_words(worker):
    with pytest.raises(WorkerFailed, match='ended with exit code 7: Killed by hand') as failed:
        worker.ask({'do': 'exit'})
    assert failed.value.kind == 'crashed'
    with pytest.raises(WorkerFailed, match='exit code 7'):
        worker.ask({'do': 'echo'})


def test_one_that_is_killed_is_said_to_be(worker):
    with pytest.raises(WorkerFailed, match=f'killed by signal {signal.SIGKILL.value}'):
        worker.ask({'do': 'die'})


def test_one_that_hangs_is_given_up(worker):
    with pytest.raises(WorkerFailed, match='no answer'):
        worker.ask({'do': 'sleep'}, timeout=0.2)


def test_once_closed_nothing_of_it_lives_on(worker):
    child = worker.ask({'do': 'child'})
    worker.close()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not psutil.pid_exists(worker.pid)
    worker.close()


def test_waiting_for_it_takes_no_processor_time(worker):
    before = time.process_time()
    with pytest.raises(WorkerFailed):
        worker.ask({'do': 'sleep'}, timeout=0.5)
    assert time.process_time() - before < 0.25  # a loop that asks again and again takes all of the half second


@pytest.mark.skipif(not hasattr(os, 'getpgid'), reason='there are no process groups')
def test_ctrl_c_does_not_reach_it(worker):
    assert os.getpgid(worker.pid) != os.getpgid(0)
