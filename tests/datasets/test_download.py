import random
import signal
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler

import pytest

from rsq_backbone.datasets import download as module
from rsq_backbone.datasets.download import download
from rsq_backbone.errors import UserError

MB = 1_000_000
BODY = random.Random(0).randbytes(3_300_000)
OTHER = random.Random(1).randbytes(3_300_000)
NO_ANSWER = -1
DATE = 'Wed, 21 Oct 2015 07:28:00 GMT'


class Handler(BaseHTTPRequestHandler):
    """Serves one file, as well or as badly as the test wants it."""

    def do_GET(self):
        server = self.server
        if server.raw is not None:
            self.wfile.write(server.raw)
            return
        if self.path == '/moved':
            self.send_response(302)
            self.send_header('Location', server.moved_to)
            self.end_headers()
            return
        wanted, unless_changed = self.headers['Range'], self.headers['If-Range']
        server.asked.append((wanted, unless_changed))
        validators = {'ETag': server.etag, 'Last-Modified': server.date}
        same = unless_changed in (None, *validators.values()) or server.ignores_if_range
        if server.cuts[:1] == [NO_ANSWER]:
            server.cuts.pop(0)
            return
        start, status = 0, server.status
        headers = {name: value for name, value in validators.items() if value}
        if wanted and same and server.ranges and status == 200:
            start, size = int(wanted[len('bytes='):-1]), len(server.body)
            status = 206 if start < size else 416
            start = max(start - server.off_by, 0)
            headers['Content-Range'] = f'bytes {start}-{size - 1}/{size}' if status == 206 else f'bytes */{size}'
        piece = server.body[start:] if status in (200, 206) else b''
        if server.tells_length:
            headers['Content-Length'] = str(len(piece))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        piece = piece[:server.cuts.pop(0) if server.cuts else None]
        try:
            self.wfile.write(piece)
            server.sent += len(piece)
            self.wfile.flush()
            server.go_on.wait(10)
        except OSError:  # the client has hung up
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(module, 'WAITS_SECONDS', (0, 0, 0, 0))
    with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Handler) as server:
        server.daemon_threads = True
        server.url = f'http://127.0.0.1:{server.server_address[1]}/file.zip'
        server.body, server.etag, server.date, server.status = BODY, '"first"', None, 200
        server.tells_length, server.ranges, server.ignores_if_range, server.off_by = True, True, False, 0
        server.cuts, server.asked, server.sent = [], [], 0  # bytes of the body that each answer ends after
        server.raw = server.moved_to = None
        server.go_on = threading.Event()
        server.go_on.set()
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / 'new' / 'folder' / 'file.zip'


def fetch(server, target, max_bytes=10 * MB):
    """Download and give the progress that was told."""
    told = []
    download(server.url, target, 'downloading it', max_bytes, lambda *args: told.append(args))
    return told


def refusal(server, target, **kwargs):
    """The one line that a failing download says, which must tell what to fetch and where to put it."""
    with pytest.raises(UserError) as raised:
        fetch(server, target, **kwargs)
    message = str(raised.value)
    assert '\n' not in message
    assert server.url in message
    assert message.endswith(f'fetch it by other means and put it at {target}.')
    assert not target.exists()
    return message


