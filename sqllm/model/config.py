"""What a model is made of. A model directory holds it as `config.json`; the presets are here."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from sqllm.errors import UsageError


@dataclass
class LoRA:
    """The paper's settings."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj"])


@dataclass
class ModelConfig:
    encoder: str  # a directory or a name on the hub: Whisper or AST
    language_model: str  # a directory or a name on the hub: any Llama-architecture causal language model
    audio_tokens: int = 128
    encoder_layers: str = "last"  # or "all": a learned weighting
    projector: str = "linear"  # or "context": tokens also hear their neighbours, the window, and the reference
    encoder_training: str = "frozen"  # or "query" (the paper, for AST), "full"
    lora: LoRA | None = field(default_factory=LoRA)
    quantization: str | None = None  # or "nf4"
    score_layers: int | None = None  # scores are read after so many layers of the language model; None: after all
    checklist: bool = True  # names faults (`sqllm.model.checklist`) before it answers in words

    def __post_init__(self):
        if isinstance(self.lora, dict):
            self.lora = LoRA(**self.lora)
        for name, allowed in (
            ("encoder_layers", ("last", "all")),
            ("projector", ("linear", "context")),
            ("encoder_training", ("frozen", "query", "full")),
            ("quantization", (None, "nf4")),
        ):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}; it can be {', '.join(map(str, allowed))}")

    def save(self, directory: Path) -> None:
        (directory / "config.json").write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> ModelConfig:
        path = Path(directory) / "config.json"
        if not path.is_file():
            raise UsageError(f"{directory} is no model directory: it has no config.json")
        try:
            return cls(**json.loads(path.read_text()))
        except (TypeError, json.JSONDecodeError) as error:
            raise UsageError(f"{path} is not a SpeechQualityLLM configuration: {error}") from None


# What is trained from; `sqllm/presets/embedded` is the trained model that ships with the package.
PRESETS = {
    "paper": ModelConfig(
        encoder="MIT/ast-finetuned-audioset-10-10-0.4593",
        language_model="meta-llama/Llama-3.1-8B-Instruct",
        encoder_training="query",
        quantization="nf4",
        checklist=False,
    ),
    "paper-whisper": ModelConfig(
        encoder="openai/whisper-large-v2",
        language_model="meta-llama/Llama-3.1-8B-Instruct",
        quantization="nf4",
        checklist=False,
    ),
}

PRESET_ROOT = Path(__file__).parent.parent / "presets"
TRAINED = "trained.safetensors"


def resolve(name: str | Path) -> Path:
    """The directory of a model: a path, or the name of a model that ships with the package."""
    for path in (Path(name), PRESET_ROOT / str(name)):
        if (path / "config.json").is_file():
            return path
    shipped = ", ".join(sorted(p.name for p in PRESET_ROOT.iterdir())) if PRESET_ROOT.is_dir() else "none"
    if str(name) in PRESETS:
        raise UsageError(f"the preset {name} has no weights that ship: `sqllm train --preset {name}` can train it")
    raise UsageError(f"no model {str(name)!r}: give a model directory, or one of those that ship: {shipped}")


def base(name: str | Path) -> tuple[ModelConfig, Path | None]:
    """The configuration to train with, and the directory of its base models; a preset names them on the hub."""
    if str(name) in PRESETS:
        return PRESETS[str(name)], None
    try:
        directory = resolve(name)
    except UsageError as error:
        raise UsageError(f"{error}; or a preset: {', '.join(PRESETS)}") from None
    return ModelConfig.load(directory), directory


def trained(name: str | Path) -> Path:
    """The directory of a model that may give scores."""
    directory = resolve(name)
    for name in (TRAINED, "base.json"):
        if not (directory / name).is_file():
            raise UsageError(f"{directory} has no {name}: a model that was never trained gives no scores")
    return directory


def explained_below(explain: str) -> float:
    """never, always or below=SCORE as a limit of mos."""
    limits = {"never": -math.inf, "always": math.inf}
    try:
        limit = limits[explain] if explain in limits else float(explain.removeprefix("below="))
    except ValueError:
        limit = math.nan
    if explain not in limits and not (explain.startswith("below=") and 1 <= limit <= 5):
        raise UsageError(f"explain {explain!r} is not never, always or below=SCORE, such as below=2.5")
    return limit
