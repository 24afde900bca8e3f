"""What stands around the audio, in the tokens of the model's own chat template.

[instruction][audio tokens][reference tokens][question] is what the user says; the answer is the model's. The audio stands
before the question, so that all questions and all listeners share one prefix.
"""

from __future__ import annotations

from sqllm.model.scoring import encode

INSTRUCTION = "You judge the quality of speech from 1 (bad) to 5 (excellent)."
AUDIO, REFERENCE = "<|audio|>", "<|reference|>"
QUESTIONS = {d: f"{d}: " for d in ("mos", "noi", "col", "dis", "loud")}  # the words before a number
RATE = "Rate it."  # the question of the answer tree; a listener's words stand in front of the answers
_QUESTION = "<|question|>"


class Prompt:
    """`Prompt(tokenizer).segments(...)`: lists of token ids, with AUDIO and REFERENCE where embeddings go."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        messages = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": f"{AUDIO}{_QUESTION}"},
        ]
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            text = f"{INSTRUCTION}\n{AUDIO}{_QUESTION}\nAnswer: "
        self.before, self.after = text.split(AUDIO)

    def segments(self, question: str = RATE, reference: bool = False, answer: str = "") -> list[list[int] | str]:
        after = self.after.replace(_QUESTION, f"\n{question}") + answer
        parts: list[list[int] | str] = [encode(self.tokenizer, self.before), AUDIO]
        if reference:
            parts += [encode(self.tokenizer, "\nClean reference: "), REFERENCE]
        return [*parts, encode(self.tokenizer, after)]

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return self.tokenizer.eos_token_id
