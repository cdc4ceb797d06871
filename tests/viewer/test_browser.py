"""The viewer in headless Chromium: what a person sees and does."""

import shutil
from urllib.parse import quote

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("playwright")

from playwright import sync_api

from bench.speed.viewer import serve
from pipeline.salt import stages, submission
from pipeline.salt.tiles import cache
from pipeline.salt.viewer.app import build_app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(gallery):
    with serve(build_app(gallery)) as address:
        yield address


@pytest.fixture
def visit(browser):
    """visit(url) opens a page there and waits for its scores; the test fails if a script does."""
    context, errors = browser.new_context(viewport={"width": 1000, "height": 700}), []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))

    def open_page(url: str):
        page.goto("about:blank")
        page.goto(url)
        page.wait_for_selector("body[data-threshold]")
        return page

    yield open_page
    context.close()
    assert not errors


def cells(page) -> list[dict]:
    """id, score and position of every tile in the grid, in the order shown."""
    found = page.eval_on_selector_all(
        "#canvas > div",
        "all => all.map(e => ({id: e.children[2].textContent, score: e.children[1].textContent, "
        "place: Number(e.dataset.place), box: e.getBoundingClientRect().toJSON()}))",
    )
    found.sort(key=lambda cell: (cell["box"]["y"], cell["box"]["x"]))
    assert [cell["place"] for cell in found] == list(range(found[0]["place"], found[0]["place"] + len(found)))
    return found


def pixels(page, selector: str) -> np.ndarray:
    """(H, W, 4) of a canvas, once it is painted."""
    page.wait_for_function("selector => document.querySelector(selector).width !== 300", arg=selector)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    width, height, data = page.eval_on_selector(
        selector, "c => [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
    )
    return np.array(data, np.uint8).reshape(height, width, 4)


def facts_of_large(page) -> str:
    """The table beside the enlarged tile, complete: the IoU appears once the tile's pixels have arrived."""
    page.wait_for_function("() => !document.querySelector('#large-facts').textContent.includes('…')")
    return page.inner_text("#large-facts")


def half_salt(gallery) -> tuple[int, float]:
    """The out-of-fold tile with salt, and the threshold, for which the mask covers closest to half of the pixels."""
    off = np.abs(2 * np.stack([gallery.scores(i)[1] for i in range(len(gallery.thresholds))], axis=1) - 1)
    off[(gallery.tiles["coverage"] == 0) | (gallery.tiles["split"] != "oof")] = 1
    tile, index = np.unravel_index(off.argmin(), off.shape)
    return int(tile), gallery.thresholds[index]


def place(page) -> int:
    return int(page.get_attribute("[aria-selected=true]", "data-place"))


def test_the_grid_shows_the_tiles_worst_first(visit, address, gallery):
    page = visit(address)
    assert page.inner_text("#name") == gallery.name and page.inner_text("#count") == "25 tiles"
    scores = [float(cell["score"]) for cell in cells(page)]
    assert len(scores) == 25 and scores == sorted(scores) and scores[0] < scores[-1]
    page.select_option("#order", "down")
    assert [float(cell["score"]) for cell in cells(page)] == sorted(scores, reverse=True)
    assert page.eval_on_selector("#canvas canvas", "c => c.width") == 101


@pytest.mark.parametrize("column", ["coverage", "z", "fold", "disagreement", "uncertainty", "id"])
def test_every_order_is_that_of_the_column(visit, address, gallery, column):
    page = visit(f"{address}#split=test&sort={column}" if column == "disagreement" else f"{address}#sort={column}")
    tiles = gallery.tiles[gallery.tiles["split"] == ("test" if column == "disagreement" else "oof")]
    expected = tiles.sort_values(column, kind="stable")["id"].tolist()
    assert [cell["id"] for cell in cells(page)] == expected
    page.select_option("#order", "down")
    expected = tiles.sort_values(column, kind="stable", ascending=False)["id"].tolist()
    assert [cell["id"] for cell in cells(page)] == expected


def test_sorting_by_disagreement_shows_the_tiles_that_have_it(visit, address, gallery):
    page = visit(address)
    page.select_option("#sort", "disagreement")
    tiles = gallery.tiles[gallery.tiles["split"] == "test"]
    expected = tiles.sort_values("disagreement", kind="stable")["id"].tolist()
    assert page.input_value("#split") == "test" and [cell["id"] for cell in cells(page)] == expected


