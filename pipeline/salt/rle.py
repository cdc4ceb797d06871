"""Kaggle's run-length encoding: pairs `start length`, 1-based, counted down each column, then to the right."""

import re
from itertools import pairwise

import numpy as np

from pipeline.salt.parts import slices

TABLE = 2**18  # pixels; for larger masks, a table of all numbers would be slow and take more memory than they do


def encode(masks: np.ndarray) -> list[str]:
    """Run-length codes of masks (N, H, W) bool: N strings, '' for an empty mask.

    Source: https://www.kaggle.com/competitions/tgs-salt-identification-challenge/overview/evaluation
    """
    pixels = masks.shape[1] * masks.shape[2]
    many = len(masks) > 1 and pixels <= TABLE
    digits = np.array([str(number) for number in range(pixels + 1)], dtype=object) if many else None
    return [code for part in slices(len(masks), masks.shape[1:]) for code in _encode_at_once(masks[part], digits)]


def decode(rle: str, shape: tuple[int, int]) -> np.ndarray:
    """Mask (H, W) bool from one code; ValueError says what is wrong with the code."""
    words = rle.split()
    if len(words) % 2:
        raise ValueError(f"an odd count of numbers ({len(words)}), but each run is a start and a length")
    if not all(re.fullmatch("-?[0-9]{1,99}", word) for word in words) or not rle.isascii():
        raise ValueError(f"{rle[:40]!r} is not a list of whole numbers")  # int() accepts 1_0 and digits of any script
    numbers = [int(word) for word in words]
    pixels = np.zeros(shape[0] * shape[1], dtype=bool)
    end = 0  # last pixel of the previous run, 1-based
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        if start < 1:
            raise ValueError(f"run '{start} {length}' has a start below 1, the first pixel")
        if length < 1:
            raise ValueError(f"run '{start} {length}' has a length below 1")
        if start <= end:
            raise ValueError(f"run '{start} {length}' overlaps or precedes the run before it, which ends at {end}")
        end = start + length - 1
        if end > pixels.size:
            raise ValueError(f"run '{start} {length}' is out of range: the last pixel is {pixels.size}")
        pixels[start - 1 : end] = True
    return pixels.reshape(shape, order="F")


def _encode_at_once(masks: np.ndarray, digits: np.ndarray | None) -> list[str]:
    columns = masks.transpose(0, 2, 1).reshape(len(masks), -1)  # (N, W*H)
    edges = np.diff(columns, axis=1, prepend=False, append=False)  # (N, W*H + 1): a run starts or has just ended
    at = np.flatnonzero(edges)
    numbers = at % edges.shape[1] + 1  # start, end, start, end ... of all tiles
    numbers[1::2] -= numbers[::2]  # ends -> lengths
    # The table calls str() once for each possible number: it pays where there are more runs than pixels.
    words = [str(number) for number in numbers.tolist()] if digits is None else digits[numbers].tolist()
    stops = np.searchsorted(at, np.arange(len(masks) + 1) * edges.shape[1]).tolist()
    return [" ".join(words[start:stop]) for start, stop in pairwise(stops)]
