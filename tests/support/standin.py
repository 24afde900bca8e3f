"""A scorer without a model."""

from __future__ import annotations

import os
import time

import numpy as np

from sqllm.errors import UsageError

FINGERPRINT = "stand-in"


def fingerprints(model: str) -> set[str]:
    return {FINGERPRINT}


def loader(log: str | None = None, pause_s: float = 0.0):
    """`load` for `pipelines.score.score`: mos is 1 + the position of the window. Made here, so that Ray pickles it.

    A recording with "poison" in its name raises, one with "deadly" kills the process. Every recording that is scored is
    a line in the file `log`, and takes `pause_s`.
    """

    class StandIn:
        fingerprint = FINGERPRINT

        def score_chunks(self, chunks, profile=None, explain="never", until_se=None):
            return [self._score(chunk, profile) for chunk in chunks]

        def _score(self, chunk, profile):
            if log:
                with open(log, "a") as file:
                    file.write(f"{chunk.uri}\n")
            time.sleep(pause_s)
            if "deadly" in chunk.uri:
                os._exit(1)
            if "poison" in chunk.uri:
                raise RuntimeError("out of luck")
            if not chunk.windows:
                return None
            mean = np.tile(np.arange(1.0, 6.0), (len(chunk.windows), 1))
            mean[:, 0] = 1 + np.asarray(chunk.starts_s) / 10
            mean[np.asarray(chunk.speech_s) == 0] = np.nan
            return {"mean": mean, "std": np.full_like(mean, 0.5), "explanation": profile}

    def load(model, device, threads):
        if model == "absent":
            raise UsageError("no such model")
        return StandIn()

    return load
