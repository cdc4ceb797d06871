"""The viewer's server: one page, its files, and the gallery as JSON and bytes. No request can name a file."""

from collections.abc import Awaitable, Callable
from importlib import resources

import pandas as pd
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.salt.viewer.gallery import Gallery, first_bits, salt_classes

SCRIPT = "text/javascript"
FILES = {"page.html": "text/html", "view.css": "text/css", "view.js": SCRIPT, "paint.js": SCRIPT, "pixels.js": SCRIPT}
HOSTS = ["localhost", "127.0.0.1"]  # other host names are refused: they may be web sites that resolve to this machine
TILES_AT_ONCE = 128  # most tiles in one response: 5 MB at 101 px
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # because another run may be served on this port next
}


def build_app(gallery: Gallery) -> Starlette:
    """The viewer's app, which must be served on localhost only.

    /            the page; beside it /view.css and the scripts
    /api/run     the run, its thresholds and the columns of its tiles
    /api/scores  ?threshold=0.5: score and predicted share of each tile, mean score of each split
    /api/pixels  ?tiles=0,5,7: the bytes of Gallery.pixels
    """
    run = describe(gallery)

    def scores(request: Request) -> Response:
        try:
            index = gallery.thresholds.index(float(request.query_params["threshold"]))
        except (KeyError, ValueError):
            raise HTTPException(400, "threshold must be one of those in /api/run") from None
        scores, predicted = gallery.scores(index)
        columns = {"score": _json(pd.Series(scores)), "predicted": predicted.tolist()}
        return JSONResponse({**columns, "pooled": gallery.pooled(scores)})

    def pixels(request: Request) -> Response:
        try:
            tiles = [int(tile) for tile in request.query_params["tiles"].split(",", TILES_AT_ONCE)]
        except (KeyError, ValueError):
            tiles = []
        if not tiles or len(tiles) > TILES_AT_ONCE or not all(0 <= tile < len(gallery.tiles) for tile in tiles):
            said = f"tiles must be 1 to {TILES_AT_ONCE} numbers from 0 to {len(gallery.tiles) - 1}, separated by commas"
            raise HTTPException(400, said)
        return Response(gallery.pixels(tiles), media_type="application/octet-stream")

    folder = resources.files("pipeline.salt.viewer")
    return Starlette(
        routes=[
            *(
                Route("/" if name == "page.html" else f"/{name}", _file((folder / name).read_bytes(), kind))
                for name, kind in FILES.items()
            ),
            Route("/api/run", lambda request: JSONResponse(run)),
            Route("/api/scores", scores),
            Route("/api/pixels", pixels),
        ],
        middleware=[Middleware(AddHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
    )


def describe(gallery: Gallery) -> dict:
    """What the page needs to know about the run, as JSON values; in the columns of the tiles, unknown is null."""
    columns = gallery.tiles.assign(salt_class=salt_classes(gallery.tiles["coverage"]))
    height, width, channels = gallery.shape
    return {
        "name": gallery.name,
        "about": gallery.about,
        "height": height,
        "width": width,
        "channels": channels,
        "thresholds": [{"value": value, "first_bits": first_bits(value)} for value in gallery.thresholds],
        "start": gallery.start,
        "rules": {
            "black_empty": gallery.rules.black_empty,
            "full_empty": gallery.rules.full_empty,
            "peak_bits": first_bits(gallery.rules.peak),
        },
        "tiles": {name: _json(column) for name, column in columns.items() if name != "row"},
    }


class AddHeaders:
    """Middleware that adds HEADERS to every response."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        async def send_with_headers(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _file(content: bytes, kind: str) -> Callable[[Request], Response]:
    return lambda request: Response(content, media_type=kind)


def _json(column: pd.Series) -> list:
    return column.astype(object).where(column.notna(), None).tolist()
