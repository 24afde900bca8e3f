import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from sqllm.corpus import simulate
from sqllm.corpus.questions import Dialogue
from sqllm.errors import UsageError
from sqllm.evaluation.words import agrees, named, words


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

    def answer(self, mean, window, reference, facts, question):
        self.told.append(facts)
        yield "mos 3.0. "
        yield self.says


def test_explanations_are_counted_by_kind(tmp_path, speech):
    names = [f"talker{i}" for i in range(40)]
    chosen = [n for n in names if simulate.is_val(n)][:2] + [n for n in names if not simulate.is_val(n)][:2]
    for i, name in enumerate(chosen):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", speech(2.0, seed=i).numpy(), 16000)
    rows = [simulate.row(simulate.Pool(str(tmp_path), None, None).clip(1, i)) for i in range(48)]
    noisy = [{"kind": "noise", "params": {"snr_db": 0.0}, "spans": []}]
    for row, chain in zip([row for row in rows if row["split"] == "val"], [noisy, noisy, [], noisy], strict=False):
        row["chain"] = json.dumps(chain)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clips-00000.parquet")
    parrot = Parrot("Yes, it has severe background noise and clear echo.")
    result = words(parrot, tmp_path, clips=3, withheld=True)
    assert result["explanations"] == {
        "n": 3, "worst_fault_named": 1.0, "recall": 1.0, "precision": round(2 / 6, 3), "distinct": round(1 / 3, 3),
    }  # fmt: skip
    assert result["leading_questions"] == {"n": 10, "wrong_yes": 1.0}
    assert set(parrot.told) == {""}
    with pytest.raises(UsageError, match="val"):
        words(parrot, tmp_path / "talker0", clips=3)
