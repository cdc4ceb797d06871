"""Work in parts: complete, each once, in order, and no part above its number of pixels."""

import math

import pytest

from pipeline.salt import parts


@pytest.mark.parametrize("n, shape", [(0, (101, 101)), (1, (10**5, 10**5)), (900, (101, 101)), (7, (1024, 1024, 3))])
def test_parts_are_all_of_it_in_order_and_small(n, shape):
    found = [*parts.slices(n, shape)]
    assert [i for part in found for i in range(n)[part]] == [*range(n)]
    sizes = [part.stop - part.start for part in found]
    pixels = shape[0] * shape[1] * (shape[2] if len(shape) > 2 else 1)
    assert all(size == 1 or size * pixels <= parts.PIXELS for size in sizes)
    assert len(found) == math.ceil(n / max(1, parts.PIXELS // pixels)), "as few as can be"
