"""Run-length codes one tile at a time."""

import numpy as np


def encode_by_pixel(mask: np.ndarray) -> str:
    """Run-length code with a loop over the salt pixels, as in the competition's first kernels."""
    runs, previous = [], -2
    for pixel in np.flatnonzero(mask.T.ravel()):
        if pixel > previous + 1:
            runs.extend((pixel + 1, 0))
        runs[-1] += 1
        previous = pixel
    return " ".join(str(number) for number in runs)


def encode(mask: np.ndarray) -> str:
    """Run-length code with numpy's differences: as lean as one tile at a time can be."""
    pixels = np.concatenate([[0], mask.ravel(order="F"), [0]])
    runs = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(number) for number in runs)
