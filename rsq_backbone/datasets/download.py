"""Download of one file over HTTP, continued where it broke off."""
import dataclasses
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, Iterator, Optional, Tuple

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import write_text
from rsq_backbone.progress import Progress, silent

__all__ = ['download']

TIMEOUT_SECONDS = 30.0  # without a byte
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0)  # before each further try
_MB = 1_000_000
# What If-Range takes (RFC 9110, 13.1.5): a strong ETag (a weak one begins with W/) or a date.
_VALIDATOR = re.compile(r'"[!#-~]*"|[A-Z][a-z]{2}, [ -~]{1,60}')
_CONTENT_RANGE = re.compile(r'bytes (?:(\d{1,15})-\d{1,15}|\*)/(\d{1,15})')


def download(url: str, target: Path, what: str, max_bytes: int, progress: Progress = silent) -> None:
    """Fetch `url` to `target`, which appears when it is whole; only one call at a time may work on the same target.

    What a broken connection or a killed process left behind (`target` + '.part') is continued if the server can tell
    that it still has the same file.

    Args:
        what: For the progress, which counts megabytes of 1,000,000 bytes; e.g. 'downloading pictures'.
        max_bytes: More than this is refused, whether the server announces it or not.

    Raises:
        UserError: if the URL is not http(s), or the server cannot be reached, answers with an error, sends too much or
            breaks off again and again. The line says where to put the file when it is fetched by other means.
        OSError: if the file cannot be written.
    """
    part = _Part(url, target)
    if not url.lower().startswith(('http://', 'https://')):
        raise part.error('only http:// and https:// addresses can be downloaded')
    target.parent.mkdir(parents=True, exist_ok=True)
    for number, wait in enumerate((*WAITS_SECONDS, None), 1):
        try:
            _receive(part, f'{what}, MB', max_bytes, progress)
            break
        except _BrokenOff as e:
            if number == 1 and isinstance(e, _Unreachable):  # nobody wants to wait to learn that there is no network
                raise part.error(f'cannot be reached ({e})') from e
            if wait is None:
                raise part.error(
                    f'the download broke off {number} times ({e})', 'run the command again to continue it, or ') from e
            time.sleep(wait)
    part.finish()


class _BrokenOff(Exception):
    """Another try may bring more."""


class _Unreachable(_BrokenOff):
    """Nobody answered."""


@dataclass(frozen=True)
class _Remote:
    """The file on the server that a part is the beginning of."""

    url: str
    validator: str
    total: Optional[int]  # bytes


class _Part:
    """The beginning of a file, and beside it what tells whether the server still has the same file."""

    def __init__(self, url: str, target: Path) -> None:
        self.url = url
        self.target = target
        self.path = target.with_name(f'{target.name}.part')
        self._remote_path = target.with_name(f'{target.name}.part.json')

    def error(self, why: str, mend: str = '') -> UserError:
        return UserError(f'{self.url}: {why}; {mend}fetch it by other means and put it at {self.target}.')

    def resumable(self) -> Tuple[int, Optional[_Remote]]:
        """How many bytes there are to continue, and of what; (0, None) if it takes a new start."""
        try:
            remote = _Remote(**json.loads(self._remote_path.read_text(encoding='utf-8')))
            done = self.path.stat().st_size
        except (FileNotFoundError, ValueError, TypeError):
            return 0, None
        return (done, remote) if done and remote.url == self.url else (0, None)

    def restart(self, headers: Message, total: Optional[int]) -> None:
        self.drop()
        offered = (headers.get('ETag', ''), headers.get('Last-Modified', ''))
        if validator := next(filter(_VALIDATOR.fullmatch, offered), None):
            write_text(self._remote_path, json.dumps(dataclasses.asdict(_Remote(self.url, validator, total))))

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._remote_path.unlink(missing_ok=True)

    def finish(self) -> None:
        os.replace(self.path, self.target)
        self._remote_path.unlink(missing_ok=True)


def _receive(part: _Part, what: str, max_bytes: int, progress: Progress) -> None:
    """One try; returns when the part is whole."""
    done, remote = part.resumable()
    try:
        response = _request(part.url, done, remote)
    except urllib.error.HTTPError as e:
        e.close()
        if e.code != 416 or not remote:
            raise part.error(f'the server answers {e.code} {http.client.responses.get(e.code, "")}') from e
        if _content_range(e.headers) == (None, done):  # killed between the last byte and the renaming
            return
        part.drop()
        raise _BrokenOff('the file on the server has changed') from e
    with response:
        if response.status == 206 and remote:
            if _content_range(response.headers) != (done, remote.total):
                part.drop()
                raise _BrokenOff('the server sent another piece than it was asked for')
            total = remote.total
        elif response.status == 200:
            done, total = 0, response.length
            part.restart(response.headers, total)
        else:
            raise part.error(f'the server answers {response.status}')
        with part.path.open('ab') as file:
            for piece in _pieces(response):
                file.write(piece)
                done += len(piece)
                if max(done, total or 0) > max_bytes:
                    file.truncate(0)
                    raise part.error(f'sends more than {max_bytes // _MB} MB, which cannot be right')
                progress(what, -(-done // _MB), None if total is None else -(-total // _MB))
            file.flush()
            os.fsync(file.fileno())
    if total is None:
        progress(what, -(-done // _MB), -(-done // _MB))
    elif done != total:
        raise _BrokenOff(f'{done:,} of {total:,} bytes arrived')


def _request(url: str, done: int, remote: Optional[_Remote]) -> Any:
    headers = {'User-Agent': 'rsq-backbone'}  # some servers refuse urllib's own name
    if remote:
        headers.update({'Range': f'bytes={done}-', 'If-Range': remote.validator})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as e:
        reason = e.reason if isinstance(e, urllib.error.URLError) and isinstance(e.reason, Exception) else e
        raise _Unreachable(one_line(reason)) from e


def _pieces(response: Any) -> Iterator[bytes]:
    """The body as it comes; ends early without an error where the server closes the connection early."""
    try:
        while piece := response.read1(1 << 16):
            yield piece
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise _BrokenOff(one_line(e)) from e


def _content_range(headers: Message) -> Optional[Tuple[Optional[int], int]]:
    """First byte (None in `bytes */total`) and total."""
    match = _CONTENT_RANGE.fullmatch(headers.get('Content-Range', ''))
    return match and (int(match[1]) if match[1] else None, int(match[2]))
