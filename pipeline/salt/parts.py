"""Work in parts of bounded size in pixels, whatever the number and size of the tiles."""

import math
from collections.abc import Iterator, Sequence

PIXELS = 2**21  # 205 tiles of 101 x 101; as float32 8 MB


def slices(n: int, shape: Sequence[int]) -> Iterator[slice]:
    """Consecutive slices of n arrays of this shape: each holds at most PIXELS numbers, but at least one array."""
    step = max(1, PIXELS // max(1, math.prod(shape)))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
