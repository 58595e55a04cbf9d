"""A case's own process, as the one that started it sees it.

Requests and answers are lines of JSON through pipes. The parent waits in a blocking read, so that on a machine of two
cores both are the case's.
"""
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Any, Dict, Mapping, Optional

__all__ = ['WorkerFailed', 'WorkerProcess']

_LAST_WORDS = 4000  # bytes of standard error that are looked at
_PATIENCE = 1800  # seconds; compilers take minutes, what hangs takes for ever


class WorkerFailed(Exception):
    """A request had no answer.

    Args:
        kind: What the process said it was, one of CaseResult's statuses; 'crashed' where it ended without a word.
        message: One line.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


_RUN = (
    'import sys; sys.path[:] = [path for path in sys.path if path]; '
    'import runpy; runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)')


class WorkerProcess:
    """A fresh Python that runs `module`; to be closed, which ends it whatever it does.

    Args:
        module: Reads requests from standard input and writes an answer each to standard output.
        environment: Variables that have to be there before its libraries are loaded.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            # As `-m module`, which would also import whatever lies in the working folder under a library's name.
            [sys.executable, '-c', _RUN, module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
            env={**os.environ, **environment, 'PYTHONUNBUFFERED': '1'}, text=True, encoding='utf-8',
            # Ctrl-C is for the parent, which ends its children itself and keeps what they found.
            start_new_session=True)
        self._answers: queue.SimpleQueue[Optional[str]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Dict[str, Any], timeout: float = _PATIENCE) -> Any:
        """What the process answers.

        Args:
            request: JSON-able; `do` says what.
            timeout: Seconds to wait for the answer.

        Raises:
            WorkerFailed: if it reports a fault, has ended, or does not answer in time.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + '\n')
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise WorkerFailed('crashed', f'no answer within {timeout:.0f} s') from None
        if line is None:
            raise self._ended()
        answer = json.loads(line)
        if 'error' in answer:
            raise WorkerFailed(answer['error'], answer['message'])
        return answer['result']

    def close(self) -> None:
        if self._stderr.closed:
            return
        # Its children too: compilers, of which one that lives on would hold the pipes open.
        with suppress(ProcessLookupError):
            if hasattr(os, 'killpg'):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # of what was written to a process that had ended
            self._process.stdin.close()
        self._process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> 'WorkerProcess':
        return self

    def __exit__(self, *args: Any) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _ended(self) -> WorkerFailed:
        code = self._process.wait()
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(self._stderr.tell() - _LAST_WORDS, 0))
        lines = self._stderr.read().decode('utf-8', 'replace').strip().splitlines()
        how = f'was killed by signal {-code}' if code < 0 else f'ended with exit code {code}'
        last = f': {lines[-1].strip()}' if lines else ''
        return WorkerFailed('crashed', f'its process {how}{last}')
