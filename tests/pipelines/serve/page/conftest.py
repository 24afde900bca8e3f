"""The page in a real browser, on the endpoint with a stand-in for the model."""

import shutil
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
PIECES = ("mos 2.6, noi 3.7, col 2.5, dis 2.3, loud 3.4. ", "The main fault ", "is clear ", "cut-outs.")


class Scorer:
    """Scores that follow from where a window is and who listens: a model's are tested elsewhere."""

    fingerprint, batch = "stand-in", 4
    model = SimpleNamespace(device="cpu")

    def __init__(self):
        self.heard, self.other, self.questions, self.told = None, None, [], []
        self.hold = threading.Event()  # answers stop half-way until it is set
        self.hold.set()

    def score_chunks(self, chunks, profile=None):
        return [self.one(chunk, 0.5 if profile else 0.0) for chunk in chunks]

    def one(self, chunk, strict):
        self.heard = np.concatenate(chunk.windows)
        mean = np.tile([3.4, 4.2, 2.9, 1.4, 4.6], (len(chunk.windows), 1)) - strict + (chunk.references is not None)
        mean[:, 0] -= 1.2 * chunk.channel + np.asarray(chunk.starts_s) / 20
        mean = np.clip(mean, 1, 5)
        mean[np.asarray(chunk.speech_s) == 0] = np.nan
        return {"mean": mean, "std": np.full_like(mean, 0.6)}

    def answer_about(self, worst, question, profile=None, other=None):
        self.questions.append(question)
        self.told.append(worst.mean[0])
        self.other = other
        yield from PIECES[:2]
        if not self.hold.wait(60):
            raise TimeoutError
        if question and "break" in question:
            raise RuntimeError("out of luck")
        yield from PIECES[2:]


@pytest.fixture(scope="module")  # no longer: as long as Playwright runs, asyncio.run does not
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install '.[test]'")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def scorer():
    return Scorer()


@pytest.fixture
def visit(browser, endpoint, scorer):
    """visit(keys=[], **settings): the page of an endpoint with these; visit(address=...): of one that runs.

    Whatever it logs as an error, and a request to anywhere else, fails the test.
    """
    with ExitStack() as stack:
        wrong, foreign = [], []

        def go(keys=(), address=None, **settings):
            address = address or stack.enter_context(endpoint(scorer, keys, **settings))[0]
            context = browser.new_context(viewport={"width": 1200, "height": 900}, permissions=["microphone"])
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
            own = (address, f"blob:{address}")
            page.on("request", lambda request: request.url.startswith(own) or foreign.append(request.url))
            page.goto(address)
            return page

        yield go
    assert not [line for line in wrong if "Failed to load resource" not in line]  # a refusal, which the page explains
    assert not foreign


@pytest.fixture
def page(visit):
    """The page, opened."""
    page = visit()
    page.get_by_role("button", name="Welcome, English: loss").wait_for()
    return page


@pytest.fixture
def speech_file(tmp_path, record):
    """speech_file(name, seconds, channels) -> a WAV of noise in syllables."""

    def make(name="talk.wav", seconds=3.0, channels=1):
        return record(tmp_path / name, seconds=seconds, channels=channels)

    return make


@pytest.fixture
def gsm_file(tmp_path, record):
    """What the server decodes and a browser does not."""
    path = tmp_path / "talk-gsm.wav"
    data, _ = soundfile.read(record(tmp_path / "plain.wav", seconds=3, rate=8000))
    soundfile.write(path, data, 8000, subtype="GSM610")
    return path
