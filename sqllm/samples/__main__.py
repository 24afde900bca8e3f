"""Rebuild the sample recordings: `python -m sqllm.samples PROMPTS_DIR`.

PROMPTS_DIR is where Debian's packages asterisk-core-sounds-{en,fr,it}-wav are unpacked:

    apt-get download asterisk-core-sounds-{en,fr,it}-wav
    for package in *.deb; do dpkg -x $package PROMPTS_DIR; done
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from sqllm.audio import degrade
from sqllm.audio.degrade import RATE, Impairment, Sources

FILE_RATE = 8000  # Hz, of the prompts and of every sample
EN, FR, IT = "en_US_f_Allison", "fr_CA_f_June", "it_IT_m_Carlo"

PROMPTS = {  # name: (prompt, seconds of it)
    "welcome-en": (f"{EN}/demo-congrats", 7.15),
    "queue-en": (f"{EN}/queue-youarenext", None),
    "queue-fr": (f"{FR}/queue-periodic-announce", None),
    "voicemail-it": (f"{IT}/vm-intro", None),
}
FAULTS = {
    "welcome-en": {
        "noise-20dB": Impairment("noise", {"snr_db": 20}),
        "noise-5dB": Impairment("noise", {"snr_db": 5}),
        "loss": Impairment("loss", {"rate": 0.12, "burst": 5, "conceal": "zero"}),
    },
    "queue-en": {
        "clipping": Impairment("clipping", {"threshold": 0.15}),
        "quiet-30dB": Impairment("level", {"gain_db": -30}),
    },
    "queue-fr": {
        "babble-10dB": Impairment("babble", {"snr_db": 10}),
        "muffled": Impairment("band", {"high_hz": 1000}),
        "echo": Impairment("echo", {"delay_ms": 250, "gain_db": -6}),
    },
    "voicemail-it": {
        "gsm": Impairment("codec", {"name": "gsm"}),
        "mnru": Impairment("mnru", {"q_db": 9}),  # half of its noise is above 4 kHz: 12 dB in the file
    },
}
LONG = [f"{EN}/{name}" for name in ("queue-periodic-announce", "vm-review", "vm-intro")]
LONG_LOSS_S = (9.0, 13.0)
CALL = [(0, f"{EN}/queue-youarenext"), (1, f"{IT}/vm-nobodyavail"), (0, f"{EN}/auth-thankyou")]  # (leg, prompt)
BABBLERS = [f"{EN}/demo-instruct", f"{FR}/demo-instruct", f"{IT}/demo-instruct"]


def build(prompts: Path, out: Path) -> None:
    def read(name: str, seconds: float | None = None) -> np.ndarray:
        path = prompts / "usr/share/asterisk/sounds" / f"{name}.wav"
        return sf.read(path, dtype="float32", frames=int(seconds * FILE_RATE) if seconds else -1)[0]

    def write(name: str, samples: np.ndarray) -> None:
        path = out / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, samples, FILE_RATE, subtype="PCM_16", compression_level=1.0)

    babblers = [soxr.resample(read(name), FILE_RATE, RATE) for name in BABBLERS]

    def degraded(samples: np.ndarray, fault: Impairment, start_s: float = 0, end_s: float | None = None) -> np.ndarray:
        rng = np.random.default_rng(1)
        hiss = degrade.coloured_noise(20 * RATE, 1.0, rng)
        hiss, _ = degrade.band(hiss, rng, None, 300, 3400)  # else part of it were lost at 8 kHz
        wide = soxr.resample(samples, FILE_RATE, RATE)
        here = slice(int(start_s * RATE), int(end_s * RATE) if end_s else None)
        wide[here] = degrade.apply(wide[here], [fault], rng, Sources(noises=[hiss], talkers=babblers))
        return np.clip(soxr.resample(wide, RATE, FILE_RATE), -1, 1)

    for name, (prompt, seconds) in PROMPTS.items():
        clean = read(prompt, seconds)
        write(f"clean/{name}", clean)
        for fault, impairment in FAULTS[name].items():
            write(f"faulty/{name}-{fault}", degraded(clean, impairment))

    long = np.concatenate([read(name) for name in LONG])
    burst = Impairment("loss", {"rate": 0.4, "burst": 3, "conceal": "zero"})
    write("faulty/announcements-en-loss-burst", degraded(long, burst, *LONG_LOSS_S))

    turns = [(leg, read(name)) for leg, name in CALL]
    legs = [np.concatenate([turn if leg == mine else 0 * turn for leg, turn in turns]) for mine in (0, 1)]
    legs[1] = degraded(legs[1], Impairment("noise", {"snr_db": 10}))
    write("faulty/call-en-it-noisy-leg", np.stack(legs, axis=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sqllm.samples", description="Rebuild the sample recordings.")
    parser.add_argument("prompts", metavar="PROMPTS_DIR", type=Path, help="unpacked asterisk-core-sounds-*-wav")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    build(arguments.prompts, arguments.out)
