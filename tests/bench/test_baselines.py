"""The benches compare like with like, and keep what they measure. No test here looks at the clock."""

import json
from importlib import import_module

import numpy as np
import pytest
import torch

import bench.__main__ as main
from bench.baselines import losses as plain_losses
from bench.baselines import metric as plain_metric
from bench.baselines import rle as plain_rle
from bench.harness import compare as harness
from pipeline.salt import losses, metrics, rle

CPU = torch.device("cpu")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(main, "PAGE", tmp_path / "speed.md")
    return tmp_path


def test_both_sides_of_every_claim_give_the_same():
    truth = harness.blobs(12, 33)
    pred = truth.roll(2, dims=-1)
    logits, masks = torch.randn(12, 1, 33, 33), truth[:, None].float()
    torch.testing.assert_close(losses.lovasz_hinge(logits, masks), plain_losses.lovasz_hinge(logits, masks))
    torch.testing.assert_close(losses.symmetric_lovasz(logits, masks), plain_losses.symmetric_lovasz(logits, masks))
    for plain in (plain_metric.meanap, plain_metric.meanap_by_histogram):
        assert metrics.meanap(pred, truth).item() == pytest.approx(plain(pred.numpy(), truth.numpy()))
    for plain in (plain_rle.encode, plain_rle.encode_by_pixel):
        assert rle.encode(truth.numpy()) == [plain(mask) for mask in truth.numpy()]


def test_blobs_are_masks_two_in_five_of_them_empty():
    masks = harness.blobs(500, 16)
    assert masks.shape == (500, 16, 16) and masks.dtype == torch.bool
    assert (~masks.flatten(1).any(1)).float().mean().item() == pytest.approx(0.4, abs=0.07)
    assert torch.equal(masks, harness.blobs(500, 16))


def test_compare_alternates_and_reports_medians(monkeypatch, capsys):
    calls, clock = [], iter(np.repeat(np.arange(1000.0), 2))
    monkeypatch.setattr(harness, "_seconds", lambda work, device: work() or next(clock))
    result = harness.compare("a claim", lambda: calls.append("ours"), lambda: calls.append("theirs"), 3, CPU)
    assert calls == ["ours", "theirs"] * (harness.WARM_UP + 3)
    # The clock says 0 0 1 1 to the warm-up; then both sides take 2, 3 and 4 seconds.
    assert (result["ours"], result["theirs"], result["ratio"]) == (3, 3, 1)
    assert "a claim: ours 3.00 s, theirs 3.00 s, 1.0x" in capsys.readouterr().out


@pytest.mark.parametrize("name", main.BENCHES)
def test_every_bench_can_be_run(name):
    assert callable(import_module(f"bench.speed.{name}").run)


def test_numbers_are_kept_a_bench_at_a_time_and_shown_in_the_page(kept):
    result = harness.compare("a claim", lambda: None, lambda: None, 1, CPU)
    main.keep("toaster", "one", [result])
    main.keep("toaster", "two", [result])
    main.keep("toaster", "one", [{**result, "name": "a better claim"}])
    (kept / "results" / "scores.json").write_text("{}")
    (kept / "speed.md").write_text("# Speed\n\nwhat was tried\n")
    main.write_page()
    main.write_page()
    record = json.loads((kept / "results" / "toaster.json").read_text())
    assert list(record["benches"]) == ["one", "two"] and record["benches"]["one"]["torch"] == torch.__version__
    page = (kept / "speed.md").read_text()
    assert page.startswith("# Speed\n\nwhat was tried\n") and page.count(harness.BEGIN) == 1
    assert page.count("| toaster |") == 2 and page.count("a better claim") == 1


def test_what_an_earlier_attempt_measured_stays_until_a_bench_has_come_to_its_end(kept, monkeypatch):
    def row(name: str, ours: float) -> dict:
        return {"name": name, "ours": ours}

    def rows() -> list[tuple[str, float]]:
        record = json.loads((kept / "results" / "toaster.json").read_text())
        return [(row["name"], row["ours"]) for row in record["benches"]["one"]["results"]]

    main.keep("toaster", "one", [row("a", 1), row("b", 1)], over=False)
    main.keep("toaster", "one", [row("a", 2)], over=False)
    assert rows() == [("a", 2), ("b", 1)]
    main.keep("toaster", "one", [row("a", 2)])
    assert rows() == [("a", 2)], "the bench has no such row any more"
    monkeypatch.setattr(main, "circumstances", lambda: {"commit": "another"})
    main.keep("toaster", "one", [row("c", 3)], over=False)
    assert rows() == [("c", 3)]


def test_a_bench_that_does_not_exist_is_named(kept, capsys):
    with pytest.raises(SystemExit):
        main.main(["lossses"])
    assert "no bench lossses; there are losses" in capsys.readouterr().err
