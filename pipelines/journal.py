"""What every worker has in hand, kept where it outlives them: a recording that kills processes costs only itself.

Ray starts a dead process again and hands it the same work, for ever. Whoever takes a recording in hand says so first;
one that was in hand at `DEATHS` deaths is not touched again. A machine that goes away takes innocents with it: one
death proves nothing, and after it each is tried alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

DEATHS = 3


class _Journal:
    def __init__(self):
        self.in_hand: Counter = Counter()

    def begin(self, keys: Sequence[Hashable]) -> list[int]:
        deaths = [self.in_hand[key] for key in keys]
        if len(keys) == 1 or not any(deaths):
            self.in_hand.update(keys)
        return deaths

    def end(self, keys: Sequence[Hashable]) -> None:
        for key in keys:
            self.in_hand.pop(key, None)


class Journal:
    """The driver makes one and gives it to its workers."""

    def __init__(self):
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.actor = ray.remote(_Journal).options(num_cpus=0, scheduling_strategy=here).remote()

    def begin(self, *keys: Hashable) -> list[int]:
        """Take them in hand, and tell at how many deaths each was in hand before. Nothing is taken where several are
        asked for and one of them is suspect: then ask for each alone."""
        return ray.get(self.actor.begin.remote(keys))

    def end(self, *keys: Hashable) -> None:
        """Not waited for: calls arrive in order, and one death too many proves nothing."""
        self.actor.end.remote(keys)