def left_beside(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_the_file_arrives_whole_with_progress_in_megabytes(server, target):
    told = fetch(server, target)
    assert target.read_bytes() == BODY
    assert left_beside(target) == ['file.zip']
    assert {(what, total) for what, _, total in told} == {('downloading it, MB', 4)}
    done = [done for _, done, _ in told]
    assert done == sorted(done)
    assert set(done) == {1, 2, 3, 4}  # 3.3 MB: the fourth has begun


def test_a_server_that_does_not_tell_the_length_is_believed_at_the_end(server, target):
    server.tells_length = False
    told = fetch(server, target)
    assert target.read_bytes() == BODY
    assert {total for _, _, total in told[:-1]} == {None}
    assert told[-1][1:] == (4, 4)


def test_a_broken_connection_is_continued_and_no_byte_sent_twice(server, target):
    server.cuts = [MB, 700_000]
    told = fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.asked == [(None, None), ('bytes=1000000-', '"first"'), ('bytes=1700000-', '"first"')]
    assert server.sent == len(BODY)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert left_beside(target) == ['file.zip']


def test_a_server_that_cannot_be_reached_again_at_once_is_tried_again(server, target):
    server.cuts = [MB, NO_ANSWER, NO_ANSWER]
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.sent == len(BODY)


def test_a_server_without_ranges_is_asked_from_the_start(server, target):
    server.ranges = False
    server.cuts = [MB]
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.sent == MB + len(BODY)


@pytest.mark.parametrize(('etag', 'date', 'named'), [
    ('"first"', DATE, '"first"'),
    (None, DATE, DATE),
    ('W/"first"', DATE, DATE),  # weak ETags say that files mean the same, not that they have the same bytes
])
def test_the_server_is_asked_to_send_all_if_the_file_has_changed(server, target, etag, date, named):
    server.etag, server.date, server.cuts = etag, date, [MB]
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.asked == [(None, None), ('bytes=1000000-', named)]


@pytest.mark.parametrize('etag', [None, 'W/"first"', '"fir\x07st"', 'first'])
def test_a_part_is_not_continued_where_a_change_could_not_be_noticed(server, target, etag):
    server.etag, server.cuts = etag, [MB]
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.asked == [(None, None), (None, None)]


@pytest.fixture
def broken_download(server, target):
    """A part of 1 MB, left by five broken connections."""
    server.cuts = [MB, 0, 0, 0, 0]
    message = refusal(server, target)
    assert 'broke off 5 times (1,000,000 of 3,300,000 bytes arrived); run the command again to continue it' in message
    assert server.asked == [(None, None)] + 4 * [('bytes=1000000-', '"first"')]
    server.asked.clear()


@pytest.mark.usefixtures('broken_download')
def test_a_later_call_continues(server, target):
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.asked == [('bytes=1000000-', '"first"')]
    assert server.sent == len(BODY)


@pytest.mark.usefixtures('broken_download')
@pytest.mark.parametrize('body', [OTHER, OTHER[:900_000], OTHER + OTHER], ids=['as long', 'shorter', 'longer'])
def test_a_file_that_changed_between_two_calls_is_not_glued_to_the_old_part(server, target, body):
    server.body, server.etag = body, '"second"'
    fetch(server, target)
    assert target.read_bytes() == body


@pytest.mark.usefixtures('broken_download')
@pytest.mark.parametrize('body', [OTHER[:900_000], OTHER + OTHER], ids=['shorter', 'longer'])
def test_a_change_of_length_is_noticed_where_the_server_ignores_if_range(server, target, body):
    server.body, server.ignores_if_range = body, True
    fetch(server, target)
    assert target.read_bytes() == body


@pytest.mark.usefixtures('broken_download')
def test_another_piece_than_the_one_asked_for_is_not_used(server, target):
    server.off_by = 5
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.asked == [('bytes=1000000-', '"first"'), (None, None)]


@pytest.mark.usefixtures('broken_download')
def test_the_part_of_another_url_is_not_used(server, target):
    server.url += '?other'
    fetch(server, target)
    assert server.asked == [(None, None)]


@pytest.mark.usefixtures('broken_download')
@pytest.mark.parametrize('note', ['', '{', '[]', '{"url": 1}', '"x"', '\x00'])
def test_a_part_whose_origin_is_unreadable_is_not_used(server, target, note):
    (target.parent / 'file.zip.part.json').write_text(note)
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.asked == [(None, None)]


def test_a_part_that_is_whole_already_is_not_sent_again(server, target, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module._Part, 'finish', interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, target)
    assert left_beside(target) == ['file.zip.part', 'file.zip.part.json']
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.asked[1:] == [('bytes=3300000-', '"first"')]
    assert server.sent == len(BODY)


@pytest.mark.usefixtures('broken_download')
def test_a_server_in_trouble_costs_nothing_of_the_part(server, target):
    server.status = 503
    assert 'the server answers 503 Service Unavailable' in refusal(server, target)
    server.status = 200
    fetch(server, target)
    assert server.sent == len(BODY)


@pytest.mark.parametrize(('status', 'says'), [
    (404, '404 Not Found'), (403, '403 Forbidden'), (204, '204'), (416, '416'),
])
def test_an_answer_without_the_file_is_told(server, target, status, says):
    server.status = status
    assert f'the server answers {says}' in refusal(server, target)
    assert len(server.asked) == 1


def test_without_a_server_one_line_says_at_once_what_to_fetch_and_where_to_put_it(server, target, monkeypatch):
    monkeypatch.setattr(time, 'sleep', lambda seconds: pytest.fail('waited'))
    with socketserver.TCPServer(('127.0.0.1', 0), Handler) as closed:
        server.url = f'http://127.0.0.1:{closed.server_address[1]}/file.zip'
    assert 'cannot be reached ([Errno 111] Connection refused)' in refusal(server, target)


def test_a_server_that_falls_silent_is_given_up(server, target, monkeypatch):
    monkeypatch.setattr(module, 'TIMEOUT_SECONDS', 0.1)
    monkeypatch.setattr(module, 'WAITS_SECONDS', (0,))
    server.cuts = [MB, 0]
    server.go_on.clear()
    assert 'broke off 2 times (timed out)' in refusal(server, target)


@pytest.mark.parametrize('tells_length', [True, False])
def test_absurd_sizes_are_refused_announced_or_not(server, target, tells_length):
    server.tells_length = tells_length
    assert 'more than 2 MB' in refusal(server, target, max_bytes=2 * MB)
    assert sum(path.stat().st_size for path in target.parent.iterdir()) < 1000


@pytest.mark.parametrize('url', ['ftp://127.0.0.1/file.zip', 'file:///etc/hostname', 'data:,x', '/etc/hostname', ''])
def test_only_web_addresses_are_downloaded(server, target, url):
    server.url = url
    assert 'only http:// and https://' in refusal(server, target)


@pytest.mark.parametrize('url', ['http://', 'http://[::1', 'http://127.0.0.1:port/', 'http://127.0.0.1:1/a b\n'])
def test_malformed_addresses_are_refused(target, url):
    with pytest.raises(UserError, match='cannot be reached'):
        download(url, target, 'downloading', MB)


def test_redirections_are_followed_with_the_range_asked_for(server, target):
    server.moved_to = server.url
    server.url = server.url.replace('file.zip', 'moved')
    server.cuts = [MB]
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.asked[1] == ('bytes=1000000-', '"first"')


@pytest.mark.parametrize('to', ['file:///etc/hostname', '/moved'])
def test_redirections_to_files_or_round_in_circles_are_refused(server, target, to):
    server.moved_to = to
    server.url = server.url.replace('file.zip', 'moved')
    assert 'the server answers 302 Found' in refusal(server, target)


OK = b'HTTP/1.1 200 OK\r\n'


@pytest.mark.parametrize('raw', [
    b'',
    b'\x00' * 1000,
    b'HTTP/1.1 two hundred\r\n\r\n',
    b'HTTP/1.1 99999 OK\r\n\r\n',
    OK + b'X: y\r\n' * 1000 + b'\r\n',
    OK + b'X: ' + b'y' * 100_000 + b'\r\n\r\n',
    OK + b'Content-Length: 10\r\n\r\nhalf',
    OK + b'Content-Length: 99999999999999999999\r\n\r\nhalf',
    OK + b'Transfer-Encoding: chunked\r\n\r\nZZZ\r\nhalf',
    OK + b'Transfer-Encoding: chunked\r\n\r\n5\r\nhalf',
    OK + b'Transfer-Encoding: chunked\r\n\r\n-5\r\nhalf',
    b'HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/10\r\n\r\nabcde',
    b'HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n',
], ids=range(13))
def test_whatever_the_server_says_is_no_crash_and_no_file(server, target, raw):
    server.raw = raw
    refusal(server, target)


# Ends itself by SIGKILL before the n-th thing that it does to a file, or as soon as the progress says so many MB.
DYING = '''
import os, signal, sys
from pathlib import Path
from rsq_backbone.datasets.download import download

url, target, steps, megabytes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def count(event, args):
    global steps
    if event in ('open', 'os.mkdir', 'os.chmod', 'os.rename', 'os.remove') and str(target.parent) in str(args[0]):
        steps -= 1
        if steps == 0:
            die()

sys.addaudithook(count)
download(url, target, 'downloading it', 10_000_000, lambda what, done, total: die() if done >= megabytes else None)
'''


def test_killed_before_any_step_leaves_nothing_that_looks_finished_and_can_be_run_again(
        server, tmp_path, run_python):
    for step in range(1, 100):
        target = tmp_path / str(step) / 'file.zip'
        status = run_python(DYING, server.url, str(target), str(step), '99', check=False).returncode
        assert status in (0, -signal.SIGKILL)
        if target.exists():
            assert target.read_bytes() == BODY
        else:
            fetch(server, target)
            assert target.read_bytes() == BODY
        visible = [name for name in left_beside(target) if not name.startswith('.')]
        assert visible in (['file.zip'], ['file.zip', 'file.zip.part.json'])
        if status == 0:
            break
    assert step > 10


def test_killed_in_mid_download_goes_on_from_there(server, target, run_python):
    server.go_on.clear()
    server.cuts = [2 * MB]
    done = run_python(DYING, server.url, str(target), '0', '2', check=False)
    assert done.returncode == -signal.SIGKILL
    part = target.with_name('file.zip.part').read_bytes()
    assert len(part) > 900_000
    assert part == BODY[:len(part)]
    server.go_on.set()
    fetch(server, target)
    assert target.read_bytes() == BODY
    assert server.asked[1:] == [(f'bytes={len(part)}-', '"first"')]
