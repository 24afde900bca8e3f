"""What stands around the audio, in the tokens of the model's own chat template.

[instruction][audio tokens][reference tokens][what is known][question] is what the user says; the answer is the model's.
The audio stands before the question, so that all questions and all listeners share one prefix. To be rated, a recording
needs no more (`rating`); words come after numbers, so that what answers in words has the measured facts, the faults
(`checklist`) and the scores in front of it (`known`).
"""

from __future__ import annotations

from collections.abc import Mapping

from sqllm import DIMENSIONS
from sqllm.model.scoring import encode
from sqllm.plain import named

INSTRUCTION = "You judge the quality of speech from 1 (bad) to 5 (excellent)."
AUDIO, REFERENCE = "<|audio|>", "<|reference|>"
QUESTIONS = {d: f"{d}: " for d in DIMENSIONS}  # the words before a number
RATE_IT = "Rate it."  # the question of the answer tree; a listener's words stand in front of the answers
EXPLAIN = "What is wrong with it?"
_REST = "<|rest|>"


def known(scores: Mapping[str, float], facts: str, heard: str, listener: str = "") -> str:
    """What is known before a question is answered in words: measured facts, faults (`faults.heard`), scores."""
    return "\n".join(filter(None, [measured(facts), heard, named(scores), listener.strip()]))


def both(first: str, second: str) -> str:
    """What is `known` of two recordings that are compared; the audio is the first one's."""
    return f"First recording:\n{first}\nSecond recording:\n{second}"


def measured(facts: str) -> str:
    return f"Measured: {facts}." if facts else ""


def written(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{d} {scores[d]:.1f}" for d in DIMENSIONS if d in scores) + "."


class Prompt:
    """Lists of token ids, with AUDIO and REFERENCE where embeddings go."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        messages = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": f"{AUDIO}{_REST}"},
        ]
        if tokenizer.chat_template:  # some templates write today's date, and a score must not change with it
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
            )
        else:
            text = f"{INSTRUCTION}\n{AUDIO}{_REST}\nAnswer: "
        self.before, after = text.split(AUDIO)
        self.after = after.removeprefix(_REST)

    def audio(self, reference: bool = False) -> list[list[int] | str]:
        """The prefix that all questions about a window share."""
        parts: list[list[int] | str] = [encode(self.tokenizer, self.before), AUDIO]
        return [*parts, encode(self.tokenizer, "\nClean reference: "), REFERENCE] if reference else parts

    def context(self, text: str) -> list[int]:
        """What is `known`. A segment of its own, so that several questions can follow the same tokens."""
        return encode(self.tokenizer, f"\n{text}")

    def question(self, text: str) -> list[int]:
        """A question, up to the place where the answer begins."""
        return encode(self.tokenizer, f"\n{text}{self.after}")

    def rating(self, reference: bool = False) -> list[list[int] | str]:
        return [*self.audio(reference), self.question(RATE_IT)]

    def answer(self, text: str) -> list[int]:
        """An answer with the token that ends it."""
        return [*encode(self.tokenizer, text), self.tokenizer.eos_token_id]
