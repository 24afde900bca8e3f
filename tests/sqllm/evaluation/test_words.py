import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sqllm.audio.degrade import Impairment
from sqllm.corpus.questions import Dialogue
from sqllm.errors import UsageError
from sqllm.evaluation.explanations import from_evidence, named, overlap, without
from sqllm.evaluation.simulated import Simulated
from sqllm.evaluation.words import agrees, words


def test_words_are_compared_with_what_was_done():
    def right(task, truth, said):
        return agrees(Dialogue(task, "?", truth), said)

    assert right("yes_no", "Yes, clear hiss.", "Yes, strong babble.") and not right("yes_no", "No.", "Yes.")
    assert right("category", "Loudness is fair, 3.1.", "fair: 2.9 for loudness.")
    assert not right("category", "Loudness is fair, 3.1.", "The loudness is very bad: 1.2.")
    assert right("when", "Dropouts at 1.20-1.31 s.", "It drops out at 1.20-1.31 s.")
    assert not right("when", "It does not drop out.", "Dropouts at 1.20-1.31 s.")
    assert right("explain", "", "It has clear muffling.") is None


def test_faults_are_known_by_their_words():
    assert named("You hear severe packet loss and clear echo.") == {"loss", "echo"}
    assert named("It has a level far too low.") == {"quiet"} and named("It is clean: no fault stands out.") == set()


class Parrot:
    """A stand-in that says one thing."""

    def __init__(self, says):
        self.says, self.told = says, []

    def score_windows(self, windows):
        from sqllm.predictor import Scores

        return Scores(*np.full((3, len(windows), 1, 5), 3.0))

    def answer(self, worst, question, other=None):
        self.told.append(worst.facts())
        yield "mos 3.0. " if other is None else "mos 3.0. mos 3.0. "
        yield self.says


def test_the_baseline_knows_what_is_measured():
    facts = {"level_db": -26.0, "snr_db": 45.0, "band_low_hz": 60.0, "band_high_hz": 7900.0, "clipped_pct": 0.0,
             "dropout_pct": 0.0}  # fmt: skip
    assert from_evidence(facts) == [] and from_evidence(facts | {"level_db": None}) == []
    assert from_evidence(facts | {"snr_db": 5.0}) == ["noise"]
    assert from_evidence(facts | {"band_high_hz": 2000.0, "level_db": -45.0}) == ["quiet", "treble"]
    assert from_evidence(facts | {"dropout_pct": 20.0}) == ["loss"]


def test_spans_overlap():
    assert overlap([(1.0, 2.0)], [(1.0, 2.0)]) == 1 and overlap([(1.0, 2.0)], [(3.0, 4.0)]) == 0
    assert overlap([(1.0, 2.0)], [(1.5, 2.5)]) == pytest.approx(1 / 3)


def test_a_fault_can_be_taken_away(speech):
    clean = (speech(2.0).numpy() * 32767).astype(np.int16)
    clip = Simulated(1, "a", clean, clean, [Impairment("level", {"gain_db": -20.0})], np.full(5, 3.0))
    assert np.abs(without(clip, "quiet") - clean).max() <= 1
    clip.chain += [Impairment("band", {"high_hz": 1500.0}), Impairment("talker", {"snr_db": 5.0})]
    assert without(clip, "quiet") is None  # the other talker's voice is not at hand
    clip.chain.pop()
    kept = without(clip, "treble")
    assert 20 * np.log10(np.std(kept) / np.std(clean)) == pytest.approx(-20, abs=0.1)


def test_explanations_are_counted_by_kind(corpus, tmp_path):
    rows = pq.read_table(corpus / "clips-00000.parquet").to_pylist()
    rows = [row | {"distillmos": row["mos"], "pesq": 3.0 + row["index"] / 100} for row in rows]  # with a panel
    noisy = [{"kind": "noise", "params": {"snr_db": 0.0, "colour": "pink"}, "spans": []}]
    for row, chain in zip([row for row in rows if row["split"] == "val"], [noisy, []], strict=True):
        row["chain"] = json.dumps(chain)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clips-00000.parquet")
    parrot = Parrot("Yes, it has severe background noise and clear echo.")
    result = words(parrot, tmp_path, clips=3, withheld=True)
    assert set(parrot.told) == {""}
    told = result["explanations"]
    assert told["n"] == 2 and told["worst_fault_named"] == told["recall"] == 1 and told["distinct"] == 0.5
    assert told["precision"] == 1 / 4
    kinds = {row["fault"]: (row["there"], row["named"], row["precision"]) for row in result["by_kind"]}
    assert kinds == {"noise": (1, 2, 0.5), "echo": (0, 2, 0.0)}
    assert result["counterfactuals"]["claim_gone"] == 0 and result["counterfactuals"]["n"] == 1
    assert result["leading_questions"]["wrong_yes"] == 1 and result["leading_questions"]["n"] == 4
    with pytest.raises(UsageError, match="val"):
        words(parrot, tmp_path / "talker0", clips=3)


def test_with_the_facts_told_they_stand_in_the_prompt(corpus):
    parrot = Parrot("No.")
    words(parrot, corpus, clips=1)
    assert all("SNR" in told for told in parrot.told)
