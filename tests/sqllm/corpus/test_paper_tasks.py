import re

import numpy as np
import pytest

from sqllm.corpus import paper_tasks
from sqllm.corpus.paper_tasks import ASKED, draw
from sqllm.plain import NAMES

SCORES = {"mos": 2.3, "noi": 1.4, "col": 3.6, "dis": 4.6, "loud": 2.5}
WORD = {"noi": "very bad", "col": "good", "dis": "excellent", "loud": "fair"}


def many(scores=SCORES, faults=None, n=400, **options):
    rng = np.random.default_rng(0)
    return [draw(scores, faults, rng, **options) for _ in range(n)]


def test_the_five_tasks_are_drawn_uniformly():
    counts = {task: 0 for task in ASKED}
    for d in many(n=2000):
        counts[d.task] += 1
    assert min(counts.values()) > 340


def test_answers_are_true():
    for d in many():
        numbers = re.findall(r"\d\.\d", d.answer)
        if d.task in ("mos_numeric", "explanatory"):
            assert "2.3" in numbers
        elif d.task == "multi_dim":
            assert numbers == [str(score) for score in SCORES.values()]
        else:
            dim = next(dim for dim in WORD if NAMES[dim] in d.question)
            assert str(SCORES[dim]) in numbers or WORD[dim] in d.answer.lower()
            assert d.task != "dim_categ" or WORD[dim] in d.answer.lower()


def test_a_reference_is_spoken_of_only_where_there_is_one():
    assert all(re.search("reference", d.question) for d in many(reference=True))
    assert not any(re.search("reference|  ", d.question) for d in many())


def test_what_is_not_rated_is_not_asked():
    assert {d.task for d in many({"mos": 3.0})} == {"mos_numeric"}
    assert {d.task for d in many({"dis": 3.0})} == {"dim_numeric", "dim_categ"}
    assert not any("noisiness" in d.question + d.answer for d in many({"mos": 3.0, "dis": 2.0}))


def test_held_out_wordings_are_others_and_there_are_several():
    for trained, held_out in ASKED.values():
        assert len(trained) >= 3 and len(held_out) >= 2 and not set(trained) & set(held_out)
    assert not {d.question for d in many()} & {d.question for d in many(held_out=True)}


@pytest.mark.parametrize(
    ("faults", "said"),
    [(["severe hiss", "clear echo"], "severe hiss and clear echo, which shows in noisiness (very bad, 1.4)"),
     ([], "suffers in noisiness (very bad, 1.4)"), (None, "suffers in noisiness")],
)  # fmt: skip
def test_causes_are_faults_where_they_are_known(faults, said):
    assert said in paper_tasks.causes(SCORES, faults)
    assert paper_tasks.causes({"mos": 4.5, "noi": 4.4}, None) == "No dimension stands out as bad"
