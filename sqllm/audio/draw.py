"""Which windows of a long call are scored, where not all of them are.

A call's score is a mean over its windows, and neighbours are alike: a few, spread over the call, tell nearly as much.
Only windows with speech are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FIRST = 8  # windows before the standard error of the mean is looked at: fewer do not tell it
MOST = 64  # windows of a call that are kept to draw from until the standard error is small


def kept(windows: int | None, until_se: float | None) -> int | None:
    """How many windows of a channel are kept to be scored, where a caller asks for these; None: all."""
    return windows or (MOST if until_se else None)


class Spread:
    """At most `most` of a stream of things, evenly spread over it; it holds no more than twice as many."""

    def __init__(self, most: int):
        self.most, self.seen = most, 0
        self._held, self._step = [], 1

    def add(self, thing) -> None:
        if self.seen % self._step == 0:
            if len(self._held) == 2 * self.most:
                self._held, self._step = self._held[::2], 2 * self._step
            if self.seen % self._step == 0:
                self._held.append(thing)
        self.seen += 1

    def things(self) -> list:
        return [self._held[i] for i in evenly(len(self._held), self.most)]


def evenly(n: int, most: int) -> list[int]:
    """At most `most` positions among n, in order."""
    if n <= most:
        return list(range(n))
    return [int((i + 0.5) * n / most) for i in range(most)]


def in_turn(positions: Sequence[int]) -> list[int]:
    """The same positions in an order of which every beginning is evenly spread over the whole.

    That of their bits read backwards (van der Corput): halves, quarters and eighths take turns.
    """
    bits = max(len(positions) - 1, 1).bit_length()
    order = sorted(range(len(positions)), key=lambda i: f"{i:0{bits}b}"[::-1])
    return [positions[i] for i in order]


def next_draw(done: int) -> int:
    """How many windows more are scored at once when `done` are not enough."""
    return max(FIRST, done // 2)


def standard_error(scores: np.ndarray, weights: np.ndarray, of: int) -> float:
    """Of the weighted mean of scores [n] spread over `of` windows, in order of time: what the others may change.

    0 when there are no others, infinite for a single one of several. From differences between neighbours, since a
    quarter of a call that is bad all through is not chance. (Wolter, Introduction to Variance Estimation, 8.2:
    systematic sampling, with the ratio estimate and the correction for a finite population.)
    """
    n = len(scores)
    if n >= of:
        return 0.0
    if n < 2:
        return float("inf")
    off = weights * (scores - np.average(scores, weights=weights))
    return float(np.sqrt((np.diff(off) ** 2).sum() / 2 * n / (n - 1) * (1 - n / of)) / weights.sum())
