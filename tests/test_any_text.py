"""Arbitrary text from Hypothesis in all that parses text: run lengths, csv, numbers, --set, --add-phase, folds.file.

tests/soak/test_more_text.py does the same for much longer.
"""

import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.salt import rle
from pipeline.salt.config import PROFILES, Profile, section_from
from pipeline.salt.errors import InputError
from pipeline.salt.models import check_options
from pipeline.salt.overrides import appended, changed
from pipeline.salt.tiles import files, own_folds

DEMO = PROFILES["demo"]
DIGITS = "0123456789-+_.e \t\n\u0663\u00b2\u00a0\0xN"

# ---- run lengths


def painted(code: str, height: int, width: int) -> list[list[bool]] | None:
    """Mask of a code, drawn pixel by pixel; None if the code breaks a rule."""
    words = re.split("[ \t\n\r\f\v]+", code.strip(" \t\n\r\f\v")) if code.strip(" \t\n\r\f\v") else []
    mask, last = [[False] * width for _ in range(height)], 0
    if len(words) % 2:
        return None
    for i in range(0, len(words), 2):
        if any(not word or word.lstrip("0123456789") for word in words[i : i + 2]):
            return None
        start, length = int(words[i]), int(words[i + 1])
        if not last < start <= height * width or not 1 <= length <= height * width - start + 1:
            return None
        last = start + length - 1
        for pixel in range(start - 1, last):
            mask[pixel % height][pixel // height] = True
    return mask


PAIRS = st.lists(st.tuples(st.integers(-1, 40), st.integers(-1, 9)), max_size=5)
IN_ORDER = PAIRS.map(lambda pairs: sorted({start: (start, length) for start, length in pairs}.values()))
CODES = st.one_of(
    st.text(DIGITS, max_size=20),
    st.tuples(st.one_of(PAIRS, IN_ORDER), st.sampled_from([" ", "  ", "\t", "\n", "\u2003"])).map(
        lambda drawn: drawn[1].join(f"{start}{drawn[1]}{length}" for start, length in drawn[0])
    ),
)


@given(CODES, st.integers(1, 6), st.integers(1, 6))
def test_a_code_is_the_mask_of_its_pixels_or_refused(code, height, width):
    expected = painted(code, height, width)
    if expected is None:
        with pytest.raises(ValueError) as e:
            rle.decode(code, (height, width))
        assert type(e.value) is ValueError and len(str(e.value)) < 200, "in words, not what int() or numpy says"
        return
    mask = rle.decode(code, (height, width))
    assert mask.tolist() == expected
    [again] = rle.encode(mask[None])
    np.testing.assert_array_equal(rle.decode(again, (height, width)), mask)
    starts, lengths = map(int, again.split()[::2]), map(int, again.split()[1::2])
    runs = [*zip(starts, lengths, strict=True)]
    assert all(a + n < b for (a, n), (b, _) in zip(runs, runs[1:], strict=False)), "no two runs of it touch"


# ---- numbers and csv files


@given(st.text(DIGITS, max_size=12))
def test_a_whole_number_is_one_that_is_written_as_one(text):
    try:
        value = files.whole_number(text)
    except ValueError:
        assert not re.fullmatch("-?[0-9]{1,9}", text)
    else:
        assert str(abs(value)) == (text.strip().lstrip("-").lstrip("0") or "0") and (value >= 0 or "-" in text)


def rows_of(content: bytes) -> tuple[dict[str, str], str]:
    """The rows and faults that csv_rows finds in these bytes."""
    faults = files.Faults()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_bytes(content)
        rows = files.csv_rows(path, "z", faults)
        try:
            faults.raise_if_any(Path(folder))
        except InputError as e:
            return rows, str(e)
    return rows, ""


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(
    st.dictionaries(WORDS, WORDS, min_size=1, max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_a_csv_however_it_is_written_is_its_rows(rows, end, quoting, encoding):
    assume(quoting != csv.QUOTE_MINIMAL or not {*"\r\n"} & {*"".join([*rows, *rows.values()])})  # only `end` is quoted
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=quoting)
    writer.writerows([("more", "id", "z"), *(("x", name, value) for name, value in rows.items())])
    assert rows_of(text.getvalue().encode(encoding)) == (rows, "")


@given(
    st.one_of(
        st.binary(max_size=60), st.text('id,z\n"\r\0\ufeff1;', max_size=40).map(lambda text: f"id,z\n{text}".encode())
    )
)
def test_any_bytes_are_rows_or_a_fault(content):
    rows, said = rows_of(content)
    assert rows or said
    assert said == "" or ("x.csv: " in said and "\0" not in said and "\r" not in said)


@given(st.text('id,fold\n0123-."a\u0661 ', max_size=40), st.integers(2, 4))
def test_any_csv_is_a_fold_for_each_image_or_refused(text, k):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mine.csv"
        path.write_text(f"id,fold\na,0\nb,1\nc,2\nd,3\n{text}", newline="")
        try:
            folds = own_folds.read(path, pd.DataFrame({"id": list("abcd")}), k)
        except InputError as e:
            assert "mine.csv" in str(e)
        else:
            assert folds.tolist() == [0, 1, 2, 3] and k == 4 and not text.strip("\n")


# ---- settings

PATHS = ["", "train.", "model.options.", "train.64.", "train.96.name=", "model.options.width=", "submit.threshold="]
PATHS += ["train.lr=", "tiles.side=", "folds.k=", "model.encoder=", "folds.file=", "predict.flip="]
SETTINGS = st.one_of(
    st.text("train.epochswdlmodptin=0123456789e-[]{}'\"²٣()+* \n\\", max_size=30), st.text(max_size=12)
)


def assert_whole(profile: Profile) -> None:
    """The value can be recorded and read back unchanged."""
    assert section_from(Profile, asdict(profile), "here") == profile
    try:
        check_options(profile.model.name, profile.model.options)
    except InputError:
        return
    text = json.dumps(asdict(profile))
    assert json.dumps(asdict(section_from(Profile, json.loads(text), "here"))) == text


@given(SETTINGS, st.sampled_from(PATHS))
def test_any_setting_is_taken_whole_or_refused_in_words(text, path):
    try:
        assert_whole(changed(DEMO, path + text))
    except InputError as e:
        assert str(e).startswith((f"--set {path}{text}: ", "profile demo: "))


@given(st.one_of(st.text("sizepochlrdum=true0123456789,.-e² ", max_size=30), st.text(max_size=12)))
def test_any_phase_is_appended_whole_or_refused_in_words(text):
    try:
        profile = appended(DEMO, text)
    except InputError as e:
        assert str(e).startswith(f"--add-phase {text}: ")
    else:
        assert len(profile.train.phases) == 3
        assert_whole(profile)
