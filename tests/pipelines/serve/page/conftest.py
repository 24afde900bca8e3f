"""The page in a real browser, on a small server that answers as the endpoint does, without a model."""

import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pipelines.serve.page import vocabulary, with_facts
from sqllm.corpus.profiles import load_profiles
from sqllm.recording import cut, rows

ROOT = Path(__file__).parents[4]
STATIC = ROOT / "pipelines/serve/static"
SAMPLES = ROOT / "sqllm/samples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
PIECES = ("mos 2.6, noi 3.7, col 2.5, dis 2.3, loud 3.4. ", "The main fault ", "is clear ", "cut-outs.")


class Server:
    """Answers of the endpoint's form; `key` and `busy` make it refuse; `asked` and `sent` are what came in."""

    def __init__(self, scorer):
        self.scorer, self.key, self.busy, self.asked = scorer, None, False, []
        self.hold = threading.Event()  # answers to questions stop half-way until it is set
        self.hold.set()
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/score", self.score, methods=["POST"]),
            Route("/v1/ask", self.ask, methods=["POST"]),
            Route("/samples/{name:path}", lambda request: FileResponse(SAMPLES / request.path_params["name"])),
            Mount("/", StaticFiles(directory=STATIC, html=True)),
        ]
        self.app = Starlette(routes=routes)

    async def models(self, request):
        if refused := self.refused(request):
            return refused
        profiles = [{"name": name, "words": profile.words} for name, profile in load_profiles().items()]
        names = sorted(str(path.relative_to(SAMPLES)) for path in SAMPLES.rglob("*.flac"))
        samples = [{"name": name, "url": f"/samples/{name}"} for name in names]
        models = [{"name": "embedded", "fingerprint": self.scorer.fingerprint}]
        return JSONResponse({"models": models, "profiles": profiles, "samples": samples} | vocabulary())

    async def score(self, request):
        if refused := self.refused(request):
            return refused
        async with request.form() as form:
            files = {name: await keep(form[name]) for name in ("file", "reference") if name in form}
            profile = form.get("profile")
        self.asked.append({"path": "score", "profile": profile} | {name: path.name for name, path in files.items()})
        self.sent = files["file"].read_bytes()
        try:
            chunks = list(cut(str(files["file"]), str(files["reference"]) if "reference" in files else None))
            scored = self.scorer.score_chunks(chunks, profile)
        finally:
            for path in files.values():
                shutil.rmtree(path.parent)
        out = [with_facts(row) for row in rows(zip(chunks, scored, strict=True))]
        if out[0]["status"] == "failed":
            return problem(422, "The recording cannot be scored", out[0]["error_detail"], out[0]["error_code"])
        return JSONResponse({"rows": out})

    async def ask(self, request):
        if refused := self.refused(request):
            return refused
        async with request.form() as form:
            question = form["question"]
            self.asked.append({"path": "ask", "question": question, "file": form["file"].filename})

        def events():
            for i, piece in enumerate(PIECES):
                if i == 2:
                    self.hold.wait(30)
                yield f"data: {json.dumps({'text': piece})}\n\n"
            if "break" in question:
                told = {"title": "The model failed", "detail": "Out of luck.", "status": 500}
                yield f"event: problem\ndata: {json.dumps(told)}\n\n"
            else:
                yield "event: done\ndata: {}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    def refused(self, request):
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return problem(401, "An API key is needed", "Send it as Authorization: Bearer.", "UNAUTHORIZED")
        if self.busy:
            return problem(429, "The server is busy", "All places are taken.", "BUSY", {"Retry-After": "7"})
        return None


def problem(status, title, detail, code, headers=None):
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


async def keep(upload):
    path = Path(tempfile.mkdtemp()) / os.path.basename(upload.filename)
    path.write_bytes(await upload.read())
    return path


class Scorer:
    """Scores that follow from where a window is and who listens: a model's are tested elsewhere."""

    fingerprint = "stand-in"

    def score_chunks(self, chunks, profile):
        return [self.one(chunk, 0.5 if profile else 0.0) for chunk in chunks]

    def one(self, chunk, strict):
        if not chunk.windows:
            return None
        mean = np.tile([3.4, 4.2, 2.9, 1.4, 4.6], (len(chunk.windows), 1)) - strict + (chunk.references is not None)
        mean[:, 0] -= 1.2 * chunk.channel + np.asarray(chunk.starts_s) / 20
        mean = np.clip(mean, 1, 5)
        mean[np.asarray(chunk.speech_s) == 0] = np.nan
        words = "".join(PIECES) if chunk.row and chunk.row["channel"] == 0 else None
        return {"mean": mean, "std": np.full_like(mean, 0.6), "explanation": words, "explain_below": np.inf}


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install '.[test]'")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def running():
    """A server on a free port: (server, its address)."""
    import uvicorn

    pytest.importorskip("python_multipart")
    server = Server(Scorer())
    runner = uvicorn.Server(uvicorn.Config(server.app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not runner.started and time.monotonic() < until:
        time.sleep(0.05)
    yield server, f"http://127.0.0.1:{runner.servers[0].sockets[0].getsockname()[1]}"
    runner.should_exit = True
    thread.join(20)


@pytest.fixture
def server(running):
    server, server.address = running
    server.key, server.busy, server.asked = None, False, []
    server.hold.set()
    return server


@pytest.fixture
def page(browser, server):
    """The page, opened. Whatever it logs as an error, and a request to anywhere else, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, permissions=["microphone"])
    page = context.new_page()
    page.set_default_timeout(30_000)
    wrong, went = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("request", lambda request: went.append(request.url))
    page.goto(server.address)
    page.get_by_role("button", name="Welcome, English: loss").wait_for()
    yield page
    context.close()
    assert not [line for line in wrong if "Failed to load resource" not in line]  # a refusal, which the page explains
    assert not [url for url in went if not url.startswith((server.address, f"blob:{server.address}"))]


@pytest.fixture
def speech_file(tmp_path, record):
    """speech_file(name, seconds, channels) -> a WAV of noise in syllables."""

    def make(name="talk.wav", seconds=3.0, channels=1):
        return record(tmp_path / name, seconds=seconds, channels=channels)

    return make


@pytest.fixture
def sample_of_gsm(tmp_path, record):
    """What the server decodes and a browser does not."""
    path = tmp_path / "talk-gsm.wav"
    data, _ = soundfile.read(record(tmp_path / "plain.wav", seconds=3, rate=8000))
    soundfile.write(path, data, 8000, subtype="GSM610")
    return path
