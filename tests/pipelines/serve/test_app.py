"""The routes with a stand-in for the model, over a real socket."""

import asyncio
import json
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import soundfile

from pipelines.serve import judging
from pipelines.serve.app import make_app
from pipelines.serve.meter import Meter
from pipelines.serve.model import Model
from pipelines.serve.settings import Settings
from sqllm.recording import ROW_FIELDS, cut, recording_id


def post(address, path, name="/v1/score", headers=None, reference=None, other=None, **form):
    sounds = {"file": path, "reference": reference, "other": other}
    files = {field: (sound.name, sound.read_bytes()) for field, sound in sounds.items() if sound}
    return requests.post(f"{address}{name}", files=files, data=form, headers=headers, timeout=30)


def problem(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status and told["code"] == code and told["title"] and told["detail"]
    return told


def events(answer):
    """(name, data) of server-sent events."""
    for block in answer.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        yield lines.get("event", "message"), json.loads(lines["data"])


def test_score_answers_with_a_row_for_each_channel(endpoint, record, tmp_path):
    call = record(tmp_path / "call.wav", seconds=25, channels=2)
    with endpoint() as (address, _):
        rows = post(address, call, profile="expert", explain="below=1.8").json()["rows"]
    assert [row["channel"] for row in rows] == [0, 1]
    for row in rows:
        assert set(row) == {*ROW_FIELDS, "facts"}
        assert row["uri"] == "call.wav" and row["recording_id"] == recording_id("call.wav")
        assert [window["mos"] for window in row["windows"]] == [1.0, 2.0, 2.5]
        assert row["mos"] == pytest.approx(1.83, abs=0.02)  # by speech
        assert row["explanation"] is None and row["profile"] == "expert" and row["model"] == "stand-in"


def test_a_recording_below_the_limit_is_explained_by_its_worst_window(endpoint, record, tmp_path):
    with endpoint() as (address, _):
        [row] = post(address, record(tmp_path / "a.wav", seconds=12), explain="below=1.8").json()["rows"]
    assert row["explanation"] == "mos 1.0 explained panel "


def test_pairs_wait_for_their_turn_and_single_recordings_pass(endpoint, record, monkeypatch, tmp_path):
    monkeypatch.setattr(judging, "PAIRS", 1)
    held, first, passed = [], threading.Event(), threading.Event()

    def slow(uri, reference=None):
        if not reference:
            yield from cut(uri)
            return
        held.append(uri)
        first.set()
        assert passed.wait(20) and len(held) == 1
        yield from cut(uri)
        held.remove(uri)

    monkeypatch.setattr(judging, "cut", slow)
    call = record(tmp_path / "a.wav")
    with endpoint() as (address, _), ThreadPoolExecutor(4) as callers:
        pairs = [callers.submit(post, address, call, reference=call) for _ in range(3)]
        assert first.wait(20) and post(address, call).ok  # while a pair is held
        passed.set()
        assert all(pair.result().ok for pair in pairs)


def test_a_long_recording_is_scored_in_pieces_like_in_one(endpoint, record, stand_in, tmp_path):
    with endpoint(stand_in) as (address, _):
        [row] = post(address, record(tmp_path / "a.wav", seconds=395)).json()["rows"]
    starts = [window["start_s"] for window in row["windows"]]
    assert starts == [*np.arange(0, 390, 10), 385]
    assert [window["mos"] for window in row["windows"]] == [1 + start / 10 for start in starts]
    assert max(sum(sizes) for _, sizes in stand_in.batches) == 8


def test_ask_streams_words(endpoint, record, tmp_path):
    with endpoint() as (address, _):
        answer = post(address, record(tmp_path / "a.wav"), "/v1/ask", question="is it noisy?", profile="expert")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *words, last = events(answer)
    assert [data["text"] for _, data in words] == ["mos 1.0 ", "is it noisy? ", "expert "]
    assert last == ("done", {})


def test_a_moment_or_a_channel_is_asked_about(endpoint, record, tmp_path, stand_in):
    a, call = record(tmp_path / "a.wav", seconds=25), record(tmp_path / "call.wav", seconds=3, channels=2)
    with endpoint(stand_in) as (address, _):
        [(_, first), *_] = events(post(address, a, "/v1/ask", question="?", at_s=12))
        assert first["text"] == "mos 2.0 "
        assert post(address, call, "/v1/ask", question="?", channel=1).ok
        told = problem(post(address, a, "/v1/ask", question="?", at_s=99, channel=0), 422, "SILENT")
        assert told["detail"] == "nobody speaks at 99 s in channel 0"
        problem(post(address, a, "/v1/ask", question="?", channel=-1), 422, "INVALID")


def test_two_recordings_are_compared(endpoint, record, tmp_path):
    a, b = record(tmp_path / "a.wav"), record(tmp_path / "b.wav", seconds=3)
    with endpoint() as (address, _):
        *words, _ = events(post(address, a, "/v1/ask", other=b, question="which is better?"))
        (tmp_path / "c.wav").write_text("not audio")
        problem(post(address, a, "/v1/ask", other=tmp_path / "c.wav", question="which is better?"), 422, "DECODE")
    assert [data["text"] for _, data in words] == ["mos 1.0 ", "mos 1.0 ", "which is better? ", "panel "]


def test_a_reference_that_does_not_fit_is_said(endpoint, record, tmp_path):
    a, b = record(tmp_path / "a.wav", seconds=8), tmp_path / "b.wav"
    soundfile.write(b, 0.1 * np.random.default_rng(5).standard_normal(8 * 16000), 16000)
    with endpoint() as (address, _):
        [row] = post(address, a, reference=b).json()["rows"]
        answer = post(address, a, "/v1/ask", reference=b, question="?")
    assert row["status"] == "ok" and row["error_code"] == "REFERENCE" and row["reference_uri"] == "b.wav"
    assert "without the reference" in next(events(answer))[1]["text"]
    b.write_text("not audio")
    with endpoint() as (address, _):
        said = next(events(post(address, a, "/v1/ask", reference=b, question="?")))[1]["text"]
    assert "without the reference" in said and tempfile.gettempdir() not in said


def test_models_health_and_docs(endpoint):
    with endpoint() as (address, _):
        told = requests.get(f"{address}/v1/models").json()
        assert told["models"] == [{"name": "embedded", "fingerprint": "stand-in", "device": "cpu"}]
        assert "expert" in [profile["name"] for profile in told["profiles"]] and told["limits"]["max_mb"] == 100
        for sample in told["samples"]:
            assert requests.get(f"{address}{sample['url']}").content[:4] == b"fLaC"
        assert "<html" in requests.get(address).text
        for path in ("/healthz", "/readyz", "/docs"):
            assert requests.get(f"{address}{path}").ok
        assert "http" not in requests.get(f"{address}/docs").text.replace("http-equiv", "")  # no foreign host
        document = requests.get(f"{address}/openapi.json").json()
    for path, kind in (("/v1/score", "application/json"), ("/v1/ask", "text/event-stream")):
        assert document["paths"][path]["post"]["responses"]["200"]["content"][kind]["example"]


@pytest.mark.parametrize(
    ("make", "status", "code"),
    [
        (lambda path: path.write_bytes(b""), 422, "EMPTY"),
        (lambda path: path.write_text("not audio"), 422, "DECODE"),
        (lambda path: path.write_bytes(b"#!SILK_V3" * 9), (415, 422), ("UNSUPPORTED", "DECODE")),
        (lambda path: soundfile.write(path, np.zeros(16000), 16000, format="WAV"), 422, "SILENT"),
        (lambda path: soundfile.write(path, np.ones(1600) * 0.1, 16000, format="WAV"), 422, "TOO_SHORT"),
        (
            lambda path: soundfile.write(path, np.full(16000, np.nan), 16000, format="WAV", subtype="FLOAT"),
            422,
            "NONFINITE",
        ),
    ],
    ids=["empty", "text", "silk", "silent", "short", "nan"],
)
def test_what_is_wrong_with_a_recording_has_the_code_of_the_batch_job(endpoint, tmp_path, make, status, code):
    path = tmp_path / "a.wav"
    make(path)
    with endpoint() as (address, _):
        answer = post(address, path)
        if isinstance(code, tuple):  # with PyAV it is opened, and found to be broken
            status, code = next(pair for pair in zip(status, code, strict=True) if pair[0] == answer.status_code)
        told = problem(answer, status, code)
    assert told["rows"][0]["error_code"] == code and str(tempfile.gettempdir()) not in answer.text


def test_a_model_that_fails_is_a_problem(endpoint, record, tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(stand_in, "_score", lambda *_: 1 / 0)
    with endpoint(stand_in) as (address, _):
        told = problem(post(address, record(tmp_path / "a.wav")), 500, "MODEL")
    assert "ZeroDivisionError" in told["detail"]


def test_requests_that_are_not_as_they_should_be(endpoint, record, tmp_path):
    a = record(tmp_path / "a.wav")
    with endpoint() as (address, _):
        problem(requests.post(f"{address}/v1/score", json={}), 415, "NOT_MULTIPART")
        problem(requests.post(f"{address}/v1/score", files={"sound": b"x"}), 422, "INVALID")
        problem(requests.get(f"{address}/v1/scores"), 404, "NOT_FOUND")
        problem(requests.get(f"{address}/v1/score"), 404, "NOT_FOUND")
        assert "expert" in problem(post(address, a, profile="nobody"), 422, "INVALID")["detail"]
        assert "below=2.5" in problem(post(address, a, explain="perhaps"), 422, "INVALID")["detail"]
        problem(post(address, a, "/v1/ask", question=""), 422, "INVALID")
        broken = {"Content-Type": "multipart/form-data; boundary=x"}
        problem(requests.post(f"{address}/v1/score", data=b"--y", headers=broken), 400, "INVALID")


def test_limits(endpoint, record, tmp_path):
    with endpoint(max_mb=0.2, max_audio_s=60, max_channels=2) as (address, _):
        assert "0.2 MB" in problem(post(address, record(tmp_path / "a.wav", seconds=10)), 413, "TOO_LARGE")["detail"]

        def chunked():  # of unstated length
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            for _ in range(100):
                yield bytes(10_000)

        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        problem(requests.post(f"{address}/v1/score", data=chunked(), headers=kind, timeout=30), 413, "TOO_LARGE")
        bomb = tmp_path / "bomb.flac"  # an hour in a few kilobytes
        soundfile.write(bomb, np.zeros(3600 * 16000, np.int16), 16000)
        assert bomb.stat().st_size < 200_000
        problem(post(address, bomb), 413, "TOO_LONG")
        many = record(tmp_path / "many.flac", seconds=0.1, channels=8)
        assert "8 channels" in problem(post(address, many), 413, "TOO_LARGE")["detail"]
        liar = record(tmp_path / "liar.wav", rate=2_000_000, seconds=0.01)
        problem(post(address, liar), 422, "UNSUPPORTED")


def test_a_slow_upload_is_given_up(endpoint):
    with endpoint(upload_timeout_s=0.5) as (address, app):
        there = urlsplit(address)
        with socket.create_connection((there.hostname, there.port), timeout=20) as connection:
            head = f"POST /v1/score HTTP/1.1\r\nHost: {there.netloc}\r\nContent-Length: 1000\r\n"
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x".encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert b" 408 " in answer and b"SLOW_UPLOAD" in answer
        assert gate(app).taken == 0


def test_a_request_that_takes_too_long(endpoint, record, tmp_path, stand_in):
    stand_in.seconds = 0.6
    with endpoint(stand_in, timeout_s=0.3) as (address, _):
        assert problem(post(address, record(tmp_path / "a.wav")), 504, "TIMEOUT")


def test_keys(endpoint, record, tmp_path):
    a = record(tmp_path / "a.wav")
    with endpoint(keys=["one", "two"]) as (address, _):
        assert problem(post(address, a), 401, "UNAUTHORIZED")
        assert problem(post(address, a, headers={"Authorization": "Bearer three"}), 401, "UNAUTHORIZED")
        assert post(address, a, headers={"Authorization": "Bearer two"}).ok
        assert post(address, a, headers={"X-API-Key": "one"}).ok
        assert requests.get(f"{address}/v1/models").status_code == 401
        assert requests.get(f"{address}/v1/models").headers["www-authenticate"] == "Bearer"
        assert requests.get(f"{address}/healthz").ok and requests.get(f"{address}/docs").ok


def test_the_next_one_is_told_to_come_again_when_all_places_are_taken(endpoint, record, tmp_path, stand_in):
    stand_in.seconds = 1.0
    a = record(tmp_path / "a.wav")
    with endpoint(stand_in, max_requests=2) as (address, app):
        first = [threading.Thread(target=post, args=[address, a]) for _ in range(2)]
        for thread in first:
            thread.start()
        while gate(app).taken < 2:
            time.sleep(0.01)
        answer = post(address, a)
        assert problem(answer, 429, "BUSY") and int(answer.headers["retry-after"]) >= 1
        for thread in first:
            thread.join()
        assert post(address, a).ok


def test_metrics_count_answers_recordings_and_audio(endpoint, record, tmp_path):
    with endpoint(keys=["one"]) as (address, _):
        key = {"Authorization": "Bearer one"}
        post(address, record(tmp_path / "a.wav", seconds=12, channels=2), headers=key)
        post(address, Path(__file__), headers=key)
        post(address, Path(__file__))
        told = requests.get(f"{address}/metrics")
    assert told.headers["content-type"].startswith("text/plain")
    counts = dict(line.rsplit(" ", 1) for line in told.text.splitlines() if not line.startswith("#"))
    assert counts['sqllm_requests_total{route="/v1/score",status="200"}'] == "1.0"
    assert counts['sqllm_requests_total{route="/v1/score",status="401"}'] == "1.0"
    assert counts['sqllm_rows_total{error_code="",model="stand-in",status="ok"}'] == "2.0"
    assert counts['sqllm_rows_total{error_code="DECODE",model="stand-in",status="failed"}'] == "1.0"
    assert counts["sqllm_audio_seconds_total"] == "24.0"
    assert counts['sqllm_request_seconds_count{route="/v1/score"}'] == "3.0"


def test_nothing_of_an_upload_is_kept(endpoint, record, tmp_path, monkeypatch):
    own = tmp_path / "temporary"
    killed = own / "sqllm-upload-4194305-x"  # a number that no process has
    killed.mkdir(parents=True)
    (killed / "recording.wav").write_bytes(b"what somebody said")
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    a = record(tmp_path / "a.wav", seconds=60)
    with endpoint() as (address, _):
        assert post(address, a).ok
        assert post(address, Path(__file__)).status_code == 422
        assert post(address, a, "/v1/ask", question="?").ok
    assert not list(own.iterdir())


def gate(app):
    layer = app.middleware_stack
    while type(layer).__name__ != "Gate":
        layer = layer.app
    return layer


def test_below_a_prefix_a_key_is_wanted_too(stand_in):
    """As Ray Serve calls it: the whole path, and the prefix beside it."""
    app = make_app(Settings(), Model(stand_in), ThreadPoolExecutor(1), ["one"], Meter())

    def get(path, **headers):
        told = []
        scope = {"type": "http", "method": "GET", "path": path, "root_path": "/speech", "query_string": b"",
                 "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}  # fmt: skip

        async def receive():
            return {"type": "http.request"}

        async def send(message):
            told.append(message)

        asyncio.run(app(scope, receive, send))
        return told[0]["status"], b"".join(message.get("body", b"") for message in told[1:])

    assert get("/speech/v1/models")[0] == 401
    status, body = get("/speech/v1/models", authorization="Bearer one")
    assert status == 200 and all(s["url"].startswith("/speech/samples/") for s in json.loads(body)["samples"])
    assert get("/speech/healthz")[0] == 200


def test_scores_of_two_models_are_not_mixed(endpoint, record, tmp_path, stand_in):
    call = record(tmp_path / "a.wav", seconds=170)
    names = iter(f"model-{n}" for n in range(99))
    type(stand_in).fingerprint = property(lambda self: next(names))
    try:
        with endpoint(stand_in) as (address, _):
            assert problem(post(address, call), 503, "UNAVAILABLE")
    finally:
        type(stand_in).fingerprint = "stand-in"


def test_a_model_that_scores_is_ready_without_being_asked(endpoint, record, tmp_path, stand_in, monkeypatch):
    with endpoint(stand_in) as (address, _):
        assert requests.get(f"{address}/readyz").ok and post(address, record(tmp_path / "a.wav")).ok
        monkeypatch.setattr(Model, "info", None)
        assert requests.get(f"{address}/readyz").json()["model"] == "stand-in"
