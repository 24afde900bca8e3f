"""Other people's measures of the same recordings, for a table in which they stand beside the model.

Without a reference: DistillMOS, DNSMOS (mos: P.808, noi: BAK) and PLCMOS. Against it: PESQ (P.862.2) and ViSQOL (speech
mode), which lay it under the recording themselves. Needs `pip install 'sqllm[peers]'`, and for DistillMOS also
`pip install --no-deps distillmos xls_r_sqa`. All hear the recording as the model does, at 16 kHz and at its level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec

import numpy as np

from sqllm.audio import RATE
from sqllm.audio.io import load
from sqllm.audio.level import raised
from sqllm.errors import AudioError, UsageError

LONGEST_S = 60.0  # PESQ and DistillMOS hold a recording whole; of a longer one there is no rating
Rate = Callable[[np.ndarray, np.ndarray | None], dict[str, float | None]]  # float32 [n], its reference -> ratings


def _distillmos() -> Rate:
    import torch

    from sqllm.corpus.panel import load_distillmos

    model = load_distillmos()

    def rate(x: np.ndarray, reference: np.ndarray | None) -> dict:
        with torch.inference_mode():
            return {"mos": float(model(torch.from_numpy(x)[None]))}

    return rate


def _dnsmos() -> Rate:
    from speechmos import dnsmos

    def rate(x: np.ndarray, reference: np.ndarray | None) -> dict:
        found = dnsmos.run(x, RATE)
        return {"mos": float(found["p808_mos"]), "noi": float(found["bak_mos"])}

    return rate


def _plcmos() -> Rate:
    from speechmos import plcmos

    def rate(x: np.ndarray, reference: np.ndarray | None) -> dict:
        np.random.seed(1)  # it draws its raters from here
        return {"mos": float(plcmos.run(x, RATE)["plcmos"])}

    return rate


def _pesq() -> Rate:
    from sqllm.corpus.panel import pesq_wb

    return lambda x, reference: {"mos": pesq_wb(x, reference)}


def _visqol() -> Rate:
    from sqllm.corpus.panel import load_visqol

    visqol = load_visqol()
    return lambda x, reference: {"mos": visqol(x, reference)}


PEERS = {"distillmos": _distillmos, "dnsmos": _dnsmos, "plcmos": _plcmos, "pesq": _pesq, "visqol": _visqol}
AGAINST_REFERENCE = ("pesq", "visqol")
PACKAGES = {
    "distillmos": ("distillmos", "xls_r_sqa"), "dnsmos": ("speechmos", "onnxruntime", "librosa"),
    "plcmos": ("speechmos", "onnxruntime", "librosa"), "pesq": ("pesq",), "visqol": ("visqol", "ai_edge_litert"),
}  # fmt: skip


def check(names: Sequence[str]) -> None:
    """UsageError where a peer is unknown or not installed."""
    for name in names:
        if name not in PEERS:
            raise UsageError(f"no peer {name!r}; there are {', '.join(PEERS)}")
        if missing := [package for package in PACKAGES[name] if find_spec(package) is None]:
            how = "--no-deps distillmos xls_r_sqa" if name == "distillmos" else "'sqllm[peers]'"
            raise UsageError(f"the peer {name} needs {', '.join(missing)}: pip install {how}")


class Peers:
    """The peers of these names, loaded; with `level_db` they too hear everything at that level."""

    def __init__(self, names: Sequence[str], level_db: float | None = None):
        check(names)
        self.level_db = level_db
        self.measures = {name: PEERS[name]() for name in names}

    def rate(self, uri: str, reference_uri: str | None) -> list[dict]:
        """A dict of `judge`, `ended`, `dim`, `predicted` for each rating; None where a peer could not rate the
        recording. What needs a reference says nothing where there is none."""
        signals, out = [], []
        for name in (uri, reference_uri):
            try:
                signals.append(name and self._heard(load(name, LONGEST_S)[0]))
            except (AudioError, ValueError):
                signals.append(None)
        for judge, rate in self.measures.items():
            ended = "double" if judge in AGAINST_REFERENCE else "single"
            if ended == "double" and reference_uri is None:
                continue
            ratings: dict[str, float | None] = {"mos": None}
            if signals[0] is not None and (ended == "single" or signals[1] is not None):
                with suppress(Exception):  # whatever a peer throws at a recording that it cannot rate
                    ratings = rate(*signals)
            out += [{"judge": judge, "ended": ended, "dim": d, "predicted": value} for d, value in ratings.items()]
        return out

    def _heard(self, samples: np.ndarray) -> np.ndarray:
        if self.level_db is not None:
            samples = raised(samples, self.level_db)
        return samples / np.float32(32768)
