"""The language model: any Llama-architecture causal LM of transformers, with LoRA through peft.

`run` goes through the first `layers` decoder layers by hand, because the answer tree needs its own mask and positions,
and because scores may be read before the last layer.
"""

from __future__ import annotations

import peft
from torch import Tensor, nn

from sqllm.model.config import LoRA


class LanguageModel(nn.Module):
    def __init__(self, causal_lm: nn.Module, score_layers: int | None = None):
        super().__init__()
        self.lm = causal_lm
        self.score_layers = score_layers
        # scores read early leave through a norm of their own; read after the last layer, through the model's
        self.score_norm = None
        if score_layers is not None:
            self.score_norm = type(self.base.model.norm)(self.width, eps=self.base.config.rms_norm_eps)
            self.score_norm.load_state_dict(self.base.model.norm.state_dict())

    @property
    def base(self) -> nn.Module:
        """The LlamaForCausalLM under whatever peft put around it."""
        return self.lm.get_base_model() if isinstance(self.lm, peft.PeftModel) else self.lm

    @property
    def width(self) -> int:
        return self.base.config.hidden_size

    def add_lora(self, lora: LoRA) -> None:
        config = peft.LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.targets,
            task_type="CAUSAL_LM",
        )
        self.lm = peft.get_peft_model(self.lm, config)

    def merge_lora(self) -> None:
        if isinstance(self.lm, peft.PeftModel):
            self.lm = self.lm.merge_and_unload()

    def embed(self, ids: Tensor) -> Tensor:
        return self.base.model.embed_tokens(ids)

    def run(
        self,
        x_BSD: Tensor,
        mask: Tensor | None,
        positions_BS: Tensor,
        layers: int | None = None,
        cache=None,
        first: int = 0,
    ) -> Tensor:
        """Hidden states before the norm, from decoder layer `first` up to layer `layers` (None: the last)."""
        model = self.base.model
        rotary = model.rotary_emb(x_BSD, position_ids=positions_BS)
        for layer in model.layers[first : layers or len(model.layers)]:
            x_BSD = layer(
                x_BSD, attention_mask=mask, position_ids=positions_BS, position_embeddings=rotary,
                past_key_values=cache, use_cache=cache is not None,
            )  # fmt: skip
        return x_BSD

    def score_logits(self, hidden: Tensor) -> Tensor:
        norm = self.base.model.norm if self.score_norm is None else self.score_norm
        return self.base.lm_head(norm(hidden).to(self.base.lm_head.weight.dtype))

    def word_logits(self, hidden: Tensor) -> Tensor:
        return self.base.lm_head(self.base.model.norm(hidden))
