import numpy as np
import soundfile

from sqllm.corpus import simulate
from sqllm.evaluation import severity


class LevelMeter:
    """A stand-in that hears nothing but the level."""

    def score_windows(self, windows):
        levels = np.array([10 * np.log10(np.mean((w / 32768) ** 2) + 1e-12) for w in windows])
        mean = np.repeat(np.clip(6 + levels / 15, 1, 5)[:, None, None], 5, axis=2)
        return mean, mean


def test_severity_hears_only_speakers_that_training_does_not(tmp_path, speech, capsys):
    names = [f"talker{i}" for i in range(60)]
    unseen = [n for n in names if simulate.is_val(n)]
    for i, name in enumerate([*unseen, *[n for n in names if n not in unseen][:2]]):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", speech(2.0, seed=i).numpy(), 16000)
    result = severity.severity(LevelMeter(), str(tmp_path))
    assert result["speakers"] == len(unseen) > 2
    assert result["faults"]["level"]["falls"] and not result["faults"]["noise"]["falls"]
    assert np.shape(result["faults"]["level"]["scores"]) == (5, 5)
    severity.show(result, None)
    assert "level: loud falls at every step" in capsys.readouterr().out


def test_human_conditions_with_one_fault(tmp_path):
    (tmp_path / "c.csv").write_text(
        "con_description,mos,noi,col,dis,loud\n"
        "Anchor: White Noise 12dB,2.2,1.5,3.7,4.0,3.6\nAnchor: Level -20dB,3.2,4,4,4,2\n"
        "AMR-WB@8.85 PL 18% bursty,2,3,3,2,3\nWhatsApp Bad line,2,2,2,2,2\n"
    )
    assert [(kind, scores[0]) for kind, _, scores in severity.human(tmp_path / "c.csv")] == [
        ("level", 3.2),
        ("noise", 2.2),
    ]
