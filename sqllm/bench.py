"""`sqllm bench`: how fast the model is on one core (or on a GPU), side by side in one run, and what comes before it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from sqllm.audio import RATE
from sqllm.audio.windows import WINDOW_S
from sqllm.model import store
from sqllm.predictor import BATCH, Predictor
from sqllm.recording import cut

REPEATS = 5
CALL_S = 300


def speech_like(windows: int) -> list[np.ndarray]:
    """Noise in syllables, int16: speed does not depend on what is said."""
    rng = np.random.default_rng(0)
    t = np.arange(int(WINDOW_S * RATE)) / RATE
    envelope = np.clip(np.sin(2 * np.pi * 3 * t), 0, 1)
    return [
        (3000 * envelope * rng.standard_normal(len(t))).clip(-32768, 32767).astype(np.int16) for _ in range(windows)
    ]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_per_window(predictor: Predictor, windows: list[np.ndarray], paired: bool) -> float:
    """The median of a few runs, the first left out."""
    references = windows if paired else None
    took = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        predictor.score_windows(windows, references)
        synchronize(predictor.model.device.type)
        took.append((time.perf_counter() - start) / len(windows))
    return float(np.median(took[1:]))


def seconds_per_call() -> float:
    """To decode, resample, measure and cut a telephone call of CALL_S, mu-law at 8 kHz, on one core; the median."""
    with tempfile.TemporaryDirectory() as folder:
        call = Path(folder) / "call.wav"
        samples = np.concatenate(speech_like(int(CALL_S / WINDOW_S)))[::2]
        soundfile.write(call, samples, RATE // 2, subtype="ULAW")
        took = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            windows = sum(len(chunk.windows) for chunk in cut(str(call)))
            took.append(time.perf_counter() - start)
            assert windows == CALL_S / WINDOW_S
    return float(np.median(took[1:]))


def run(model: str = "embedded", device: str = "auto", dtype: str = "auto", threads: int = 1) -> None:
    """Print windows per second and times real time: the answer tree, double-ended, and generate-and-parse."""
    from rich.console import Console
    from rich.table import Table

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    start = time.perf_counter()
    predictor = Predictor.load(model, device, dtype)
    loaded = time.perf_counter() - start
    module = predictor.model
    weights = next(module.projector.parameters()).dtype
    console = Console()
    where = f"{threads} thread" + "s" * (threads > 1) if module.device.type == "cpu" else torch.cuda.get_device_name()
    console.print(
        f"{model} {predictor.fingerprint} on {where}, {str(weights).removeprefix('torch.')}, "
        f"{module.config.audio_tokens} audio tokens, scores after {module.config.score_layers or 'all'} layers, "
        f"{len(module.tree(('',)))} tokens in the tree, batches of {BATCH[module.device.type]}; "
        f"loaded in {loaded:.1f} s",
        highlight=False,
    )
    table = Table("five dimensions of a 10 s window", *("ms", "windows/s", "x real time"))
    for column in table.columns[1:]:
        column.justify = "right"
    windows = speech_like(2 * BATCH[module.device.type])
    for name, mode, paired in (
        ("answer tree, single-ended", "tree", False),
        ("answer tree, double-ended", "tree", True),
        ("generate and parse, single-ended", "generate", False),
    ):
        predictor.mode = mode
        s = seconds_per_window(predictor, windows, paired)
        table.add_row(name, f"{1000 * s:.3g}", f"{1 / s:.2f}", f"{WINDOW_S / s:.1f}")
    console.print(table)
    s = seconds_per_call()
    console.print(
        f"to decode and cut a call of {CALL_S / 60:.0f} minutes on one core: {s:.2f} s, {CALL_S / s:.0f} x real time",
        highlight=False,
    )
    console.print(
        f"[dim]model directory: {store.resolve(model)}, {size_mb(model):.0f} MB[/]", highlight=False, soft_wrap=True
    )
    torch.set_num_threads(before)


def size_mb(model: str) -> float:
    return sum(f.stat().st_size for f in store.resolve(model).rglob("*") if f.is_file() and f.suffix != ".pt") / 1e6
