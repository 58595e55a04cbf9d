import base64
import contextlib
import io
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import numpy as np
import pytest
from browser import browser, chromium
from fastapi.testclient import TestClient
from PIL import Image

from rsq_backbone.deploy.deployment import Deployment
from rsq_backbone.deploy.loader import Artifact, load
from rsq_backbone.deploy.serve import create_app

SERVE = [sys.executable, '-c', 'from rsq_backbone.cli import main; main()', 'serve']


def encoded(picture: Image.Image, kind: str = 'PNG') -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


RED = encoded(Image.new('RGB', (80, 60), (200, 50, 40)))


@pytest.fixture(scope='module')
def artifact(deployment: Deployment) -> Artifact:
    return load(deployment.folder, threads=1)


@pytest.fixture
def client(artifact: Artifact) -> TestClient:
    return TestClient(create_app(artifact, max_bytes=100_000, hosts=['testserver']))


# ---- the interface ----

@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF'])
def test_a_picture_of_any_kind_is_classified(client: TestClient, artifact: Artifact, kind: str) -> None:
    picture = Image.new('RGB', (80, 60), (200, 50, 40))
    answer = client.post('/predict', content=encoded(picture, kind))
    assert answer.status_code == 200
    result = answer.json()
    assert (result['task'], result['width'], result['height'], result['mask']) == ('classification', 80, 60, None)
    assert result['classes'][0]['class_name'] == 'red'
    assert sum(one['probability'] for one in result['classes']) == pytest.approx(1, abs=1e-5)
    assert result['milliseconds']['network'] > 0


def test_a_form_is_taken_as_every_tutorial_sends_it(client: TestClient) -> None:
    expected = client.post('/predict', content=RED).json()
    for name in ('file', 'image'):
        answer = client.post('/predict', files={name: ('red.png', RED, 'image/png')}, data={'more': 'text'})
        assert answer.status_code == 200
        assert answer.json()['classes'] == expected['classes']


@pytest.mark.parametrize(('request_', 'said'), [
    ({'files': [('a', ('a.png', RED)), ('b', ('b.png', RED))]}, 'the form has 2 files instead of one'),
    ({'files': {'file': ('a.txt', b'hello')}}, 'not a JPEG, PNG'),
    ({'json': {'image': base64.b64encode(RED).decode()}}, 'application/json is not taken; send the bytes'),
    ({'data': {'image': 'red.png'}}, 'application/x-www-form-urlencoded is not taken; send the bytes'),
    ({'content': b'--x broken', 'headers': {'content-type': 'multipart/form-data; boundary=x'}}, 'the form'),
    ({'content': RED, 'headers': {'content-type': 'multipart/form-data'}}, 'the form is damaged'),
])
def test_what_is_wrong_with_a_request_is_named(client: TestClient, request_: Any, said: str) -> None:
    answer = client.post('/predict', **request_)
    assert answer.status_code == 415
    assert said in answer.json()['detail']


def test_a_form_is_no_way_around_the_limit_of_size(client: TestClient) -> None:
    assert client.post('/predict', files={'file': ('a.png', RED + bytes(100_001))}).status_code == 413


def test_the_server_is_watched_by_get_and_head(client: TestClient) -> None:
    assert client.get('/healthz').json()['status'] == 'ok'
    assert (client.head('/healthz').status_code, client.head('/healthz').content) == (200, b'')