def test_filters_leave_what_they_name(visit, address, gallery):
    page, tiles = visit(address), gallery.tiles
    page.select_option("#fold", "1")
    assert {cell["id"] for cell in cells(page)} == set(tiles.loc[tiles["fold"] == 1, "id"])
    page.select_option("#salt_class", label="none")
    expected = tiles[(tiles["fold"] == 1) & (tiles["coverage"] == 0)]
    assert {cell["id"] for cell in cells(page)} == set(expected["id"]) and len(expected)
    shown = gallery.scores(gallery.start)[0][expected.index].mean()
    assert page.inner_text("#score-shown") == f"{shown:.4f}"


def test_the_slider_gives_the_score_that_the_submission_would_have(visit, address, finished):
    run = finished[0].parse()
    tiles, oof = cache.read(run.files), np.load(stages.predictions(run)[0].path)
    page, said = visit(address), {}
    wanted = (0.2, 0.37, 0.5, 0.81)
    expected = submission.score_thresholds(tiles.train_table, oof, tiles.train_masks, run.profile.submit, wanted)
    for threshold in wanted:
        page.locator("#threshold").fill(str(round(100 * threshold) - 1))
        page.wait_for_selector(f"body[data-threshold='{threshold}']")
        said[threshold] = page.inner_text("#score-oof")
        scores = [float(cell["score"]) for cell in cells(page)]
        assert scores == sorted(scores) and f"{np.mean(scores):.4f}" == said[threshold]
    assert said == {threshold: f"{score:.4f}" for threshold, score in expected.items()} and len(set(said.values())) > 1
    page.click("#reset")
    page.wait_for_selector(f"body[data-threshold='{run.profile.submit.threshold}']")
    assert page.inner_text("#score-oof") == said[0.5]


def test_the_mask_in_the_browser_is_the_submissions(visit, address, gallery):
    tile, half = half_salt(gallery)
    row, split = gallery.tiles["row"][tile], gallery.splits["oof"]
    for threshold in (half, 0.01, 0.99):
        page = visit(f"{address}#layers=m&threshold={threshold}&tile={gallery.tiles['id'][tile]}")
        painted = pixels(page, "#large-canvas")[..., :3].any(axis=-1)
        [mask] = submission.masks(split.probs[[row]], threshold, gallery.rules, np.zeros(1, bool))
        np.testing.assert_array_equal(painted, mask)
        assert threshold != half or mask.any()


def test_layers_change_the_pixels(visit, address, gallery):
    tile, half = half_salt(gallery)
    page = visit(f"{address}#layers=i&threshold={half}&tile={gallery.tiles['id'][tile]}")
    row, split = gallery.tiles["row"][tile], gallery.splits["oof"]
    image = pixels(page, "#large-canvas")
    np.testing.assert_array_equal(image[..., :3], np.repeat(split.images[row][..., None], 3, axis=-1))
    seen = [image]
    for key in "tpm":
        page.keyboard.press(key)
        seen.append(pixels(page, "#large-canvas"))
        assert not np.array_equal(seen[-1], seen[-2]), key
    page.keyboard.press("i")
    dark = pixels(page, "#large-canvas")
    assert dark[..., :3].mean() < seen[-1][..., :3].mean()
    for key in "itpm":
        page.keyboard.press(key)
    np.testing.assert_array_equal(pixels(page, "#large-canvas"), image)
    assert page.is_checked("#layer-image input") and not page.is_checked("#layer-mask input")


def test_arrow_keys_move_the_selection(visit, address):
    page = visit(address)
    rows = [cell["box"]["y"] for cell in cells(page)]
    columns = rows.count(rows[0])
    assert 1 < columns < 25
    for key, at in [("ArrowRight", 0), ("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowLeft", columns)]:
        page.keyboard.press(key)
        assert place(page) == at
    for key, at in [("ArrowUp", 0), ("ArrowUp", 0), ("End", 24), ("ArrowRight", 24), ("Home", 0)]:
        page.keyboard.press(key)
        assert place(page) == at
    name = "document.querySelector('[aria-selected=true]').children[2].textContent"
    selected = page.evaluate(name)
    page.focus("#threshold")
    page.keyboard.press("ArrowRight")  # here it is the slider's
    page.wait_for_selector("body[data-threshold='0.51']")
    assert page.evaluate(name) == selected, "in whatever order they are now"


def test_enter_enlarges_and_the_arrows_go_on(visit, address):
    page = visit(address)
    ids = [cell["id"] for cell in cells(page)]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.inner_text("#large-id") == ids[0]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#large-id") == ids[1] and f"tile={ids[1]}" in page.url
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "tile=" not in url)
    assert not page.is_visible("#large")
    page.click("#canvas > div >> nth=3")
    assert page.is_visible("#large")


