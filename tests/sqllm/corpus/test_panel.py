import numpy as np
import pytest

from sqllm.audio.degrade import KINDS
from sqllm.corpus.panel import DEAF, TEACHERS, load_visqol, pesq_wb


def test_teachers_are_deaf_to_known_kinds_and_never_all():
    assert TEACHERS == ("distillmos", "pesq", "visqol") and set().union(*DEAF.values()) <= set(KINDS)
    assert not set.intersection(*DEAF.values())


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.3, 0.6])
def test_what_cannot_be_compared_has_no_rating(seconds):
    for package in ("visqol", "ai_edge_litert", "pesq"):
        pytest.importorskip(package, reason=f"no {package}: pip install '.[label]'")
    visqol, noise = load_visqol(), 0.1 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    short = noise[: int(seconds * 16000)]
    assert visqol(short, short) is None
    assert visqol(np.zeros_like(noise), noise) is None
    assert pesq_wb(short[:2000], short[:2000]) is None
