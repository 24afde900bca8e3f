"""A plain regression head on the features that the language model gets, learnt from the same labels: the control that
says what the language model is worth as a judge. Learned layer weights, attention pooling, one hidden layer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sqllm import DIMENSIONS
from sqllm.audio.io import to_int16
from sqllm.bench import seconds_per_window, speech_like
from sqllm.corpus.panel import TEACHERS
from sqllm.corpus.shards import Shards, samples
from sqllm.errors import UsageError
from sqllm.evaluation import simulated, tables
from sqllm.evaluation.tables import ORDER
from sqllm.model import store
from sqllm.model.config import ModelConfig, resolve
from sqllm.model.encoder import AudioEncoder, bucket_length
from sqllm.model.store import autocast
from sqllm.recording import cut
from sqllm.training import features
from sqllm.training.data import Clips, Sound, panel_mos, read

HIDDEN, BATCH, LR, ENCODER_LR = 128, 32, 1e-3, 5e-5
Judge = Callable[[Tensor, Sequence[np.ndarray]], np.ndarray]  # pooled features, and int16 windows -> scores [n, 5]


class Head(nn.Module):
    """Pooled features [B, layers, tokens, width] -> scores [B, 5]."""

    def __init__(self, depth: int, width: int):
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(depth))
        self.hidden = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(0.1))
        self.attention, self.out = nn.Linear(HIDDEN, len(DIMENSIONS)), nn.Linear(HIDDEN, len(DIMENSIONS))

    def forward(self, x_BLND: Tensor) -> Tensor:
        h_BNH = self.hidden(torch.einsum("l,blnd->bnd", self.layer_logits.softmax(0), x_BLND))
        weights_BN5 = self.attention(h_BNH).softmax(1)
        return 1 + 4 * (weights_BN5 * self.out(h_BNH)).sum(1).sigmoid()


def train(clips: Clips, epochs: int, encoder: AudioEncoder | None = None, device: str | torch.device = "cpu") -> Head:
    """Learnt from pooled features, or from waveforms together with an `encoder`, which is trained in place."""
    torch.manual_seed(1)
    depth, width = heard(clips, [0]).shape[1::2] if encoder is None else (encoder.depth, encoder.width)
    head = Head(depth, width).to(device).train()
    steps = max(1, epochs * len(clips) // BATCH)
    groups = [{"params": head.parameters(), "lr": LR}]
    groups += [{"params": encoder.parameters(), "lr": ENCODER_LR}] if encoder else []
    adamw = torch.optim.AdamW(groups, weight_decay=0.01)
    most = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(adamw, most, total_steps=steps + 1, pct_start=0.1)
    rng = np.random.default_rng(1)
    for at, sound in _ahead(clips, [rng.integers(len(clips), size=BATCH) for _ in range(steps)]):
        with autocast(device):
            [x] = sound.to(device) if encoder is None else [encoder(*sound.to(device))]
        found = head(x.float())
        loss = nn.functional.mse_loss(found, torch.from_numpy(clips.mean[at]).to(found))
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        schedule.step()
    return head.eval()


def _ahead(clips: Clips, draws: Sequence[np.ndarray], most: int = 8) -> Iterator[tuple[np.ndarray, Sound]]:
    """The clips of each draw, read and decoded while those before it are learnt from."""
    with ThreadPoolExecutor() as threads:
        waiting = deque(threads.submit(clips.sound, at) for at in draws[:most])
        for n, at in enumerate(draws):
            sound = waiting.popleft().result()
            waiting += [threads.submit(clips.sound, later) for later in draws[n + most : n + most + 1]]
            yield at, sound


@torch.inference_mode()
def head(predictor, model: str, corpus: Path, epochs: int, rated: Sequence[dict] = (), ranks: bool = False) -> dict:
    """The head beside the language model, on the split val of `corpus` and on `rated` recordings (rows of
    `corpus.manifest`): correlations of both, their difference (head less language model) with its interval."""
    data = _prepared(predictor.model.config, resolve(model), corpus)
    with torch.inference_mode(False):
        learnt = train(data["train"], epochs)
    judges = {
        "language model": lambda audio, windows: simulated.rate(predictor, audio)[0][:, 0],
        "head": lambda audio, windows: learnt(audio.float().cpu()).numpy(),
    }
    return _beside(judges, predictor, data, rated, ranks)


@torch.inference_mode()
def tuned(predictor, model: str, corpus: Path, epochs: int, rated: Sequence[dict] = (), ranks: bool = False) -> dict:
    """What it brings the head that its encoder learns too, from the same clips in the same order: as `head`."""
    config, bases, device = predictor.model.config, resolve(model), predictor.model.device
    data = _prepared(config, bases, corpus)
    with torch.inference_mode(False):
        own = store.load_encoder(config, bases).to(device)
        plain = train(data["train"], epochs, None, device)
        waves = read([Shards.open(str(corpus))], None)["train"]
        learnt = train(waves, epochs, own.train().requires_grad_(True), device)
    own.eval()

    def hear(window: np.ndarray) -> Tensor:
        x = np.zeros((1, bucket_length(len(window))), np.float32)
        x[0, : len(window)] = window / np.float32(32768)
        with autocast(device):
            return own(torch.from_numpy(x).to(device), torch.tensor([len(window)], device=device)).float()

    judges = {
        "frozen encoder": lambda audio, windows: plain(audio.float().to(device)).cpu().numpy(),
        "tuned encoder": lambda audio, windows: learnt(torch.cat([hear(window) for window in windows])).cpu().numpy(),
    }
    return _beside(judges, predictor, data, rated, ranks)


def _beside(judges: dict[str, Judge], predictor, data: dict[str, Clips], rated: Sequence[dict], ranks: bool) -> dict:
    """Two judges on the split val and on `rated` recordings."""
    clips, judged = data["val"], []
    for i, row in enumerate(clips.rows):
        windows = [to_int16(samples(clips.flac(i)))]
        [scores] = zip(*(judge(heard(clips, [i]), windows) for judge in judges.values()), strict=True)
        judged.append(("val", row["speaker"], clips.mean[i], *scores))
    first, other = judges
    found = {"clips": {"train": len(data["train"]), "val": len(clips)}}
    found["simulated, by speaker"] = _brief(tables.comparisons(_judgements(judged)), first, other)
    if rated:
        judged = [(row["set"], row["condition"], [row[d] for d in DIMENSIONS], *_heard(predictor, judges, row["uri"]))
                  for row in rated]  # fmt: skip
        found["rated"] = _brief(tables.comparisons(_judgements(judged), "rho" if ranks else "r"), first, other)
    return found


def _prepared(config: ModelConfig, bases: Path, corpus: Path) -> dict[str, Clips]:
    if config.encoder_training != "frozen":
        raise UsageError(f"{bases} has an encoder of its own training: this wants a model whose encoder is frozen")
    shards, key = Shards.open(str(corpus)), features.features_key(config, bases)
    if missing := features.missing(shards, key):
        encoder = features.load_encoder(config, bases)
        for name in missing:
            features.prepare_shard(encoder, shards, name, key)
    return read([shards], key)


def heard(clips: Clips, indices: Sequence[int]) -> Tensor:
    """Pooled features [k, layers, tokens, width] of a frozen encoder."""
    return clips.sound(indices).to("cpu")[0]


def _heard(predictor, judges: dict[str, Judge], uri: str) -> list[np.ndarray]:
    """Scores [5] of each judge: means over the windows, weighted by their speech."""
    windows, weights = [], []
    for chunk in cut(uri):
        windows += [chunk.windows[i] for i in chunk.counts]
        weights += [chunk.speech_s[i] for i in chunk.counts]
    if not windows:
        return [np.full(5, np.nan)] * len(judges)
    audio = simulated.hear(predictor, windows)
    return [np.average(judge(audio, windows), axis=0, weights=weights) for judge in judges.values()]


def _judgements(judged: list[tuple]) -> list[dict]:
    """Of (set, condition, votes [5], the first judge's [5], the other's [5]); the first judge's first."""
    return [
        {"judge": j, "ended": "single", "clip": clip, "set": name, "condition": condition, "dim": ORDER[d],
         "true": votes[d], "predicted": float(of[d]) if np.isfinite(of[d]) else None}
        for j in range(2)
        for clip, (name, condition, votes, *scores) in enumerate(judged)
        for of in [scores[j]]
        for d in range(len(DIMENSIONS))
    ]  # fmt: skip


