"""A model is a directory, loaded and saved in one call.

    config.json            ModelConfig; `encoder` and `language_model` may name folders inside the directory
    trained.safetensors    what was trained: projector, score norm, LoRA, and encoder weights where they were trained
    base.json              names and hashes of the base models that the trained weights belong to
    encoder/, language_model/   the base models themselves, where the directory is whole (`packed.safetensors`)

Only safetensors are read: loading a model never runs code from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import accelerate
import peft
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    ASTConfig,
    ASTModel,
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperModel,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from sqllm.audio.windows import WINDOW_S
from sqllm.errors import UsageError
from sqllm.model import pack
from sqllm.model.config import TRAINED, ModelConfig, resolve, trained
from sqllm.model.encoder import AudioEncoder
from sqllm.model.language import LanguageModel
from sqllm.model.prompt import QUESTIONS, RATE_IT, Prompt
from sqllm.model.speech_quality_llm import SpeechQualityLLM

transformers_logging.disable_progress_bar()  # of loading weights: seconds at most
transformers_logging.set_verbosity_error()  # a classifier's head is left out on purpose
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # retries: what fails in the end is said by `_from_hub`
ENCODER = "encoder.model."  # before the names of its weights
PREPROCESSING = 2  # raise it when the way from bytes to features changes scores


def _base_path(name: str, directory: Path | None) -> Path | str:
    inside = directory / name if directory else None
    return inside if inside is not None and inside.is_dir() else name


def _from_hub(what: str, name, load):
    try:
        return load()
    except OSError as error:
        raise UsageError(
            f"the {what} {str(name)!r} could not be loaded: give a directory, or a name that this machine can fetch "
            f"from the model hub ({str(error).splitlines()[0]})"
        ) from None


def check_bases(config: ModelConfig, directory: Path | None) -> None:
    """UsageError where a base model is neither a directory nor fetched from the hub."""
    for what in ("encoder", "language_model"):
        path = _base_path(getattr(config, what), directory)
        _from_hub(what.replace("_", " "), path, partial(AutoConfig.from_pretrained, path))


def load_encoder(config: ModelConfig, directory: Path | None = None) -> AudioEncoder:
    path = _base_path(config.encoder, directory)
    base = _from_hub("encoder", path, lambda: AutoConfig.from_pretrained(path))
    if isinstance(base, ASTConfig):
        state = _from_hub("encoder", path, lambda: ASTModel.from_pretrained(path)).state_dict()
    else:
        packed = Path(path) / "packed.safetensors"
        if packed.is_file():
            state = pack.unpack(load_file(packed))
        else:
            state = _from_hub("encoder", path, lambda: WhisperModel.from_pretrained(path)).encoder.state_dict()
        base.max_source_positions = int(WINDOW_S * 50)  # no paying for 30 s
        state["embed_positions.weight"] = state["embed_positions.weight"][: base.max_source_positions]
    with accelerate.init_empty_weights(include_buffers=False):
        encoder = AudioEncoder(base, config.encoder_layers, config.audio_tokens)
    shapes = {n: p.shape for n, p in encoder.model.named_parameters()}
    encoder.model.load_state_dict({n: w.view(shapes[n]) for n, w in state.items()}, assign=True)
    return encoder


def load_language_model(
    config: ModelConfig, directory: Path | None = None, dtype=torch.float32, device: str | None = None
):
    """The causal LM and its tokenizer. `device`: where 4-bit weights are made and stay; all else is on the CPU."""
    path = _base_path(config.language_model, directory)
    packed = Path(path) / "packed.safetensors"
    tokenizer = load_tokenizer(path)
    if packed.is_file():
        base = LlamaConfig.from_pretrained(path)
        with accelerate.init_empty_weights(include_buffers=False):
            lm = LlamaForCausalLM(base)
        state = {k: v.to(dtype) for k, v in pack.unpack(load_file(packed)).items()}
        lm.load_state_dict(state, assign=True, strict=not base.tie_word_embeddings)
        lm.tie_weights()
        return lm, tokenizer
    options = lm_options(config, dtype, device)
    lm = _from_hub("language model", path, lambda: LlamaForCausalLM.from_pretrained(path, **options))
    return lm, tokenizer


def fast_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it; elsewhere float32, which may be a hundred times as fast there."""
    fast = torch.device(device).type == "cuda" or getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return torch.bfloat16 if fast else torch.float32


