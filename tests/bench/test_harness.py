"""The bench harness: comparisons, memory, tiles and records."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import bench.__main__ as main
from bench.harness import compare, memory, records
from bench.harness.tiles import load_tiles, random_masks
from pipeline.salt.device import pick_device

CPU = torch.device("cpu")


def test_compare_alternates_and_reports_medians(monkeypatch, capsys):
    calls, clock = [], iter(np.repeat(np.arange(1000.0), 2))
    monkeypatch.setattr(compare, "_seconds", lambda work, device: work() or next(clock))
    result = compare.compare("a claim", lambda: calls.append("ours"), lambda: calls.append("theirs"), 3, CPU)
    assert calls == ["ours", "theirs"] * (compare.WARM_UP + 3)
    # The clock says 0 0 1 1 to the warm-up; then both sides take 2, 3 and 4 seconds.
    assert (result["ours"], result["theirs"], result["ratio"]) == (3, 3, 1)
    assert "a claim: ours 3.00 s, theirs 3.00 s, 1.0x" in capsys.readouterr().out


def test_the_ratio_says_how_often_ours_fits_into_theirs(monkeypatch):
    clock = iter([2.0, 6.0])
    monkeypatch.setattr(compare, "_seconds", lambda work, device: next(clock))
    assert compare.compare("a claim", None, None, 1, CPU, warm_up=0)["ratio"] == 3


def test_random_masks_are_two_in_five_empty_and_always_the_same():
    masks = random_masks(500, 16)
    assert masks.shape == (500, 16, 16) and masks.dtype == torch.bool
    assert (~masks.flatten(1).any(1)).float().mean().item() == pytest.approx(0.4, abs=0.07)
    assert torch.equal(masks, random_masks(500, 16))


def test_tiles_are_the_pngs_and_the_same_decoded(few):
    assert len(few.ids) == len(few.images) == len(few.masks) == 24 and few.ids == sorted(few.ids)
    assert all(path.exists() for path in few.pngs(24)) and len(list((few.folder / "masks").iterdir())) == 24
    assert few.pngs(30)[24:] == few.pngs(6) and np.array_equal(few.arrays(30)[24:], few.images[:6])


def test_tiles_are_generated_where_there_are_no_others(monkeypatch):
    monkeypatch.delenv("SALT_TILES", raising=False)
    monkeypatch.setattr("bench.harness.tiles.GENERATED", 4)
    load_tiles.cache_clear()
    assert load_tiles().kind == "generated" and len(load_tiles().ids) == 4
    load_tiles.cache_clear()


@pytest.mark.skipif(not memory.is_supported(), reason="only Linux separates a process's own memory from mapped files")
def test_memory_is_measured_and_mapped_files_are_not(tmp_path):
    np.save(tmp_path / "file.npy", np.ones(5_000_000))
    assert 36 < memory.peak(hold, 5_000_000) < 60  # 38 MiB of float64
    assert memory.peak(sum_of_file, tmp_path / "file.npy") < 10


def hold(n: int) -> None:
    ones = np.ones(n)
    time.sleep(0.5)  # long enough to be sampled, also on a busy machine
    ones.sum()


def sum_of_file(path: Path) -> float:
    return float(np.load(path, mmap_mode="r").sum())


def test_results_are_saved_a_bench_at_a_time_and_stand_in_the_page(results):
    result = compare.compare("a claim", lambda: None, lambda: None, 1, CPU)
    main.save("toaster", "one", [result])
    main.save("toaster", "two", [result])
    main.save("toaster", "one", [{**result, "name": "a better claim"}])
    (results / "scores.json").write_text("{}")
    main.PAGE.write_text("# Speed\n\nintroduction\n")
    main.write_page()
    main.write_page()
    record = json.loads((results / "toaster.json").read_text())
    assert list(record["benches"]) == ["one", "two"] and record["benches"]["one"]["torch"] == torch.__version__
    page = main.PAGE.read_text()
    assert page.startswith("# Speed\n\nintroduction\n") and page.count(records.BEGIN) == 1
    assert page.count("| toaster |") == 2 and page.count("a better claim") == 1


def test_a_bench_that_dies_leaves_the_rows_it_has_measured(results, monkeypatch):
    def run(device):
        yield compare.make_result("a", "cpu", 1, 1.0, 2.0)
        raise MemoryError

    monkeypatch.setattr("bench.speed.losses.run", run)
    with pytest.raises(MemoryError):
        main.main(["losses"])
    [path] = results.iterdir()
    record = json.loads(path.read_text())
    assert path.stem == record["machine"] == records.machine_name(pick_device())
    assert [row["ratio"] for row in record["benches"]["losses"]["results"]] == [2.0]


def test_rows_of_an_earlier_attempt_stay_until_a_bench_has_ended(results, monkeypatch):
    def row(name: str, ours: float) -> dict:
        return {"name": name, "ours": ours}

    def rows() -> list[tuple[str, float]]:
        record = json.loads((results / "toaster.json").read_text())
        return [(row["name"], row["ours"]) for row in record["benches"]["one"]["results"]]

    main.save("toaster", "one", [row("a", 1), row("b", 1)], finished=False)
    main.save("toaster", "one", [row("a", 2)], finished=False)
    assert rows() == [("a", 2), ("b", 1)]
    main.save("toaster", "one", [row("a", 2)])
    assert rows() == [("a", 2)], "the bench has no such row any more"
    monkeypatch.setattr(main, "provenance", lambda: {"commit": "another"})
    main.save("toaster", "one", [row("c", 3)], finished=False)
    assert rows() == [("c", 3)]


def test_the_page_gives_an_amount_that_is_no_time_its_unit(results):
    main.save("toaster", "one", [memory.compare_peaks("a claim", 250.0, 4000.0)])
    assert "| 250 MiB | 4,000 MiB | 16.0x |" in main.table()


def test_a_bench_that_does_not_exist_is_named(results, capsys):
    with pytest.raises(SystemExit):
        main.main(["lossses"])
    assert "no bench lossses; there are losses" in capsys.readouterr().err
