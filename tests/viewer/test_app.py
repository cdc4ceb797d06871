"""The viewer's server: its scores against the report's and the submission's code, its bytes against the arrays."""

import json
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

import httpx
from starlette.testclient import TestClient

from pipeline.salt import stages, submission
from pipeline.salt.errors import InputError
from pipeline.salt.metrics import tile_scores
from pipeline.salt.tiles import cache
from pipeline.salt.viewer import gallery as viewer
from pipeline.salt.viewer.app import FILES, HEADERS, TILES_AT_ONCE, build_app, describe
from pipeline.salt.viewer.gallery import NUMBERS, Split, count, first_bits
from pipeline.tools import view


@pytest.fixture(scope="module")
def client(gallery) -> TestClient:
    return TestClient(build_app(gallery), base_url="http://localhost:8000")


def test_at_the_submissions_threshold_the_score_is_the_reports(finished, client):
    results = json.loads(stages.report(finished[0].parse())[0].path.read_text())
    run = client.get("/api/run").json()
    start = run["thresholds"][run["start"]]["value"]
    assert start == results["threshold"]
    pooled = client.get("/api/scores", params={"threshold": start}).json()["pooled"]
    assert pooled == {"oof": results["out_of_fold"]["score"], "test": results["test"]["score"]}


def test_at_every_threshold_the_score_is_the_submissions(finished, gallery):
    run = finished[0].parse()
    tiles, oof = cache.read(run.files), np.load(stages.predictions(run)[0].path)
    expected = submission.score_thresholds(
        tiles.train_table, oof, tiles.train_masks, run.profile.submit, gallery.thresholds
    )
    found = {t: gallery.pooled(gallery.scores(i)[0])["oof"] for i, t in enumerate(gallery.thresholds)}
    assert found == expected and len(found) >= 99 and len(set(found.values())) > 5


@pytest.mark.parametrize("black_empty", [True, False])
@pytest.mark.parametrize("full_empty", [True, False])
@pytest.mark.parametrize("peak", [0.0, 0.75])
def test_scores_and_masks_follow_the_rules(black_empty, full_empty, peak, drawn_gallery):
    rules = submission.Submit(black_empty=black_empty, full_empty=full_empty, peak=peak)
    gallery = replace(drawn_gallery(), rules=rules)
    split, table = gallery.splits["oof"], gallery.tiles[gallery.tiles["split"] == "oof"]
    for i, threshold in enumerate(gallery.thresholds):
        masks = submission.masks(split.probs[table["row"]], threshold, gallery.rules, table["black"].to_numpy())
        scores, predicted = gallery.scores(i)
        np.testing.assert_array_equal(scores[:5], tile_scores(masks, split.truth[table["row"]]))
        np.testing.assert_allclose(predicted[:5], masks.mean(axis=(1, 2)))
        assert np.isnan(scores[5:]).all() and gallery.pooled(scores)["test"] is None, "nobody knows their truth"


@pytest.mark.parametrize("threshold", [0, 0.01, 0.3, 0.5, 0.57, 0.7, 0.999, 1])
def test_the_browser_draws_exactly_the_pixels_above_the_threshold(threshold):
    """It compares bits: as integers, float16 numbers in [0, 1] have the same order."""
    numbers = NUMBERS[(NUMBERS >= 0) & (NUMBERS <= 1) & ~np.signbit(NUMBERS)]
    np.testing.assert_array_equal(numbers.view(np.uint16) >= first_bits(threshold), numbers > threshold)