def autocast(device: str | torch.device) -> torch.autocast:
    """Products in bfloat16, where that is fast."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=fast_dtype(device) == torch.bfloat16)


def lm_options(config: ModelConfig, dtype: torch.dtype, device: str | None) -> dict:
    """What `from_pretrained` takes beside weights."""
    if config.quantization != "nf4":
        return {"dtype": dtype}
    return {
        "dtype": dtype,
        "device_map": device and {"": device},
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    }  # fmt: skip


def load_tokenizer(path: Path | str):
    return _from_hub("tokenizer", path, lambda: AutoTokenizer.from_pretrained(path))


def load_prompt(name: str | Path) -> Prompt:
    """The prompt of a trained model, for its `fingerprint`."""
    directory = trained(name)
    return Prompt(load_tokenizer(_base_path(ModelConfig.load(directory).language_model, directory)))


def create(
    config: ModelConfig, directory: Path | None = None, dtype=torch.float32, device: str | None = None
) -> SpeechQualityLLM:
    """A model before training: base weights, fresh projector and LoRA. `device`: see `load_language_model`."""
    encoder = load_encoder(config, directory)
    return join(config, encoder, *load_language_model(config, directory, dtype, device))


def join(config: ModelConfig, encoder: AudioEncoder, lm: LlamaForCausalLM, tokenizer) -> SpeechQualityLLM:
    """Base models with a fresh projector and LoRA between and on them."""
    language = LanguageModel(lm, config.score_layers)
    if config.lora:
        language.add_lora(config.lora)
    model = SpeechQualityLLM(config, encoder, language, tokenizer)
    mark_trainable(model)
    return model


def mark_trainable(model: SpeechQualityLLM, what: str = "all") -> None:
    """Projector, score norm and LoRA are trained; of the encoder what the configuration says; nothing else.

    `what` "scores" leaves out the LoRA of the layers that no score passes, "words" is that LoRA alone; "references" is
    what hears how a recording differs from its reference, alone.
    """
    if what == "references":
        for name, p in model.named_parameters():
            p.requires_grad_(name.startswith("projector.difference."))
        return
    split = model.config.score_layers or 0
    layers = {"all": range(10**6), "scores": range(split or 10**6), "words": range(split, 10**6)}[what]
    for name, p in model.named_parameters():
        if ".lora_" in name:
            p.requires_grad_(int(name.split(".layers.")[1].split(".")[0]) in layers)
        else:
            p.requires_grad_(what != "words" and (name.startswith("projector.") or "score_norm" in name))
    for module in trained_of_encoder(model) if what != "words" else []:
        module.requires_grad_(True)


def trained_of_encoder(model: SpeechQualityLLM) -> list[nn.Module]:
    parts = {"frozen": [], "query": model.encoder.query_modules, "full": [model.encoder]}
    return parts[model.config.encoder_training]


def trained_state(model: SpeechQualityLLM) -> dict[str, Tensor]:
    state = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad and ".lora_" not in n}
    if model.config.lora:
        adapter = peft.get_peft_model_state_dict(model.language.lm)
        state |= {f"lora.{n}": p.detach() for n, p in adapter.items()}
    return state


def load_trained(model: SpeechQualityLLM, state: dict[str, Tensor], grown: bool = False) -> None:
    """`grown`: parts that the configuration got since the weights were trained may be missing, and stay as new."""
    missing = set(trained_state(model)) - set(state)
    if missing and not grown:
        raise UsageError(f"the trained weights do not fit this model: {sorted(missing)[0]} is not among them")
    adapter = {n.removeprefix("lora."): p for n, p in state.items() if n.startswith("lora.")}
    if adapter:
        peft.set_peft_model_state_dict(model.language.lm, adapter)
    rest = {n: p for n, p in state.items() if not n.startswith("lora.")}
    unknown = set(rest) - set(dict(model.named_parameters()))
    if unknown:
        raise UsageError(f"the trained weights do not fit this model: {sorted(unknown)[0]} has no place in it")
    model.load_state_dict(rest, strict=False)


@cache
def _hash(path: Path, size: int, changed_ns: int) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read once for as long as it does not change."""
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns)


def base_hashes(config: ModelConfig, directory: Path | None) -> dict[str, dict[str, str]]:
    """Of each base model its name and the SHA-256 of its files: weights, configuration, tokenizer, chat template."""
    out = {}
    for what in ("encoder", "language_model"):
        out[what] = {"name": getattr(config, what)}
        path = Path(_base_path(getattr(config, what), directory))
        if not path.is_dir():  # a name on the hub: where it was downloaded to
            try:
                path = Path(cached_file(str(path), "config.json")).parent
            except (OSError, ValueError):  # not there: what loads it says so
                continue
        files = sorted(f for f in path.glob("*") if f.suffix in (".safetensors", ".json", ".jinja"))
        out[what] |= {f.name: file_hash(f) for f in files}
    return out


