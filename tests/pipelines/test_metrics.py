import time

import pytest

from pipelines import metrics
from pipelines.score import Settings, score
from pipelines.sources import find

pytestmark = pytest.mark.timeout(120)


def test_ray_serves_what_was_done(local_ray, tmp_path, record, stand_in):
    for n in range(3):
        record(tmp_path / f"{n}.wav", channels=2)
    (tmp_path / "bad.wav").write_text("not audio")
    before = metrics.served()
    score(find([str(tmp_path)]), tmp_path / "out", Settings(actors=1, device="cpu"), stand_in)
    wanted = {"sqllm_rows ok": 6, "sqllm_rows failed": 1, "sqllm_audio_seconds": 6, "sqllm_windows": 6}
    until, done = time.monotonic() + 60, {}
    while time.monotonic() < until and not all(done.get(name, 0) >= wanted[name] for name in wanted):
        time.sleep(0.5)  # workers report every few seconds
        now = metrics.served()
        done = {name: now[name] - before.get(name, 0) for name in now}
    assert {name: done[name] for name in wanted} == wanted
    assert all(done[f"sqllm_stage_seconds {stage}"] > 0 for stage in ("cut", "score", "write"))