def test_a_model_that_predicts_nan_finds_no_salt():
    probs = np.full((1, 4, 4), np.nan, np.float16)
    table = pd.DataFrame({"split": ["oof"], "row": [0]})
    splits = {"oof": Split(np.zeros((1, 4, 4), np.uint8), probs, np.ones((1, 4, 4), bool))}
    counts, _ = count({**splits, "test": splits["oof"]}, table, (0.5,))
    assert counts.found.tolist() == [[0]] and counts.hits.tolist() == [[0]] and counts.salt.tolist() == [16]


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("truth", [True, False])
def test_pixels_are_those_of_the_arrays(colours, truth, drawn_gallery):
    gallery = drawn_gallery(colours=colours, truth=truth)
    client = TestClient(build_app(gallery), base_url="http://127.0.0.1")
    assert client.get("/api/run").json()["channels"] == colours
    asked = [10, 3, 0]
    content = client.get("/api/pixels", params={"tiles": ",".join(map(str, asked))}).content
    area = 7 * 5
    probs, images, truths = np.split(np.frombuffer(content, np.uint8), [3 * area * 2, 3 * area * (2 + colours)])
    for i, tile in enumerate(asked):
        row, split = gallery.tiles["row"][tile], gallery.splits[gallery.tiles["split"][tile]]
        np.testing.assert_array_equal(probs.view("<f2").reshape(3, 7, 5)[i], split.probs[row])
        np.testing.assert_array_equal(images.reshape(3, -1)[i], split.images[row].ravel())
        expected = np.zeros((7, 5), bool) if split.truth is None else split.truth[row]
        np.testing.assert_array_equal(truths.reshape(3, 7, 5)[i], expected)


def test_the_columns_are_those_of_the_artifacts(finished, client):
    run = finished[0].parse()
    tiles, columns = cache.read(run.files), client.get("/api/run").json()["tiles"]
    assert columns["id"] == tiles.table["id"].tolist() and columns["z"] == tiles.table["z"].tolist()
    train = len(tiles.train_images)
    assert columns["split"] == ["oof"] * train + ["test"] * len(tiles.test_images)
    assert columns["fold"] == [*pd.read_csv(run.files.folds)["fold"], *[None] * len(tiles.test_images)]
    truth = np.concatenate([tiles.train_masks, tiles.test_truth])
    np.testing.assert_allclose(columns["coverage"], truth.mean(axis=(1, 2)))
    probs = np.concatenate([np.load(product.path).astype(float) for product in stages.predictions(run)])
    np.testing.assert_allclose(columns["uncertainty"], (4 * probs * (1 - probs)).mean(axis=(1, 2)), rtol=1e-3)
    disagreement = pd.read_csv(stages.disagreement(run).path)
    assert disagreement["id"].tolist() == tiles.test_table["id"].tolist()
    assert columns["disagreement"] == [*[None] * train, *disagreement["disagreement"]]
    assert disagreement["disagreement"].between(0, 1).all() and disagreement["disagreement"].nunique() > 1


def test_only_the_folds_that_ran_are_shown(tiny):
    from pipeline import predict

    tiny(predict, extra=("--fold=1",))
    gallery = viewer.load(tiny.parse("--fold=1"))
    oof = gallery.tiles[gallery.tiles["split"] == "oof"]
    assert set(oof["fold"]) == {1} and 0 < len(oof) < 25
    assert np.isfinite(gallery.scores(gallery.start)[0][: len(oof)]).all()
    assert gallery.tiles["disagreement"].isna().all(), "one model has nobody to differ from"


def test_it_starts_at_the_threshold_of_the_submission(tiny):
    from pipeline import submit

    search = "--set=submit.threshold=search"
    assert viewer.load(tiny.parse(search)).start == viewer.THRESHOLDS.index(0.5), "there is no such submission"
    assert viewer.load(tiny.parse("--set=submit.threshold=0.437")).thresholds[43] == 0.437
    tiny(submit, extra=(search,))
    gallery = viewer.load(tiny.parse(search))
    pooled = [gallery.pooled(gallery.scores(gallery.thresholds.index(t))[0])["oof"] for t in submission.THRESHOLDS]
    assert gallery.thresholds[gallery.start] != 0.5
    assert gallery.pooled(gallery.scores(gallery.start)[0])["oof"] == max(pooled)


def test_what_is_missing_is_said_with_the_command_that_makes_it(untrained):
    with pytest.raises(InputError, match=r"oof\.npy.* pipeline\.predict|pipeline\.train"):
        view.main(untrained.flags("--port=0"))


