import time

import numpy as np
import pytest

from pipelines.ingest import ahead


def draw(rng):
    """2 MB: 240 of them fill the store of these tests."""
    return np.full(1 << 18, rng.integers(1000))


@pytest.mark.timeout(120)
def test_parts_come_in_order_and_cost_nothing_while_a_full_store_waits(local_ray):
    numbers = [(7, step, part) for step in range(120) for part in range(2)]
    drawn = ahead(draw, numbers, readers=1)
    first = [next(drawn) for _ in range(3)]
    time.sleep(10)  # the reader starts, and fills the store
    busy, began = time.process_time(), time.perf_counter()
    while time.perf_counter() - began < 4:  # a long step
        time.sleep(0.1)
    assert time.process_time() - busy < 1.2  # Ray Data's own thread took most of it
    expected = [np.random.default_rng(number).integers(1000) for number in numbers]
    assert [part[0] for part in (*first, *drawn)] == expected
