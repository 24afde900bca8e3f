import time

import pytest

from pipelines.ingest import ahead


def number(rng):
    return int(rng.integers(1000))


@pytest.mark.timeout(120)
def test_parts_come_in_order_and_cost_nothing_while_they_wait(local_ray):
    import numpy as np

    numbers = [(7, step, part) for step in range(100) for part in range(2)]
    drawn = ahead(number, numbers, readers=1)
    first = [next(drawn) for _ in range(3)]
    busy, began = time.process_time(), time.perf_counter()
    while time.perf_counter() - began < 3:  # a long step
        time.sleep(0.1)
    assert time.process_time() - busy < 1.5  # Ray Data's own thread took all of it
    assert [*first, *drawn] == [number(np.random.default_rng(n)) for n in numbers]
