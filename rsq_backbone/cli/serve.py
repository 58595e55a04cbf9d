"""rsq serve"""
import socket
from pathlib import Path
from typing import Annotated, Optional

import typer

from rsq_backbone.cli._running import AllowCode


def serve(
        artifact: Annotated[Path, typer.Argument(metavar='ARTIFACT', help='Folder of rsq deploy.')],
        host: Annotated[str, typer.Option(
            help='Address to listen at. 0.0.0.0 lets in everyone who can reach this machine, unasked.')] = '127.0.0.1',
        port: Annotated[int, typer.Option(min=0, max=65535, help='0 takes a free one.')] = 8000,
        threads: Annotated[Optional[int], typer.Option(
            min=1, max=1024, help='For the network. By default as many as there are cores.')] = None,
        queue: Annotated[int, typer.Option(min=0, help='Pictures that may wait; more are answered by 503.')] = 8,
        max_mb: Annotated[float, typer.Option(min=0.001, help="Of a picture's file; more is answered by 413.")] = 20,
        allow_code: AllowCode = False,
) -> None:
    """Open a web page that says what is in a picture, and the same for programs.

    POST a picture's bytes to /predict; /openapi.json describes it, /healthz says that the server lives. Ctrl-C ends it.

    Examples:

        rsq serve runs/photos-laptop-artifact

        rsq serve runs/photos-laptop-artifact --host 0.0.0.0 --port 80

        curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
    """
    from rsq_backbone.cli._output import print_path, require
    from rsq_backbone.errors import UserError

    require('serve')
    from rsq_backbone.deploy.loader import ArtifactError, load
    from rsq_backbone.deploy.serve import create_app
    from rsq_backbone.deploy.server import serve as serve_app

    try:
        loaded = load(artifact, threads, allow_code=allow_code)
    except ArtifactError as e:
        raise UserError(str(e)) from e
    listening = _listen(host, port)
    here = host in ('127.0.0.1', '::1', 'localhost')
    app = create_app(
        loaded, queue=queue, max_bytes=round(max_mb * 1e6), hosts=['127.0.0.1', 'localhost', '[::1]'] if here else None)
    shown = f'[{host}]' if ':' in host else host
    try:
        listening.listen()  # who follows the address at once waits instead of being refused
        print_path(f'http://{shown}:{listening.getsockname()[1]}   (Ctrl-C ends it)')
        serve_app(app, listening)
    except KeyboardInterrupt:  # uvicorn has shut down by then, and hands it on
        print_path('stopped')


def _listen(host: str, port: int) -> socket.socket:
    from rsq_backbone.errors import UserError

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as e:
        raise UserError(f'{host} port {port} cannot be listened at ({e.strerror}); choose another --port.') from e
    return listening
