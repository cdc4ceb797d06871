"""The report in a browser: toggles, the enlarged tile, the table of contents."""

import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def page(finished):
    """The tiny run's report, opened as a file; it must not request anything or raise an error."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    run = finished[0].parse()
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, loaded, errors = browser.new_page(viewport={"width": 390, "height": 800}), [], []
        page.on("request", lambda request: loaded.append(request.url))
        page.on("pageerror", lambda error: errors.append(error.message))
        page.goto(run.files.result("report.html").as_uri())
        yield page
        assert not errors and not [url for url in loaded[1:] if not url.startswith("data:")]
        browser.close()


def visible(page, selector: str) -> bool:
    return page.locator(f"main .tile {selector}").first.evaluate("e => getComputedStyle(e).display !== 'none'")


def test_keys_and_boxes_switch_what_lies_on_the_tiles(page):
    seen = {".truth": True, ".predicted": True, ".heat": False}
    assert {selector: visible(page, selector) for selector in seen} == seen
    for key, selector in zip("tmp", seen, strict=True):
        page.keyboard.press(key)
        assert visible(page, selector) != seen[selector]
        page.keyboard.press(f"Control+{key}") if key != "p" else None  # the browser's own keys stay its own
        assert visible(page, selector) != seen[selector]
    page.locator("#show-truth").check()
    assert visible(page, ".truth")


def test_a_click_enlarges_a_tile_and_the_keys_go_on(page):
    expect = pytest.importorskip("playwright.sync_api").expect
    names = page.locator("main .tiles figcaption b").all_inner_texts()
    large = page.locator("dialog figcaption b")
    page.locator("main .tile").nth(1).click()
    expect(large).to_have_text(names[1])
    assert (
        page.locator("dialog .tile").bounding_box()["width"] > page.locator("main .tile").nth(1).bounding_box()["width"]
    )
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(large).to_have_text(names[-1])
    page.get_by_role("button", name="next").click()
    expect(large).to_have_text(names[0])
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    expect(page.locator("main .tile").first).to_be_focused()  # the tile that was shown
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_be_visible()
    expect(large).to_have_text(names[0])


def test_the_page_fits_a_telephone_and_its_contents_lead_to_every_section(page):
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for link in page.locator("nav a").all():
        target = page.locator(link.get_attribute("href"))
        assert target.locator("h2").first.inner_text() == link.inner_text()


def test_without_scripts_all_tiles_and_switches_are_there(page):
    browser = page.context.browser
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto(page.url)
    plain.locator("#show-heat").check()
    assert plain.locator("main .tile .heat").first.is_visible()
    assert plain.locator("main .tile").count() == page.locator("main .tile").count() > 0
    assert not plain.locator("dialog").is_visible() and not plain.locator(".hint").is_visible()
