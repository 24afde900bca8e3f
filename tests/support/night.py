"""The main job with a stand-in for the model, as a process that a test can kill: night.py SOURCE OUT LOG PAUSE_S"""

import sys

from support.standin import fingerprints, loader

from pipelines import sink
from pipelines.score import Settings, score
from pipelines.sources import find

if __name__ == "__main__":
    source, out, log, pause_s = sys.argv[1:]
    sink.PART_S = 0.3
    load = loader(log, float(pause_s))
    settings = Settings(actors=2, device="cpu")
    totals = score(find([source]), out, settings, load, lambda stage, _: print(stage, flush=True), fingerprints)
    print(f"done {totals.done} kept {totals.kept}", flush=True)