@pytest.mark.parametrize(
    "path",
    [
        "/api/pixels",
        "/api/pixels?tiles=",
        "/api/pixels?tiles=0,,1",
        "/api/pixels?tiles=-1",
        "/api/pixels?tiles=33",
        "/api/pixels?tiles=1.5",
        "/api/pixels?tiles=../../etc/passwd",
        "/api/pixels?tiles=" + ",".join(["0"] * (TILES_AT_ONCE + 1)),
        "/api/scores",
        "/api/scores?threshold=nan",
        "/api/scores?threshold=0.123",
        "/api/scores?threshold=<script>",
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_in_words(client, path):
    answer = client.get(path)
    assert answer.status_code == 400 and answer.headers["content-type"].startswith("text/plain")
    assert "script" not in answer.text and "passwd" not in answer.text


@pytest.mark.parametrize("path", ["/etc/passwd", "/../gallery.py", "/%2e%2e/gallery.py", "/app.py", "/view.js/"])
def test_no_path_leads_to_another_file(client, path):
    assert client.get(path, follow_redirects=False).status_code in (307, 404)


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_nothing_can_be_changed(client, method):
    assert getattr(client, method)("/api/run").status_code == 405


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example:8000", 400),
        ("evil.example:127.0.0.1", 400),
        ("", 400),
    ],
)
def test_another_host_is_refused(client, host, status):
    for path in ("/", "/api/run"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == status and {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_every_answer_forbids_foreign_content(client):
    for path in ("/", "/api/run", "/nothing"):
        answer = client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_the_page_has_its_files_with_it(client):
    texts = {name: Path(viewer.__file__).with_name(name).read_text() for name in FILES}
    for name, kind in FILES.items():
        answer = client.get("/" if name == "page.html" else f"/{name}")
        assert answer.text == texts[name] and answer.headers["content-type"].startswith(kind)
    everything = "".join(texts.values())
    assert "//cdn" not in everything and "http" not in everything, "it works without a connection"
    assert "innerHTML" not in everything and "insertAdjacentHTML" not in everything and "eval(" not in everything


def test_ids_go_to_the_page_as_data_alone(drawn_gallery):
    gallery = drawn_gallery()
    client = TestClient(build_app(gallery), base_url="http://127.0.0.1")
    assert client.get("/api/run").json()["tiles"]["id"] == gallery.tiles["id"].tolist()
    assert client.get("/api/run").headers["content-type"] == "application/json"
    assert "onerror" not in client.get("/").text and "<b>run" not in client.get("/").text


def test_unknown_numbers_are_null(drawn_gallery):
    columns = describe(drawn_gallery())["tiles"]
    assert columns["z"][3] is None and columns["fold"][5:] == [None] * 6 and columns["coverage"][5:] == [None] * 6
    assert columns["salt_class"][2] == 0 and columns["salt_class"][5:] == [None] * 6
    json.dumps(columns, allow_nan=False)


def test_it_listens_on_this_machine_alone_and_goes_to_the_next_free_port():
    with view.bind([0]) as first:
        address, port = first.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(InputError, match=f"--port {port} cannot be used .*in use"):
            view.bind([port])
        with pytest.raises(InputError, match=f"no port from {port} to {port} is free; name one"):
            view.bind([port, port])
        with view.bind([port, 0]) as second:
            assert second.getsockname()[1] != port
    with pytest.raises(InputError, match="--port 70000"):
        view.bind([70000])
    with socket.socket() as other:  # another one's, which the operating system chose
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match="in use"):
            view.bind([other.getsockname()[1]])


def test_it_serves_until_it_is_interrupted(finished):
    command = [sys.executable, "-m", "pipeline.tools.view", *finished[0].flags("--port=0")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())[0]
        assert httpx.get(address + "api/run").json()["name"] == "demo"
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
    assert "Traceback" not in out + err and server.returncode == 0


def test_without_its_packages_it_says_how_to_get_them(finished, monkeypatch):
    find = view.importlib.util.find_spec
    monkeypatch.setattr(view.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    with pytest.raises(InputError, match="uvicorn .*pip install starlette uvicorn"):
        view.main(finished[0].flags())
