"""Batches: who shares one, and what becomes of those who give up."""

import asyncio
import random

import numpy as np
import pytest

from pipelines.serve.model import Model
from sqllm.recording import Chunk


def chunk(windows=1, uri="a.wav"):
    audio = [np.zeros(160_000, np.int16)] * windows
    return Chunk(uri, 0, 0, audio, None, [10.0 * i for i in range(windows)], [5.0] * windows, [""] * windows)


def test_who_waits_shares_a_batch_of_so_many_seconds(stand_in):
    async def run():
        model = Model(stand_in)
        stand_in.seconds = 0.2
        calls = [asyncio.create_task(model.score(chunk(n), profile)) for n, profile in waiting]
        return await asyncio.gather(*calls)

    waiting = [(1, None), (2, None), (3, "expert"), (4, None), (3, None), (1, "expert")]
    found = asyncio.run(run())
    assert [len(scores["mean"]) for scores in found] == [n for n, _ in waiting]
    assert stand_in.batches == [(None, [1, 2, 4]), ("expert", [3, 1]), (None, [3])]


def test_one_chunk_that_fails_spoils_no_other(stand_in):
    async def run():
        model = Model(stand_in)
        return await asyncio.gather(*(model.score(chunk(uri=uri)) for uri in ("a", "poison", "b")))

    good, bad, other = asyncio.run(run())
    assert "mean" in good and "mean" in other and bad == {"error": "RuntimeError: out of luck", "model": "stand-in"}


def test_words_come_between_batches(stand_in):
    """An answer does not wait for all that is queued, nor a batch for a whole answer."""

    async def run():
        model = Model(stand_in)
        stand_in.seconds = 0.05
        order = []

        async def talk():
            worst = type("Worst", (), {"mean": [1.0]})
            async for _ in model.answer(worst, None):
                order.append("word")

        async def score():
            await model.score(chunk(8))
            order.append("batch")

        await asyncio.gather(talk(), *(score() for _ in range(6)))
        return order

    order = asyncio.run(run())
    assert order.index("word") < order.index("batch") + 2
    assert "batch" in order[order.index("word") : len(order) - order[::-1].index("word")]


@pytest.mark.timeout(60)
def test_a_storm_of_cancellations_leaves_full_speed(stand_in):
    """Calls that are given up, before and while they are scored, cost nothing afterwards."""

    async def run():
        model = Model(stand_in)
        stand_in.seconds = 0.01
        for _ in range(20):
            calls = [asyncio.create_task(model.score(chunk())) for _ in range(50)]
            await asyncio.sleep(random.uniform(0, 0.03))
            for call in calls:
                call.cancel()
        await asyncio.sleep(0.1)
        assert not model.waiting and model.draining.done()
        stand_in.batches.clear()
        found = await asyncio.gather(*(model.score(chunk()) for _ in range(80)))
        assert all("mean" in scores for scores in found)

    asyncio.run(run())
    assert sorted(sum(sizes) for _, sizes in stand_in.batches) == [8] * 10
