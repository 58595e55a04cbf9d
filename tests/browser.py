"""A page in a headless Chromium, spoken to by its own protocol through a pipe."""
import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, List

FLAGS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--remote-debugging-pipe')


def chromium() -> str:
    """Its command, empty where there is none."""
    names = 'chromium', 'chromium-browser', 'google-chrome'
    return next((found for name in names if (found := shutil.which(name))), '')


class Page:
    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = requests, answers
        self._number = 0
        self._rest = b''
        target = self.ask('Target.createTarget', url='about:blank')['targetId']
        self._session = self.ask('Target.attachToTarget', targetId=target, flatten=True)['sessionId']

    def ask(self, method: str, **params: Any) -> Any:
        self._number += 1
        request = {'id': self._number, 'method': method, 'params': params}
        if hasattr(self, '_session'):
            request['sessionId'] = self._session
        os.write(self._requests, json.dumps(request).encode() + b'\0')
        while True:
            while b'\0' not in self._rest:
                data = os.read(self._answers, 1 << 16)
                assert data, 'the browser has ended'
                self._rest += data
            message, _, self._rest = self._rest.partition(b'\0')
            answer = json.loads(message)
            if answer.get('id') == self._number:
                assert 'error' not in answer, answer
                return answer['result']

    def open(self, url: str, width: int = 1200, height: int = 900) -> None:
        self.ask(
            'Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.ask('Page.navigate', url=url)
        self.until('document.readyState === "complete"')

    def value(self, expression: str) -> Any:
        return self.ask('Runtime.evaluate', expression=expression, returnByValue=True)['result'].get('value')

    def until(self, expression: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f'not within {seconds} s: {expression}'
            time.sleep(0.05)

    def choose(self, selector: str, files: List[Path]) -> None:
        """What a user does in the dialogue of a file input."""
        root = self.ask('DOM.getDocument')['root']['nodeId']
        node = self.ask('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.ask('DOM.setFileInputFiles', nodeId=node, files=[str(file) for file in files])

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.ask('Page.captureScreenshot')['data']))


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    requests, answers = os.pipe(), os.pipe()

    def place() -> None:
        """It reads requests from 3 and writes answers to 4."""
        for number, end in enumerate([fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (requests[0], answers[1])], 3):
            os.dup2(end, number)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [chromium(), *FLAGS, f'--user-data-dir={profile}'], preexec_fn=place, pass_fds=(3, 4),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(requests[0])
        os.close(answers[1])
        try:
            yield Page(requests[1], answers[0])
        finally:
            process.kill()
            process.wait()
            os.close(requests[1])
            os.close(answers[0])
