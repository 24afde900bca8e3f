"""Compact weights: blocks of 32 values along the last dimension, in 4 bits (scale and minimum, as GGUF's Q4_1) or 8
bits (scale, as Q8_0). `pack`/`unpack` work on whole state dicts; in a packed file a tensor `w` stands as `w.q4` or
`w.q8`, `w.scale` and, for 4 bits, `w.min`. One-dimensional and small tensors stay in float16.

`python -m sqllm.model.pack --whisper DIR --smollm2 FILE.gguf --out DIR` builds the two bases of the `embedded` preset:
SmolLM2's blocks are taken as they are in the GGUF file, so that nothing is lost a second time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BLOCK = 32


def pack8(w: Tensor) -> dict[str, Tensor]:
    blocks = w.float().unflatten(-1, (-1, BLOCK))
    scale = (blocks.abs().amax(-1) / 127).half()
    q = (blocks / scale.float().clamp(min=1e-12)[..., None]).round().clamp(-127, 127).to(torch.int8)
    return {"q8": q.flatten(-2), "scale": scale}


def unpack8(q: Tensor, scale: Tensor) -> Tensor:
    return (q.unflatten(-1, (-1, BLOCK)).float() * scale.float()[..., None]).flatten(-2)


def pack4(q: Tensor, scale: Tensor, minimum: Tensor) -> dict[str, Tensor]:
    """q: uint8 in [0, 15], [..., n]; two neighbours share a byte."""
    return {"q4": q[..., 0::2] | (q[..., 1::2] << 4), "scale": scale.half(), "min": minimum.half()}


def unpack4(q: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    values = torch.stack([q & 15, q >> 4], dim=-1).flatten(-2).unflatten(-1, (-1, BLOCK)).float()
    return (values * scale.float()[..., None] + minimum.float()[..., None]).flatten(-2)


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, tensor in packed.items():
        stem, _, kind = name.rpartition(".")
        if kind == "q8":
            out[stem] = unpack8(tensor, packed[f"{stem}.scale"])
        elif kind == "q4":
            out[stem] = unpack4(tensor, packed[f"{stem}.scale"], packed[f"{stem}.min"])
        elif kind not in ("scale", "min"):
            out[name] = tensor.float()
    return out


def pack_encoder(state: dict[str, Tensor], positions: int) -> dict[str, Tensor]:
    """A WhisperEncoder's state dict: matrices in 8 bits, the rest in float16, the position table cut to its window."""
    out = {}
    for name, w in state.items():
        if name == "embed_positions.weight":
            out[name] = w[:positions].half().contiguous()
        elif (
            w.dim() >= 2 and w[0].numel() % BLOCK == 0
        ):  # convolutions as [out, in * kernel]; `unpack` leaves the shape to the model
            out |= {f"{name}.{k}": v.contiguous() for k, v in pack8(w.flatten(1)).items()}
        else:
            out[name] = w.half().contiguous()
    return out


_GGUF_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def pack_gguf_llama(path: str, heads: int, kv_heads: int) -> dict[str, Tensor]:
    """The tensors of a Llama GGUF file (Q4_1, Q8_0, F32) under transformers' names, block by block as they are."""
    from gguf import GGUFReader

    out: dict[str, Tensor] = {}
    for t in GGUFReader(path).tensors:
        kind = t.tensor_type.name
        if t.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif t.name == "output_norm.weight":
            name = "model.norm.weight"
        else:
            _, layer, part, _ = t.name.split(".")
            name = f"model.layers.{layer}.{_GGUF_NAMES[part]}.weight"
        rows, columns = [int(n) for n in reversed(t.shape)] if len(t.shape) == 2 else (1, int(t.shape[0]))
        if kind == "F32":
            out[name] = torch.from_numpy(np.array(t.data)).half()
            continue
        raw = np.array(t.data).view(np.uint8).reshape(rows, columns // BLOCK, -1)
        scale = raw[..., 0:2].copy().view(np.float16)[..., 0]
        if kind == "Q8_0":
            parts = {"q8": raw[..., 2:].copy().view(np.int8).reshape(rows, columns), "scale": scale}
        elif kind == "Q4_1":
            nibbles = raw[..., 4:]
            q = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1).reshape(rows, columns)
            parts = {"q": q, "scale": scale, "minimum": raw[..., 2:4].copy().view(np.float16)[..., 0]}
        else:
            raise ValueError(f"{t.name} is {kind}; this reads Q4_1, Q8_0 and F32")
        if ".attn_q." in t.name or ".attn_k." in t.name:  # llama.cpp interleaves the halves of each rotary head
            n = heads if ".attn_q." in t.name else kv_heads
            parts = {k: v.reshape(n, -1, 2, v.shape[1]).swapaxes(1, 2).reshape(v.shape) for k, v in parts.items()}
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in parts.items()}
        packed = pack4(**tensors) if kind == "Q4_1" else tensors
        out |= {f"{name}.{k}": v.contiguous() for k, v in packed.items()}
    return out


def main() -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer, LlamaConfig, WhisperConfig, WhisperModel

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--whisper", required=True, help="directory or hub name of a Whisper model, or of its encoder")
    parser.add_argument("--smollm2", required=True, help="a GGUF file in Q4_1")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    out, whisper, gguf_file = Path(args.out), Path(args.whisper), Path(args.smollm2)
    if (whisper / "encoder.json").is_file():  # an encoder alone
        config = WhisperConfig(**json.loads((whisper / "encoder.json").read_text()))
        state = load_file(whisper / "model.safetensors")
    else:
        model = WhisperModel.from_pretrained(args.whisper)
        config, state = model.config, model.encoder.state_dict()
    positions = 500
    config.max_source_positions = positions
    (out / "encoder").mkdir(parents=True, exist_ok=True)
    save_file(pack_encoder(state, positions), out / "encoder" / "packed.safetensors")
    config.save_pretrained(out / "encoder")

    llama = LlamaConfig.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    if hasattr(llama, "quantization_config"):
        del llama.quantization_config
    (out / "language_model").mkdir(parents=True, exist_ok=True)
    packed = pack_gguf_llama(str(gguf_file), llama.num_attention_heads, llama.num_key_value_heads)
    save_file(packed, out / "language_model" / "packed.safetensors")
    llama.architectures = ["LlamaForCausalLM"]
    llama.save_pretrained(out / "language_model")
    AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name).save_pretrained(out / "language_model")
    tokenizer = out / "language_model" / "tokenizer.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()), separators=(",", ":"), ensure_ascii=False))
    print(f"{out}: {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