def _brief(compared: list[dict], first: str, other: str) -> list[dict]:
    return [
        {"set": c["group"], "dim": c["dim"], "per": c["level"], "n": c["n"], f"{c['statistic']}, {other}": c["other"],
         f"{c['statistic']}, {first}": c["model"], f"{other} less {first}": c["difference"], "95 %": c["difference_95"]}
        for c in compared if c["group"] != "val" or c["level"] == "clip"
    ]  # fmt: skip


@torch.inference_mode()
def teachers(predictor, model: str, corpus: Path, epochs: int, rated: Sequence[dict], ranks: bool = False) -> dict:
    """What teachers of mos are worth: the head learns from the labels that some of them give, and rates `rated`
    recordings. A row for each choice of teachers and each set, beside the head that all of them taught."""
    clips = _prepared(predictor.model.config, resolve(model), corpus)["train"]
    judges, statistic = {}, "rho" if ranks else "r"
    for asked in [some for k in range(len(TEACHERS), 0, -1) for some in combinations(TEACHERS, k)]:
        clips.mean[:, 0] = panel_mos(clips.rows, asked)
        with torch.inference_mode(False):
            learnt = train(clips, epochs)
        judges[" + ".join(asked)] = lambda audio, windows, learnt=learnt: learnt(audio.float().cpu()).numpy()
    mos = np.array([[scores[0] for scores in _heard(predictor, judges, row["uri"])] for row in rated])
    judged = [
        {**row, "judge": judge, "clip": clip, "dim": "mos", "true": row["mos"], "predicted": mos[clip, i]}
        for i, judge in enumerate(judges) for clip, row in enumerate(rated) if np.isfinite(mos[clip, i])
    ]  # fmt: skip
    rows = [
        {"set": c["group"], "n": c["n"], "teachers": c["judge"], statistic: c["other"], f"{statistic}, all": c["model"],
         "difference": c["difference"], "95 %": c["difference_95"]}
        for c in tables.comparisons(judged, statistic) if c["level"] == "clip"
    ]  # fmt: skip
    return {"teachers of mos": rows}


@torch.inference_mode()
def tokens(predictor, model: str, corpus: Path, epochs: int, counts: Sequence[int]) -> list[dict]:
    """What more audio tokens bring to the head (r on the split val), and what they cost the language model in windows
    a second. The language model itself is not trained anew: the head stands in for it."""
    config, bases, rows = predictor.model.config, resolve(model), []
    windows = speech_like(4)
    for count in counts:
        data = _prepared(replace(config, audio_tokens=count), bases, corpus)
        with torch.inference_mode(False):
            learnt = train(data["train"], epochs)
        clips = data["val"]
        at = np.arange(len(clips))
        got = np.concatenate([learnt(heard(clips, part)).numpy() for part in np.array_split(at, len(at) // BATCH + 1)])
        r = {f"r of {d}": tables.FIGURES["r"](got[:, i], clips.mean[:, i]) for i, d in enumerate(DIMENSIONS)}
        before, predictor.model.encoder.tokens = predictor.model.encoder.tokens, count
        speed = 1 / seconds_per_window(predictor, windows, False)
        predictor.model.encoder.tokens = before
        rows.append({"audio tokens": count, "train": len(data["train"]), "val": len(clips), **r, "windows/s": speed})
    return rows
