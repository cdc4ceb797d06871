"""View a run's tiles in the browser: sort and filter them, move the threshold, see truth, probability and mask.

    python -m pipeline.tools.view
    python -m pipeline.tools.view --port 9000

reads   folds/<run>/folds.csv, oof.npy, submissions/<run>/test.npy, disagreement.csv, data/cache/<source>/
serves  http://127.0.0.1:8000/, to this machine only, until Ctrl-C
"""

import contextlib
import importlib.util
import socket

from pipeline.salt import cli
from pipeline.salt.errors import InputError

HOST = "127.0.0.1"
PORTS = range(8000, 8020)  # tried in turn


def main(argv: list[str] | None = None) -> None:
    def add(parser):
        parser.add_argument(
            "--port", type=int, metavar="N", help=f"port to serve on (default: {PORTS[0]}, or the next free one)"
        )

    run, args = cli.parse(__doc__, argv, add, cli.RUN_FLAGS)
    for package in ("starlette", "uvicorn"):
        if not importlib.util.find_spec(package):
            raise InputError(f"{package} is not installed; get it with: pip install starlette uvicorn")

    import uvicorn

    from pipeline.salt.viewer import gallery
    from pipeline.salt.viewer.app import build_app

    with bind(PORTS if args.port is None else [args.port]) as listener:
        app = build_app(gallery.load(run))
        print(f"view     http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends it)", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
        with contextlib.suppress(KeyboardInterrupt):  # the normal way to end it
            server.run(sockets=[listener])


def bind(ports) -> socket.socket:
    """A listening socket on 127.0.0.1, at the first of these ports that is free. InputError if none is."""
    for port in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
            return listener
        except (OSError, OverflowError) as e:  # taken; below 1024; above 65535
            listener.close()
            reason = e
    if len(ports) > 1:
        raise InputError(f"no port from {ports[0]} to {port} is free; name one with --port")
    raise InputError(f"--port {port} cannot be used ({reason}); name another, or leave it out for the first free one")


if __name__ == "__main__":
    cli.start(main)
