import shutil

import pyarrow as pa
import pytest

from pipelines.sink import Sink, row_schema
from pipelines.summary import Totals, write_summary
from sqllm import DIMENSIONS
from sqllm.recording import recording_id

EVIDENCE = {"level_db": -26.0, "activity": 0.6, "snr_db": 40.0, "band_low_hz": 100.0, "band_high_hz": 7000.0,
            "clipped_pct": 0.0, "dropout_pct": 0.0, "dropouts": []}  # fmt: skip


@pytest.fixture
def ok():
    return _ok


@pytest.fixture
def failed():
    return _failed


def _ok(uri, mos, channel=0, evidence=(), **others):
    """A scored row, all scores alike."""
    window = {"start_s": 0.0, "end_s": 2.0, **dict.fromkeys(DIMENSIONS, mos)}
    return {
        "recording_id": recording_id(str(uri)), "uri": str(uri), "channel": channel, "status": "ok", "duration_s": 2.0,
        "speech_s": 1.0, "worst_start_s": 0.0, "worst_mos": mos, "windows": [window], "model": "m",
        "evidence": EVIDENCE | dict(evidence), **dict.fromkeys(DIMENSIONS, mos), **others,
    }  # fmt: skip


def _failed(uri, code="DECODE", **others):
    status = "skipped" if code == "SILENT" else "failed"
    return {"recording_id": recording_id(str(uri)), "uri": str(uri), "status": status, "error_code": code,
            "error_detail": f"<{code}>", "model": "m", **others}  # fmt: skip


@pytest.fixture
def finished(tmp_path):
    """finished(rows, name="out", part=...): a run of these rows; other names than a row's own are carried columns."""

    def write(rows, name="out", model="m", part=1000):
        out = tmp_path / name
        shutil.rmtree(out, ignore_errors=True)
        carried = pa.schema([(column, pa.string()) for column in ("trunk", "carrier")])
        totals = Totals(recordings=len(rows), partitions=[f"fingerprint={model}"])
        sink = Sink(out / f"scores/fingerprint={model}", row_schema(carried))
        for at, row in enumerate(rows):
            totals.add([row | {"model": model}], ready_at=0.0)
            sink.write([row | {"model": model}])
            if at % part == part - 1:
                sink.flush()
        sink.flush()
        totals.finished = True
        write_summary(out, totals)
        return out

    return write