@pytest.mark.parametrize(('content', 'status', 'said'), [
    (b'', 415, 'the request is empty; send the bytes of the picture (curl --data-binary'),
    (b'hello', 415, 'not a JPEG, PNG'),
    (b'%!PS-Adobe-3.0', 415, 'not a JPEG, PNG'),
    (b'\0' * 100_001, 413, 'more than 0.1 MB'),
    (RED[:60], 422, 'damaged image'),
    (encoded(Image.new('RGB', (4, 4))), 422, 'too small'),
    (encoded(Image.new('RGB', (9, 900))), 422, 'too narrow'),
    (encoded(Image.new('1', (20_000, 20_000))), 422, 'more than 100 million pixels'),
    (b'RIFF' + b'\0' * 100, 422, ''),
])
def test_what_cannot_be_used_is_refused_with_its_own_code(
        client: TestClient, content: bytes, status: int, said: str) -> None:
    answer = client.post('/predict', content=content)
    assert answer.status_code == status
    detail = answer.json()['detail']
    assert said in detail
    assert '\n' not in detail
    assert 'tmp' not in detail  # where the server keeps its files is nobody's business


def test_a_body_that_says_nothing_of_its_length_is_cut_off(client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield b'\xff\xd8\xff' + b'\0' * 9_997

    assert client.post('/predict', content=endless()).status_code == 413


def test_more_than_the_queue_holds_is_turned_away(artifact: Artifact) -> None:
    """One in work, one waiting: two more are told to come back, and the first two get their answers."""
    running, go_on = threading.Event(), threading.Event()

    class Slow(Artifact):
        def classify(self, picture: np.ndarray) -> np.ndarray:
            running.set()
            assert go_on.wait(20)
            return super().classify(picture)

    slow = Slow(artifact.folder, artifact.config, artifact._run)
    with TestClient(create_app(slow, queue=1)) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.post, '/predict', content=RED)
        assert running.wait(20)
        others = [pool.submit(client.post, '/predict', content=RED) for _ in range(3)]
        refused = [one.result().status_code for one in itertools.islice(as_completed(others, timeout=20), 2)]
        assert refused == [503, 503]
        assert client.get('/healthz').json()['status'] == 'ok'
        go_on.set()
        answers = [one.result(20) for one in (first, *others)]
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503]
    assert {answer.headers.get('Retry-After') for answer in answers if answer.status_code == 503} == {'1'}


def test_health_and_description(client: TestClient, artifact: Artifact) -> None:
    health = client.get('/healthz').json()
    assert health == {
        'status': 'ok', 'task': 'classification', 'model': 'res_squeezenet_lite', 'classes': 3,
        'runtime': artifact.config['runtime'], 'precision': artifact.config['precision']}
    described: Dict[str, Any] = client.get('/openapi.json').json()
    predict = described['paths']['/predict']['post']
    assert set(predict['responses']) >= {'200', '408', '413', '415', '422', '503'}
    assert 'image/*' in predict['requestBody']['content']
    assert '/healthz' in described['paths']


def test_pages_let_nothing_in_from_elsewhere(client: TestClient) -> None:
    page = client.get('/')
    assert "default-src 'none'" in page.headers['Content-Security-Policy']
    assert page.headers['X-Content-Type-Options'] == 'nosniff'
    for path in ('/', '/page.css', '/page.js'):
        assert not re.search(r'https?://', client.get(path).text)
    for path in ('/docs', '/../config.json', '/page/page.html', '/etc/passwd', '/config.json'):
        assert client.get(path).status_code == 404


def test_a_name_that_is_not_the_servers_is_refused(client: TestClient) -> None:
    assert client.get('/healthz', headers={'Host': 'evil.example'}).status_code == 400


def test_a_mask_is_a_png_with_its_classes_shares(artifact: Artifact) -> None:
    config: Dict[str, Any] = {
        **artifact.config, 'task': 'segmentation', 'classes': ['dark', 'bright'], 'size_multiple': 32}
    halves = Artifact(
        artifact.folder, config, lambda batch: np.stack([-batch[:, 0], batch[:, 0]], 1))  # sign of the red channel
    picture = Image.new('RGB', (40, 30))
    picture.paste((255, 255, 255), (0, 0, 10, 30))
    answer = TestClient(create_app(halves)).post('/predict', content=encoded(picture)).json()
    assert answer['classes'] == [
        {'class_name': 'dark', 'probability': None, 'fraction': pytest.approx(0.75), 'color': None},
        {'class_name': 'bright', 'probability': None, 'fraction': pytest.approx(0.25),
         'color': answer['classes'][1]['color']}]
    kind, data = answer['mask'].split(',', 1)
    assert kind == 'data:image/png;base64'
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    red, green, blue, opaque = shown.convert('RGBA').getpixel((0, 0))
    assert (f'#{red:02x}{green:02x}{blue:02x}', opaque) == (answer['classes'][1]['color'], 255)
    assert shown.convert('RGBA').getpixel((39, 0))[3] == 0
    mask = np.asarray(shown)
    assert mask.shape == (30, 40)
    assert (mask[:, :10] == 1).all()
    assert (mask[:, 10:] == 0).all()