def test_a_link_opens_its_tile_order_and_threshold(visit, address, gallery):
    page = visit(address)
    page.select_option("#sort", "coverage")
    page.locator("#threshold").fill("29")
    page.wait_for_selector("body[data-threshold='0.3']")
    page.keyboard.press("m")
    page.click("#canvas > div[data-place='7']")
    link, tile = page.get_attribute("#large-id", "href"), page.inner_text("#large-id")
    assert page.url == address + link
    facts = facts_of_large(page)
    page.reload()
    page.wait_for_selector("#large[open]")
    assert page.inner_text("#large-id") == tile and facts_of_large(page) == facts
    assert page.input_value("#sort") == "coverage" and page.inner_text("#threshold-value") == "0.3"
    assert not page.is_checked("#layer-mask input")
    page = visit(f"{address}#tile={gallery.tiles['id'].iloc[-1]}")  # a test tile, which the filter does not show
    assert page.inner_text("#large-id") == gallery.tiles["id"].iloc[-1] and page.input_value("#split") == ""


@pytest.mark.parametrize("tile", ["nothing", "<img src=x onerror=alert(1)>", "../../etc/passwd", "%"])
def test_a_link_to_an_unknown_tile_says_so(visit, address, tile):
    page = visit(f"{address}#tile={quote(tile)}")
    assert page.inner_text("#notice") == f'This run has no tile "{tile}".'
    assert not page.is_visible("#large") and page.locator("img").count() == 0


@pytest.mark.parametrize("link", ["#sort=<script>&threshold=x&fold=99", "#&&=", "#threshold=NaN&layers=%2C&split=../"])
def test_a_link_with_impossible_values_shows_the_usual_page(visit, address, link):
    page = visit(address + link)
    assert page.input_value("#sort") == "score" and page.inner_text("#count") == "25 tiles"
    assert page.inner_text("#threshold-value") == "0.5"


@pytest.mark.parametrize("colours", [1, 3])
def test_ids_are_text_and_tiles_have_any_size_and_colour(visit, drawn_gallery, colours):
    gallery = drawn_gallery(height=9, width=14, colours=colours)
    with serve(build_app(gallery)) as address:
        page = visit(f"{address}#split=&sort=z&layers=i")
        assert {cell["id"] for cell in cells(page)} == set(gallery.tiles["id"])
        assert page.inner_text("#name") == "<b>run</b>" and page.locator("img, #name b, #canvas script").count() == 0
        assert [cell["id"] for cell in cells(page)][-1] == gallery.tiles["id"][3], "the one without a depth"
        for tile in range(5):
            page = visit(f"{address}#layers=i&tile={quote(gallery.tiles['id'][tile])}")
            assert page.inner_text("#large-id") == gallery.tiles["id"][tile]
            image = gallery.splits["oof"].images[gallery.tiles["row"][tile]].reshape(9, 14, colours)
            np.testing.assert_array_equal(pixels(page, "#large-canvas")[..., :3], np.broadcast_to(image, (9, 14, 3)))
        page.keyboard.press("Escape")
        for tile in ("image", "truth", "probability", "mask"):
            page.keyboard.press(tile[0])  # a test tile has no truth: nothing to draw, and no error
        visit(f"{address}#layers=t&tile=u")
        assert not pixels(page, "#large-canvas")[..., :3].any()


def test_only_the_visible_rows_exist(visit, drawn_gallery):
    from dataclasses import replace

    import pandas as pd

    from pipeline.salt.viewer.gallery import count

    small = drawn_gallery()
    tiles = pd.concat([small.tiles.iloc[:5]] * 800, ignore_index=True).assign(id=[f"tile {i:04}" for i in range(4000)])
    counts, _ = count(small.splits, tiles, small.thresholds)
    with serve(build_app(replace(small, tiles=tiles, counts=counts))) as address:
        page = visit(f"{address}#sort=id")
        assert page.inner_text("#count") == "4,000 tiles" and len(cells(page)) < 100
        page.keyboard.press("End")
        page.wait_for_function("() => document.querySelector('[aria-selected=true]')?.dataset.place === '3999'")
        found = cells(page)
        assert found[-1]["id"] == "tile 3999" and len(found) < 100
        assert found[-1]["box"]["bottom"] <= 700, "the selected tile is in sight"
