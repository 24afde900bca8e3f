"""What listeners would say: impairment parameters -> expected mos, noi, col, dis, loud.

Each impairment has one or more severities (`severities`), zero where it cannot be heard. Impairments act together as
factors: score = 1 + (clean - 1) * exp(-sum of weight * severity). In the logarithm that is linear, so that the weights
of the kinds that occur in the human-rated conditions of the NISQA test sets are a non-negative least-squares fit
(`python -m sqllm.corpus.calibrate CONDITIONS.csv` prints the table below and its residuals). Kinds without a
human-rated condition (marked `assumed`) borrow the weights of their nearest relative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sqllm import DIMENSIONS
from sqllm.audio.coders import NARROWBAND
from sqllm.audio.degrade import Impairment

CLEAN = {"mos": 4.6, "noi": 4.5, "col": 4.4, "dis": 4.45, "loud": 4.45}

# severity: weights on mos, noi, col, dis, loud
WEIGHTS: dict[str, tuple[float, float, float, float, float]] = {
    "bass": (0.17, 0.00, 0.44, 0.00, 0.15),
    "chop": (0.61, 0.08, 0.15, 1.03, 0.11),
    "clipping": (0.66, 0.23, 0.76, 0.12, 0.30),
    "coding": (0.21, 0.00, 0.19, 0.13, 0.10),
    "loss": (0.63, 0.19, 0.45, 0.55, 0.20),
    "loud": (0.01, 0.25, 0.01, 0.00, 0.06),
    "mnru": (0.23, 0.26, 0.21, 0.18, 0.11),
    "narrow": (0.30, 0.12, 0.54, 0.00, 0.22),
    "noise": (0.30, 0.44, 0.09, 0.04, 0.05),
    "quiet": (0.25, 0.05, 0.12, 0.06, 0.61),
    "treble": (0.22, 0.04, 0.38, 0.04, 0.14),
    "white": (0.56, 1.11, 0.08, 0.05, 0.11),
    # assumed: no human-rated condition stands behind these
    "babble": (0.30, 0.40, 0.06, 0.05, 0.05),
    "talker": (0.25, 0.35, 0.04, 0.06, 0.04),
    "jump": (0.50, 0.08, 0.15, 0.80, 0.10),
    "fading": (0.25, 0.05, 0.10, 0.25, 0.50),
    "echo": (0.40, 0.25, 0.30, 0.12, 0.08),
    "reverb": (0.50, 0.20, 0.60, 0.08, 0.15),
    "suppress": (0.25, 0.05, 0.40, 0.20, 0.10),
}

CODING = {"gsm": 0.7, "adpcm": 0.7, "g7231": 0.7, "celp": 1.2, "nelly": 0.5, "aac": 1.5}  # assumed


def softplus(x: float) -> float:
    return math.log1p(math.exp(min(x, 50.0)))


def noisiness(snr_db: float, gain_db: float = 0.0) -> float:
    """Severity of additive noise; of a quiet signal (gain below 0) the noise is quieter too."""
    return softplus((30 - snr_db + 0.5 * min(gain_db, 0.0)) / 10)


def severities(chain: Sequence[Impairment], lost: Mapping[str, float] | None = None) -> dict[str, float]:
    """Severity features of a chain. `lost`: share of the active speech that gaps of a kind took, where it is known."""
    lost = lost or {}
    out: dict[str, float] = {}
    gain_db = sum(step.params["gain_db"] for step in chain if step.kind == "level")

    def add(name: str, value: float) -> None:
        out[name] = out.get(name, 0.0) + max(value, 0.0)

    for step in chain:
        p = step.params
        if step.kind in ("noise", "babble", "talker"):
            share = p.get("end", 1.0) - p.get("start", 0.0)
            name = "white" if p.get("colour") == "white" else step.kind
            add(name, noisiness(p["snr_db"], gain_db) * share**0.5)
        elif step.kind == "band":
            add("treble", math.log2(8000 / min(p.get("high_hz", 8000.0), 8000.0)))
            add("bass", math.log2(max(p.get("low_hz", 0.0), 100.0) / 100))
        elif step.kind == "clipping":
            add("clipping", math.log10(1 / min(p["threshold"], 1.0)))
        elif step.kind == "loss":
            add("loss", math.log1p(20 * lost.get("loss", p["rate"])))
        elif step.kind == "chop":
            add("chop", math.log1p(40 * lost.get("chop", p["rate"])))
        elif step.kind == "jump":
            add("jump", math.log1p(0.02 * p["per_second"] * p["length_ms"]))
        elif step.kind == "level":
            add("quiet", -p["gain_db"] / 10)
            add("loud", p["gain_db"] / 10)
        elif step.kind == "fading":
            add("fading", p["depth_db"] / 20)
        elif step.kind == "echo":
            add(
                "echo",
                max(0.0, (p["gain_db"] + 35) / 20) * min(p["delay_ms"] / 150, 1.5) * (1 + p.get("feedback", 0.0)),
            )
        elif step.kind == "mnru":
            add("mnru", max(0.0, (35 - p["q_db"]) / 10) ** 2)
        elif step.kind == "reverb":
            add("reverb", min(p["rt60_s"], 1.5) * 10 ** (p["wet_db"] / 20))
        elif step.kind == "suppress":
            add("suppress", p["strength"] / 2)
        elif step.kind == "codec":
            name = p["name"]
            if name in NARROWBAND:
                add("narrow", 1.0)
            if name == "aac":  # at the rate that is simulated, nothing above 4 kHz is left
                add("treble", 1.0)
            if name == "amr":
                add("coding", math.log2(12.2 / p["kbps"]))
            elif name in ("opus", "opus-nb", "vorbis", "mp3", "mp3-nb"):
                add("coding", max(0.0, p["squeeze"] - 0.85) / 0.07)
            else:
                add("coding", CODING.get(name, 0.0))
        elif step.kind == "vocoder":
            add("coding", 1.8 + 1.2 * math.log2(120 / p["bands"]) + 2 * math.exp(-p["rounds"] / 4))
        elif step.kind == "world":
            coarse = 0.6 * math.log2(64 / p["bands"]) + max(0.0, p["frame_ms"] - 5) / 8
            add("coding", 1 + coarse + 1.5 * abs(p["breath"]) + 2 * p["flutter"])
    return out


def expected(found: dict[str, float]) -> dict[str, float]:
    """Expected ratings on the 1-5 scale for severities."""
    return {
        d: 1 + (CLEAN[d] - 1) * math.exp(-sum(WEIGHTS[name][i] * value for name, value in found.items()))
        for i, d in enumerate(DIMENSIONS)
    }


def spread(mean: np.ndarray) -> np.ndarray:
    """Standard deviation of single listeners around a mean rating: the fit to the 178 conditions (RMSE 0.10)."""
    return 0.34 * np.sqrt(np.clip((mean - 0.7) * (5.3 - mean), 0.05, None))
