"""The door to the artifacts: each is checked, read, and compared with what its reader needs.

No other module reads artifacts; tests/test_door.py checks that. Faults raise InputError: one sentence with the file,
what is wrong with it, and `maker`, the command that makes it. For weights, and files that other libraries read,
`product.Product.file` gives the checked path.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.salt import artifacts, disk
from pipeline.salt.errors import InputError

# Read as integers, the bits of float16 values in [0, 1] are 0 .. ONE, in order; those of negatives and NaN are larger.
ONE = int(np.float16(1).view(np.uint16))
# Without this argument, pandas before 3.1 reads a third of all numbers with a wrong last digit.
EXACTLY = {} if [*map(int, pd.__version__.split(".")[:2])] >= [3, 1] else {"float_precision": "round_trip"}


def array(path: Path, maker: str, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """A .npy file, memory-mapped. None in `shape` allows any length; more axes may follow those of `shape`."""
    artifacts.check(path, maker)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as e:
        raise unfit(path, maker, f"cannot be read as an array ({e})") from e
    same = [wanted in (None, length) for length, wanted in zip(values.shape, shape, strict=False)]
    if values.dtype != dtype or values.ndim < len(shape) or not all(same):
        lengths = " x ".join("any" if length is None else str(length) for length in shape)
        found = f"{' x '.join(map(str, values.shape))} {values.dtype}"
        raise unfit(path, maker, f"holds {found}, where {lengths} {np.dtype(dtype)} belongs")
    return values


def probabilities(path: Path, maker: str, shape: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
    """A float16 `array` with values in [0, 1] in these rows, a mask (N,); no fold has predicted the others: NaN."""
    probs = array(path, maker, np.float16, shape)
    for start in range(0, len(probs), 1024):  # in parts: it may be larger than memory
        part = slice(start, start + 1024)
        worst = probs[part].view(np.uint16).reshape(len(probs[part]), -1).max(axis=1, initial=0)
        if (bad := rows[part] & (worst > ONE)).any():
            tile = start + int(bad.argmax())
            raise unfit(path, maker, f"holds values that are no probabilities for tile {tile} (counted from 0)")
    return probs


def table(path: Path, maker: str, columns: Mapping[str, type], text: Sequence[str] = ()) -> pd.DataFrame:
    """A .csv file with at least these columns. Text stays as it is: '0000000002', '1e5', 'NA'.

    columns  their types; object allows any number
    text     optional columns of text
    """
    artifacts.check(path, maker)
    kinds = {name: kind for name, kind in columns.items() if kind is not object} | dict.fromkeys(text, str)
    empty = {name: [""] for name, kind in columns.items() if kind in (float, object)}
    try:
        values = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=empty, **EXACTLY)
    except (OSError, ValueError) as e:  # pandas' own errors are ValueErrors
        raise unfit(path, maker, f"cannot be read as a table ({e})") from e
    if missing := [name for name in columns if name not in values]:
        raise unfit(path, maker, f"has no column {', '.join(missing)}")
    return values


def values(path: Path, maker: str, keys: Mapping[str, type]) -> dict:
    """A .json file: an object with at least these keys."""
    artifacts.check(path, maker)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise unfit(path, maker, f"cannot be read as JSON ({e})") from e
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in keys.items()):
        raise unfit(path, maker, f"is not a JSON object with {', '.join(keys)}")
    return content


def unfit(path: Path, maker: str, fault: str) -> InputError:
    """The InputError for an artifact that is undamaged, but not what its reader needs; fault: 'holds ...'."""
    return InputError(f"{disk.display_path(path)} {fault}; run python -m pipeline.{maker} --force to make it again")