# ---- the command ----

@pytest.fixture
def server(deployment: Deployment) -> Iterator[Tuple[str, 'subprocess.Popen[str]']]:
    process = subprocess.Popen(
        [*SERVE, deployment.folder, '--port', '0', '--threads', '1', '--queue', '2', '--max-mb', '1'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    url = re.match(r'http://127\.0\.0\.1:\d+', line)
    assert url, (line, process.stderr.read() if process.stderr else '')
    try:
        yield url.group(), process
    finally:
        process.kill()
        process.wait()


LOAD = '''
import random, sys, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor

url, good = sys.argv[1], open(sys.argv[2], 'rb').read()
bodies = {'good': good, 'text': b'hello', 'cut': good[:len(good) // 2], 'large': bytes(2_000_000)}

def send(name):
    try:
        request = urllib.request.Request(url + '/predict', bodies[name], method='POST')
        with urllib.request.urlopen(request, timeout=60) as answer:
            return name, answer.status
    except urllib.error.HTTPError as e:
        return name, e.code
    except (urllib.error.URLError, ConnectionError):
        return name, 'reset'  # of an upload that is refused before it has ended

names = [name for name in bodies for _ in range(25)]
random.Random(0).shuffle(names)
with ThreadPoolExecutor(8) as pool:
    for name, status in pool.map(send, names):
        print(name, status)
'''


def test_a_bounded_load_of_good_and_bad_pictures_is_answered_and_survived(
        server: Tuple[str, 'subprocess.Popen[str]'], photos: Path) -> None:
    url, process = server
    done = subprocess.run(
        [sys.executable, '-c', LOAD, url, str(photos / 'red' / '00.png')], capture_output=True, text=True, timeout=120,
        check=True)
    answers = [tuple(line.split()) for line in done.stdout.splitlines()]
    assert len(answers) == 100
    allowed = {'good': {'200', '503'}, 'text': {'415'}, 'cut': {'422', '503'}, 'large': {'413', 'reset'}}
    assert [one for one in answers if one[1] not in allowed[one[0]]] == []
    assert ('good', '200') in answers
    assert process.poll() is None
    with urllib.request.urlopen(f'{url}/healthz', timeout=20) as answer:
        assert json.load(answer)['status'] == 'ok'


def test_idle_connections_and_broken_uploads_leave_it_quiet_and_answering(
        server: Tuple[str, 'subprocess.Popen[str]']) -> None:
    url, process = server
    address = '127.0.0.1', int(url.rpartition(':')[2])
    idle = [socket.create_connection(address) for _ in range(80)]
    for connection in idle[:8]:
        connection.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf')
    for connection in idle[:4]:
        connection.close()
    request = urllib.request.Request(f'{url}/predict', RED, method='POST')
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200
    for connection in idle:
        connection.close()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ('stopped\n', '')


def test_a_client_that_has_closed_its_side_is_answered(server: Tuple[str, 'subprocess.Popen[str]']) -> None:
    with socket.create_connection(('127.0.0.1', int(server[0].rpartition(':')[2]))) as connection:
        connection.settimeout(20)
        connection.sendall(
            b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n' % len(RED) + RED)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100).startswith(b'HTTP/1.1 200')


def test_connections_that_send_nothing_are_closed_and_more_than_it_can_hold_refused(
        server: Tuple[str, 'subprocess.Popen[str]']) -> None:
    address = '127.0.0.1', int(server[0].rpartition(':')[2])
    idle = [socket.create_connection(address) for _ in range(300)]
    idle[0].sendall(b'POST /predict HTTP/1.1\r\nHost: local')
    for connection in idle:
        connection.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b''
        connection.close()
    with urllib.request.urlopen(f'{server[0]}/healthz', timeout=20) as answer:
        assert answer.status == 200


def test_at_its_end_the_picture_at_work_is_finished_and_the_others_are_refused(artifact: Artifact) -> None:
    app = create_app(artifact, queue=8)
    started = threading.Event()

    def classify(picture: np.ndarray) -> np.ndarray:
        started.set()
        assert app.state.ending.wait(60)
        return np.array([1, 0, 0], np.float32)

    with pytest.MonkeyPatch.context() as patch, TestClient(app) as client, ThreadPoolExecutor(4) as pool:
        patch.setattr(artifact, 'classify', classify)
        answers = [pool.submit(client.post, '/predict', content=RED) for _ in range(4)]
        assert started.wait(60)
        app.state.ending.set()
        found = sorted(answer.result().status_code for answer in answers)
    assert found == [200, 503, 503, 503]


def test_more_uploads_at_once_than_memory_is_for_are_turned_away(
        artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('rsq_backbone.deploy.serve._MOST_UPLOADS', 0)
    answer = TestClient(create_app(artifact)).post('/predict', content=RED)
    assert (answer.status_code, answer.headers['Retry-After']) == (503, '1')


def test_ctrl_c_ends_it_quietly(server: Tuple[str, 'subprocess.Popen[str]']) -> None:
    url, process = server
    urllib.request.urlopen(f'{url}/healthz', timeout=20).close()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, 'stopped\n', '')


def test_a_port_that_is_taken_is_one_line(server: Tuple[str, 'subprocess.Popen[str]'], deployment: Deployment) -> None:
    port = server[0].rpartition(':')[2]
    done = subprocess.run(
        [*SERVE, deployment.folder, '--port', port], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f'rsq: 127.0.0.1 port {port} cannot be listened at')
    assert done.stderr.count('\n') == 1


def test_what_is_no_artifact_is_one_line(tmp_path: Path, rsq: Any) -> None:
    code, out, err = rsq('serve', tmp_path)
    assert (code, out) == (2, '')
    assert 'is no artifact' in err


@pytest.mark.skipif(not chromium(), reason='there is no Chromium')
@pytest.mark.slow
@pytest.mark.parametrize('width', [1200, 360])
def test_a_browser_uploads_a_picture_and_shows_the_classes_or_what_is_wrong(
        server: Tuple[str, 'subprocess.Popen[str]'], photos: Path, tmp_path: Path, width: int) -> None:
    (tmp_path / 'notes.txt').write_text('no picture')
    with browser() as page:
        page.open(server[0], width=width)
        page.until('document.getElementById("model").textContent === "res_squeezenet_lite"')
        page.choose('#file', [photos / 'green' / '00.png'])
        page.until('!document.getElementById("result").hidden')
        assert page.value('document.querySelector("#classes li span").textContent') == 'green'
        assert page.value('document.querySelectorAll("#classes li").length') == 3
        assert re.match(r'network \d+\.\d ms', page.value('document.getElementById("latency").textContent'))
        page.until('document.getElementById("photo").naturalWidth > 0')  # its policy lets the page show it
        assert page.value('document.documentElement.scrollWidth') <= width
        page.screenshot(tmp_path / 'result.png')
        page.choose('#file', [tmp_path / 'notes.txt'])
        page.until('!document.getElementById("error").hidden')
        assert page.value('document.getElementById("error").textContent').startswith('not a JPEG, PNG')
        assert page.value('document.getElementById("result").hidden')
