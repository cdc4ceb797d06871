"""Work in parts: so many pixels at a time, whatever the number of tiles and the size of each."""

import math
from collections.abc import Iterator, Sequence

PIXELS = 2**22  # 411 tiles of 101 x 101; as float32 17 MB


def slices(n: int, shape: Sequence[int]) -> Iterator[slice]:
    """Slices of n arrays of this shape, in order: at most PIXELS numbers together, at least one array."""
    step = max(1, PIXELS // max(1, math.prod(shape)))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