def save(model: SpeechQualityLLM, directory: str | Path, source: Path | None = None, dtype=torch.float16) -> Path:
    """Write configuration, trained weights and what they belong to (`complete`)."""
    save_trained(model, Path(directory), dtype)
    return complete(Path(directory), source)


def save_trained(model: SpeechQualityLLM, directory: Path, dtype=torch.float16) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    model.config.save(directory)
    state = {n: p.to(dtype).contiguous().cpu() for n, p in trained_state(model).items()}
    save_file(state, directory / TRAINED)


def complete(directory: Path, source: Path | None = None) -> Path:
    """Write which base models the trained weights belong to; those that lie inside `source` are copied, so that the
    directory is whole. An encoder that was trained whole takes the place of a packed one there, and is frozen then."""
    config = ModelConfig.load(directory)
    for name in (config.encoder, config.language_model):
        if source and (source / name).is_dir() and (source / name).resolve() != (directory / name).resolve():
            shutil.copytree(source / name, directory / name, dirs_exist_ok=True)
    packed = directory / config.encoder / "packed.safetensors"
    if config.encoder_training == "full" and packed.is_file() and _inside(packed.resolve(), directory.resolve()):
        _settle(directory, config, packed)
    (directory / "base.json").write_text(json.dumps(base_hashes(config, directory), indent=2) + "\n")
    return directory


def _settle(directory: Path, config: ModelConfig, packed: Path) -> None:
    """Put the encoder among the trained weights into `packed`, unless it is the one there."""
    state, was = load_file(directory / TRAINED), pack.unpack(load_file(packed))
    encoder = {n.removeprefix(ENCODER): state.pop(n) for n in list(state) if n.startswith(ENCODER)}
    if any(not torch.equal(w.flatten(), was[n].to(w.dtype).flatten()) for n, w in encoder.items()):
        save_file(pack.pack_encoder(encoder, len(encoder["embed_positions.weight"])), packed)
    save_file(state, directory / TRAINED)
    replace(config, encoder_training="frozen").save(directory)


def holds_encoder(path: Path) -> bool:
    """Whether these trained weights are of an encoder too."""
    with safe_open(path, "pt") as file:
        return any(name.startswith(ENCODER) for name in file.keys())  # noqa: SIM118 - it is no dict


def parts(directory: Path) -> list[Path]:
    """The files and folders inside `directory` that are the model, whatever else lies there."""
    config = ModelConfig.load(directory)
    names = ("config.json", "base.json", TRAINED, config.encoder, config.language_model)
    return [path for name in names if (path := directory / name).exists() and _inside(path, directory)]


def _inside(path: Path, directory: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(directory))  # a/../b is not in a


def load(
    name: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32, merge: bool = True
) -> SpeechQualityLLM:
    """A trained model, ready to score. UsageError where it is incomplete or belongs to other base weights."""
    directory = trained(name)
    config = ModelConfig.load(directory)
    expected = json.loads((directory / "base.json").read_text())
    found = base_hashes(config, directory)
    for what, hashes in expected.items():
        for file, digest in hashes.items():
            if file != "name" and len(found[what]) > 1 and found[what].get(file) != digest:
                raise UsageError(f"{directory} was trained on another {what}: {file} is not the one it names")
    model = create(config, directory, torch.float32 if merge and not config.quantization else dtype, device)
    load_trained(model, load_file(directory / TRAINED))
    if merge and not config.quantization:
        model.language.merge_lora()
    return cast(model, dtype).to(device).eval().requires_grad_(False)


def cast(model: SpeechQualityLLM, dtype: torch.dtype) -> SpeechQualityLLM:
    """Everything in `dtype` but the log-mel, which stays in float32, and what is quantised."""
    if not model.config.quantization:
        for p in model.language.parameters():  # no buffers: rounded rotary frequencies turn far positions astray
            p.data = p.data.to(dtype)
    model.encoder.model.to(dtype)
    model.projector.to(dtype)
    return model


def fingerprint(name: str | Path, prompt: Prompt, *settings: str) -> str:
    """Twelve hexadecimal digits that change whenever scores may.

    They cover configuration, base models, trained weights, preprocessing, the prompt's words, and `settings`.
    """
    directory = resolve(name)
    parts = [str(PREPROCESSING), prompt.before, prompt.after, RATE_IT, *QUESTIONS.values(), *settings]
    parts += [(directory / "config.json").read_text(), (directory / "base.json").read_text()]
    parts.append(file_hash(directory / TRAINED))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
