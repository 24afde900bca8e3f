"""The routes. What they answer is in `judging`; what comes before them in `gate`."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Annotated

from fastapi import Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

import sqllm
from pipelines.serve import examples, problems
from pipelines.serve.gate import Gate
from pipelines.serve.judging import Judge, Recording, in_time
from pipelines.serve.meter import Meter
from pipelines.serve.page import vocabulary, with_facts
from pipelines.serve.problems import Problem
from pipelines.serve.settings import Settings
from sqllm.corpus.profiles import load_profiles
from sqllm.errors import UsageError
from sqllm.model.config import explained_below
from sqllm.recording import Moment

READY_S = 5.0
UPLOADS = "sqllm-upload-"
PAGE = Path(__file__).with_name("static")
SAMPLES = Path(sqllm.__file__).with_name("samples")

Sound = Annotated[UploadFile, File(description="the recording: WAV, FLAC, MP3, Ogg, ...")]
Reference = Annotated[UploadFile | None, File(description="its clean reference")]
Other = Annotated[UploadFile | None, File(description="a second recording, to compare the first one with")]
At = Annotated[float | None, Form(ge=0, description="a second of the recording to ask about, instead of the worst")]
Channel = Annotated[int | None, Form(ge=0, description="the channel to ask about; else the worst of all")]
Profile = Annotated[str | None, Form(description="score as this listener; /v1/models lists them", examples=["expert"])]
Explain = Annotated[str, Form(description="never, always or below=SCORE", examples=["below=2.5"])]
Question = Annotated[str, Form(min_length=1, max_length=500, examples=["what is wrong with it?"])]


def make_app(settings: Settings, model, pool: Executor, keys: list[str], meter: Meter) -> FastAPI:
    """`model` is a `model.Model`, or a handle to its replicas; `keys` is empty where everybody may ask."""
    app = FastAPIOffline(
        title="SpeechQualityLLM",
        description="Speech quality of recordings: scores from 1 (bad) to 5 (excellent), and answers in words.",
        redoc_url=None,
        responses={"4XX": examples.PROBLEM, "5XX": examples.PROBLEM},
    )
    app.add_middleware(Gate, settings=settings, keys=keys, meter=meter)
    problems.install(app)
    _clear_uploads()
    judge, profiles = Judge(model, settings, pool, meter), load_profiles()
    samples = sorted(str(path.relative_to(SAMPLES)) for path in SAMPLES.rglob("*.flac"))
    key = Depends(HTTPBearer(auto_error=False, description="one of SQLLM_API_KEYS"))  # for the docs; Gate checks it

    def known(profile: str | None) -> str | None:
        if profile and profile not in profiles:
            raise UsageError(f"no listener profile {profile!r}; there are {', '.join(sorted(profiles))}")
        return profile or None

    @app.post("/v1/score", dependencies=[key], responses={200: examples.SCORE})
    async def score(
        file: Sound, reference: Reference = None, profile: Profile = None, explain: Explain = "never"
    ) -> JSONResponse:
        """Scores of a recording: one row for each channel, as `sqllm score` writes them."""
        profile = known(profile)
        explained_below(explain)
        async with received(file, reference) as recording:
            rows = await judge.score(recording, profile, explain)
        return JSONResponse({"rows": list(map(with_facts, rows))})

    @app.post("/v1/ask", dependencies=[key], responses={200: examples.ASK}, response_class=StreamingResponse)
    async def ask(
        file: Sound, question: Question, reference: Reference = None, profile: Profile = None, other: Other = None,
        at_s: At = None, channel: Channel = None,
    ):  # fmt: skip
        """An answer in words about the worst ten seconds of the recording (or those at `at_s`), or about them and the
        worst of another one, as server-sent events: `data` with a piece of text each, at the end an event `done`, or
        `problem` with a problem document."""
        profile, second = known(profile), None
        async with received(file, reference) as recording:
            worst, unpaired = await judge.worst(recording, profile, Moment(at_s, channel))
        if other is not None and other.filename:
            async with received(other) as recording:
                second, _ = await judge.worst(recording, profile)

        async def events() -> AsyncIterator[str]:
            if unpaired:
                yield event({"text": f"({unpaired}) "})
            try:
                async with in_time(settings.timeout_s):
                    async for text in judge.words(worst, question, profile, second):
                        yield event({"text": text})
            except Exception as error:
                problem = error if isinstance(error, Problem) else Problem(500, "MODEL", "the answer broke off")
                yield event(problem.document(), "problem")
            else:
                yield event({}, "done")

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.get("/v1/models", dependencies=[key], responses={200: examples.MODELS})
    async def models(request: Request) -> JSONResponse:
        """The model that answers, the listeners, the limits of an upload, the samples of the page and its words."""
        limits = ("max_mb", "max_audio_s", "max_channels", "timeout_s")
        return JSONResponse(
            {
                "models": [await ready()],
                "profiles": [{"name": name, "words": profile.words} for name, profile in profiles.items()],
                "limits": {name: getattr(settings, name) for name in limits},
                "samples": [{"name": name, "url": f"{request.scope['root_path']}/samples/{name}"} for name in samples],
            }
            | vocabulary()
        )

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """The endpoint is alive."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """The model is loaded and answers."""
        return JSONResponse({"status": "ready", "model": (await ready())["fingerprint"]})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(await meter.text(), media_type=CONTENT_TYPE_LATEST)

    async def ready() -> dict:
        try:
            async with in_time(READY_S):
                return await judge.info()
        except Problem:
            raise Problem(503, "UNAVAILABLE", "the model is not ready", {"Retry-After": "5"}) from None

    app.mount("/samples", StaticFiles(directory=SAMPLES))
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


@asynccontextmanager
async def received(file: UploadFile, reference: UploadFile | None = None) -> AsyncIterator[Recording]:
    """The upload as files, for as long as they are needed: nothing of it stays."""
    with _folder() as folder:
        path = await run_in_threadpool(_saved, file, folder / "recording")
        recording = Recording(path, file.filename or "recording")
        if reference is not None and reference.filename:
            recording.reference = await run_in_threadpool(_saved, reference, folder / "reference")
            recording.reference_name = reference.filename
        yield recording


@contextmanager
def _folder():
    with TemporaryDirectory(prefix=f"{UPLOADS}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _clear_uploads() -> None:
    """What an endpoint that was killed has left of uploads."""
    for folder in Path(gettempdir()).glob(f"{UPLOADS}*-*"):
        pid = folder.name.removeprefix(UPLOADS).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _saved(upload: UploadFile, path: Path) -> Path:
    """The end of the name tells formats apart that have no magic."""
    suffix = Path(upload.filename or "").suffix
    path = path.with_suffix(suffix if re.fullmatch(r"\.\w{1,8}", suffix, re.ASCII) else "")
    with open(path, "wb") as file:
        shutil.copyfileobj(upload.file, file, 1 << 20)
    return path


def event(data: dict, name: str | None = None) -> str:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n"
