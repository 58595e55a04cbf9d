"""A web page and an interface for programs around one artifact."""
import base64
import io
import tempfile
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import Any, AsyncGenerator, Dict, List, Optional

import anyio
import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

import rsq_backbone
from rsq_backbone.deploy.loader import Artifact, ArtifactError
from rsq_backbone.images import ImageError, read_image

__all__ = ['create_app']

_TOPK = 5
_UPLOAD_SECONDS = 30.0
_MOST_UPLOADS = 16  # at once: each may fill max_bytes of memory
# How the files begin that `read_image` takes; a WebP has its name behind a length.
_BEGINNINGS = (b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n', b'BM', b'GIF8', b'II*\0', b'MM\0*', b'P5', b'P6', b'RIFF')
_PAGE = {'page.html': 'text/html', 'page.css': 'text/css', 'page.js': 'text/javascript'}
# Of each class: hues that lie far apart.
_COLOURS = tuple(
    tuple(round(255 * min(max(abs((i * 0.618034 % 1 * 6 - shift) % 6 - 3) - 1, 0), 1)) for shift in (0, 2, 4))
    for i in range(256))
# Nothing from elsewhere, nothing inline; pictures come from the browser's own memory.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


class FoundClass(BaseModel):
    class_name: str
    probability: Optional[float] = Field(default=None, description='Of a classifier: 0 .. 1.')
    fraction: Optional[float] = Field(default=None, description='Of segmentation: part of all pixels, 0 .. 1.')
    color: Optional[str] = Field(default=None, description='Of segmentation: #rrggbb in the mask; null if transparent.')


class Milliseconds(BaseModel):
    decode: float = Field(description='From the bytes to a picture.')
    network: float = Field(description='From the picture to the result, preprocessing included.')


class Answer(BaseModel):
    task: str = Field(description="'classification' or 'segmentation'.")
    width: int
    height: int
    classes: List[FoundClass] = Field(description='The most probable, or all that occur, the largest first.')
    mask: Optional[str] = Field(None, description='Of segmentation: a PNG with a palette, as a data URL.')
    milliseconds: Milliseconds


class Health(BaseModel):
    status: str
    task: str
    model: str
    classes: int
    runtime: str
    precision: str


class Problem(BaseModel):
    detail: str = Field(description='What is wrong, and how to mend it.')


def create_app(
        artifact: Artifact, *, queue: int = 8, max_bytes: int = 20_000_000, hosts: Optional[List[str]] = None,
) -> FastAPI:
    """A page at /, the interface at /predict, described by /openapi.json, and /healthz for whoever watches.

    Args:
        artifact: What answers, one picture at a time.
        queue: Pictures that may wait for their turn; more are refused (503).
        max_bytes: Of a picture's file; larger ones are refused (413).
        hosts: Names by which the server may be called; a page elsewhere that gave its own name another address would
            else reach it. None allows any.
    """
    config = artifact.config
    app = FastAPI(
        title='rsq serve', version=rsq_backbone.__version__,
        docs_url=None, redoc_url=None,  # both load their parts from elsewhere; /openapi.json does not
        description=f'{config["model"]}, {len(artifact.classes)} classes, run by {config["runtime"]}.')
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    one_at_a_time = anyio.CapacityLimiter(1)
    app.state.ending = ending = threading.Event()
    uploading = waiting = 0

    @app.middleware('http')
    async def secure(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers['Content-Security-Policy'] = _POLICY
        response.headers['X-Content-Type-Options'] = 'nosniff'
        response.headers['Cache-Control'] = 'no-store'
        return response

    @app.head('/healthz', include_in_schema=False)
    @app.get('/healthz', response_model=Health)
    async def healthz() -> Dict[str, Any]:
        """Whether the server lives, and what it serves."""
        return {
            'status': 'ok', 'task': artifact.task, 'model': config['model'], 'classes': len(artifact.classes),
            'runtime': config['runtime'], 'precision': config['precision']}

    picture: Any = {'schema': {'type': 'string', 'format': 'binary'}}
    form: Any = {'schema': {'type': 'object', 'properties': {'file': {'type': 'string', 'format': 'binary'}}}}
    refusals: Dict[Any, Any] = {
        status: {'model': Problem, 'description': description} for status, description in (
            (408, 'The upload took too long.'), (413, 'The file is too large.'),
            (415, 'There is no picture, or several.'),
            (422, 'The picture is damaged, too small, too narrow or too large.'),
            (503, 'Too many pictures wait; try again after as many seconds as Retry-After says.'))}

    @app.post(
        '/predict', response_model=Answer, responses=refusals, openapi_extra={'requestBody': {
            'required': True,
            'description': 'The bytes of a JPEG, PNG, WebP, BMP, GIF or TIFF, or a form with such a file.',
            'content': {
                'image/*': picture, 'application/octet-stream': picture, 'multipart/form-data': form}}})
    async def predict(request: Request) -> Dict[str, Any]:
        """The classes of a picture, or of its pixels.

        `curl --data-binary @photo.jpg http://127.0.0.1:8000/predict` or `curl -F file=@photo.jpg ...`.
        """
        nonlocal uploading, waiting
        busy = HTTPException(503, 'too many pictures wait; try again in a second.', {'Retry-After': '1'})
        if uploading >= _MOST_UPLOADS:
            raise busy
        uploading += 1
        try:
            data = await _picture(request, max_bytes, ending)
        finally:
            uploading -= 1
        if waiting > queue:
            raise busy
        waiting += 1
        try:
            return await anyio.to_thread.run_sync(_answer, artifact, data, ending, limiter=one_at_a_time)
        except ImageError as e:
            raise HTTPException(422, str(e)) from None
        except ArtifactError as e:
            raise HTTPException(500, str(e)) from None
        finally:
            waiting -= 1

    for name, kind in _PAGE.items():
        text = files('rsq_backbone.deploy').joinpath('page', name).read_text(encoding='utf-8')
        path = '/' if name == 'page.html' else f'/{name}'
        app.add_api_route(path, _always(Response(text, media_type=kind)), methods=['GET'], include_in_schema=False)
    return app


def _always(response: Response) -> Any:
    async def respond() -> Response:
        return response

    return respond


async def _body(request: Request, most: int, ending: threading.Event) -> bytes:
    """Of a request, read no further than it may be long, and no longer than a slow line takes or the server lives."""
    too_large = HTTPException(413, f'more than {most / 1e6:g} MB; scale the picture down first.')
    if int(request.headers.get('content-length', '0') or 0) > most:
        raise too_large
    data = bytearray()
    broken = False
    with anyio.move_on_after(_UPLOAD_SECONDS) as upload:
        async with anyio.create_task_group() as watching:
            watching.start_soon(_cancel_at_end, upload, ending)
            try:
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > most:
                        break
            except ClientDisconnect:
                broken = True
            watching.cancel_scope.cancel()
    if broken:  # nobody is left to answer; else a traceback would be
        raise HTTPException(400, 'the upload broke off.')
    if upload.cancelled_caught:
        raise _ended() if ending.is_set() else HTTPException(
            408, f'the upload took more than {_UPLOAD_SECONDS:g} seconds.')
    if len(data) > most:
        raise too_large
    return bytes(data)


async def _cancel_at_end(upload: anyio.CancelScope, ending: threading.Event) -> None:
    while not ending.is_set():
        await anyio.sleep(0.1)
    upload.cancel()


def _ended() -> HTTPException:
    return HTTPException(503, 'the server is being stopped.')


async def _picture(request: Request, most: int, ending: threading.Event) -> bytes:
    """The bytes of the picture that a request brings, as its body or as the file of a form."""
    data = await _body(request, most, ending)
    how = 'send the bytes of the picture (curl --data-binary @photo.jpg) or a form with it (curl -F file=@photo.jpg).'
    kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
    if not data:
        raise HTTPException(415, f'the request is empty; {how}')
    if kind == 'multipart/form-data':

        async def once() -> AsyncGenerator[bytes, None]:
            yield data

        try:
            form = await MultiPartParser(request.headers, once(), max_files=10, max_fields=10).parse()
        except (MultiPartException, KeyError, ValueError) as e:
            raise HTTPException(415, f'the form is damaged ({e}); {how}') from None
        try:
            uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if len(uploads) != 1:
                raise HTTPException(415, f'the form has {len(uploads)} files instead of one; {how}')
            data = await uploads[0].read()
        finally:
            await form.close()
    if not data.startswith(_BEGINNINGS):
        if kind in ('application/json', 'application/x-www-form-urlencoded'):
            raise HTTPException(415, f'{kind} is not taken; {how}')
        raise HTTPException(415, 'not a JPEG, PNG, WebP, BMP, GIF or TIFF; save the picture as one of these.')
    return data


def _answer(artifact: Artifact, data: bytes, ending: threading.Event) -> Dict[str, Any]:
    if ending.is_set():
        raise _ended()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix='rsq-serve-') as folder:
        file = Path(folder) / 'picture'
        file.write_bytes(data)
        try:
            picture = np.asarray(read_image(file))
        except ImageError as e:
            raise ImageError(str(e).removeprefix(f'{file}: ')) from None
    decoded = time.perf_counter()
    mask = None
    if artifact.task == 'classification':
        probabilities = artifact.classify(picture)
        best = np.argsort(-probabilities, kind='stable')[:_TOPK]
        classes = [FoundClass(class_name=artifact.classes[i], probability=float(probabilities[i])) for i in best]
    else:
        pixels = artifact.segment(picture)
        mask = _data_url(pixels)
        counts = np.bincount(pixels.ravel(), minlength=len(artifact.classes)) / pixels.size
        classes = sorted(
            (FoundClass(class_name=name, fraction=fraction, color=f'#{bytes(color).hex()}' if i else None)
             for i, (name, fraction, color) in enumerate(zip(artifact.classes, counts.tolist(), _COLOURS, strict=False))
             if fraction),
            key=lambda one: -(one.fraction or 0))
    done = time.perf_counter()
    return {
        'task': artifact.task, 'width': picture.shape[1], 'height': picture.shape[0], 'mask': mask,
        'classes': classes,
        'milliseconds': {'decode': 1e3 * (decoded - start), 'network': 1e3 * (done - decoded)}}


def _data_url(mask: np.ndarray) -> str:
    """Class numbers as a PNG whose palette the page shows; the first class is transparent."""
    image = Image.fromarray(mask)
    image.putpalette([value for colour in _COLOURS for value in colour])
    buffer = io.BytesIO()
    image.save(buffer, 'PNG', transparency=0)
    return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode('ascii')
