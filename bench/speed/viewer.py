"""The viewer with 4,000 tiles in headless Chromium, first screen and scrolling, against a plain page of as many images.

Needs starlette, uvicorn, playwright and a Chromium; it prints which is missing.

python -m bench.speed.viewer
"""

import contextlib
import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from bench.harness.compare import Result, format_seconds, make_result
from bench.harness.tiles import BenchTiles, load_tiles

# Images are drawn at the viewer's size; a file is fetched for each place, as it would be for 4,000 different tiles.
PLAIN = """<!doctype html><style>
body { margin: 0 } main { height: 100vh; overflow: auto; display: flex; flex-wrap: wrap; gap: 10px }
figure { margin: 0; width: 150px; height: 174px } img { width: 150px; height: 150px }
</style><main id="grid">%s</main>"""
SCROLL = """async ([px, frames]) => {  // seconds from frame to frame; share of the tiles there that are not drawn yet
  const grid = document.getElementById("grid"), seconds = [];
  let last = await new Promise(requestAnimationFrame), tiles = 0, empty = 0;
  for (let i = 0; i < frames; i++) {
    grid.scrollTop += px;
    const now = await new Promise(requestAnimationFrame);
    seconds.push((now - last) / 1000);
    last = now;
    tiles += document.querySelectorAll("#canvas > div").length;
    empty += document.querySelectorAll("#canvas > .empty").length;
  }
  return [seconds, empty / Math.max(tiles, 1)];
}"""
FIRST = {  # true once the first screen is complete
    "ours": "() => document.querySelector('#canvas > div') && !document.querySelector('#canvas > .empty')",
    "theirs": "n => document.images.length >= n && [...document.images].slice(0, n).every(i => i.naturalWidth)",
}
SCREEN = 36  # images of the plain page in a window of 1,000 x 1,000 px


@dataclass(frozen=True)
class Size:
    tiles: int = 4_000
    px: int = 100  # scrolled per frame, 6,000 per second at 60 frames
    frames: int = 300
    repeats: int = 3


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    size = size or Size()
    try:
        from playwright.sync_api import sync_playwright
        from starlette.applications import Starlette
        from starlette.responses import HTMLResponse
        from starlette.routing import Mount, Route
        from starlette.staticfiles import StaticFiles

        from pipeline.salt.viewer.app import build_app
    except ImportError as e:
        print(f"the viewer's bench is left out: {e}")
        return
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("the viewer's bench is left out: no Chromium is installed")
        return
    tiles = load_tiles()
    names = [path.name for path in tiles.pngs(size.tiles)]
    page = PLAIN % "".join(f'<figure><img src="images/{name}?{i}">{i}</figure>' for i, name in enumerate(names))
    plain = Starlette(
        routes=[
            Route("/", lambda request: HTMLResponse(page)),
            Mount("/images", StaticFiles(directory=tiles.folder / "images")),
        ]
    )
    load, times = os.getloadavg()[0], {side: ([], []) for side in FIRST}
    with (
        serve(build_app(gallery(tiles, size.tiles))) as ours,
        serve(plain) as theirs,
        sync_playwright() as play,
        contextlib.closing(play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])) as browser,
    ):
        for _ in range(size.repeats):
            for side, address in {"ours": ours, "theirs": theirs}.items():
                with contextlib.closing(browser.new_page(viewport={"width": 1000, "height": 1000})) as window:
                    for measured, of_visit in zip(times[side], visit(window, address, side, size), strict=True):
                        measured.append(of_visit)
    for i, what in enumerate(("until the first screen is drawn", "95th percentile of a frame while scrolling")):
        name = f"viewer, {size.tiles:,} {tiles.kind} tiles: {what}; theirs: a plain page of as many images"
        medians = [statistics.median(times[side][i]) for side in ("ours", "theirs")]
        result = make_result(name, "cpu", size.repeats, *medians, load=load)
        both = [format_seconds(median) for median in medians]
        print(f"{name}: ours {both[0]}, theirs {both[1]}, {result['ratio']:.1f}x  (load {load:.1f})")
        yield result


def visit(window, address: str, side: str, size: Size) -> tuple[float, float]:
    """Seconds until the first screen is drawn, and 95th percentile of the seconds per frame while scrolling."""
    start = time.perf_counter()
    window.goto(address, wait_until="commit")
    window.wait_for_function(FIRST[side], arg=min(SCREEN, size.tiles), timeout=600_000)
    first = time.perf_counter() - start
    window.wait_for_load_state("load", timeout=600_000)  # a plain page scrolls badly until then
    frames, empty = window.evaluate(SCROLL, [size.px, size.frames])
    slow = float(np.quantile(frames, 0.95))
    print(
        f"{side}: first screen {format_seconds(first)}, frames of {format_seconds(statistics.median(frames))}, 95th "
        f"percentile {format_seconds(slow)}, {empty:.0%} of the tiles not drawn yet"
    )
    return first, slow


def gallery(tiles: BenchTiles, count: int):
    """A run's tiles as the viewer sees them, half of them test tiles; the probabilities are close to the masks."""
    from pipeline.salt.config import Submit
    from pipeline.salt.viewer.gallery import THRESHOLDS, Gallery, Split
    from pipeline.salt.viewer.gallery import count as count_pixels

    rows = np.arange(count) % len(tiles.ids)
    images, masks = tiles.images[rows], tiles.masks[rows]
    probs = (0.1 + 0.7 * masks + images / 255 * 0.2).astype(np.float16)
    half = count // 2
    splits = {"oof": Split(images[:half], probs[:half], masks[:half]), "test": Split(images[half:], probs[half:], None)}
    table = pd.DataFrame(
        {
            "id": [f"{i:010x}" for i in range(count)],
            "split": ["oof"] * half + ["test"] * (count - half),
            "row": [*range(half), *range(count - half)],
            "fold": [*(i % 5 for i in range(half)), *[np.nan] * (count - half)],
            "z": 100 + np.arange(count) % 800,
            "black": False,
            "disagreement": [*[np.nan] * half, *np.linspace(0, 1, count - half)],
        }
    )
    counts, uncertainty = count_pixels(splits, table, THRESHOLDS)
    coverage = np.where(counts.salt < 0, np.nan, counts.salt / counts.pixels)
    table = table.assign(uncertainty=uncertainty, coverage=coverage)
    return Gallery("bench", "", splits, table, counts, THRESHOLDS, THRESHOLDS.index(0.5), Submit())


@contextlib.contextmanager
def serve(app) -> Iterator[str]:
    """Serve this app from a thread on this machine; gives the address."""
    import uvicorn

    from pipeline.tools.view import bind

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
    with bind([0]) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    list(run(torch.device("cpu")))
