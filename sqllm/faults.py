"""The faults that a recording can have, and their words.

A fault's *cost* is the points that it takes, acting alone, from the dimension that it hurts most (`corpus.ratings`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

ABSENT, AUDIBLE = 0.15, 0.5  # cost: below the first nobody hears it, from the second on everybody does
HIDDEN = 0.3  # a severe fault hides those that cost less than this share of it
MOST = 4  # faults that are named

# fmt: off
PHRASES = {
    "noise": "{adj} background noise", "white": "{adj} hiss", "babble": "{adj} babble of voices",
    "talker": "{adj} crosstalk", "bass": "{adj} loss of bass", "treble": "{adj} muffling",
    "narrow": "{adj} narrowing to telephone band", "coding": "{adj} coding artefacts", "clipping": "{adj} clipping",
    "mnru": "{adj} roughness of the voice", "suppress": "{adj} noise suppressor artefacts",
    "loss": "{adj} packet loss", "chop": "{adj} cut-outs", "jump": "{adj} skips and jumps",
    "loud": "a level {much} too high", "quiet": "a level {much} too low", "fading": "{adj} fading of the level",
    "echo": "{adj} echo", "reverb": "{adj} reverberation",
}
TOPICS = {  # what people ask about, with yes or no: any of the faults makes it a yes
    "noise": ("noise", "white", "babble"), "muffled": ("treble", "narrow"), "telephone": ("narrow", "treble"),
    "dropouts": ("loss", "chop", "jump"), "clipping": ("clipping",), "too quiet": ("quiet",), "too loud": ("loud",),
    "echo": ("echo",), "reverb": ("reverb",), "other voices": ("talker", "babble"),
}
STRENGTH = (1.0, ("slight", "slightly")), (1.8, ("clear", "clearly")), (2.4, ("strong", "much")), (9, ("severe", "far"))
# fmt: on


def upto(value: float, steps: Sequence[tuple]):
    """What belongs to the first limit that `value` is below."""
    return next(words for limit, words in steps if value < limit)


def noun(name: str) -> str:
    """The fault's words without its strength."""
    return re.sub(r"\{\w+\} ", "", PHRASES[name])


def phrase(name: str, cost: float) -> str:
    adjective, much = upto(cost, STRENGTH)
    return PHRASES[name].format(adj=adjective, much=much)


def audible(costs: Mapping[str, float]) -> list[str]:
    """The names of what is heard, the worst first."""
    least = max(AUDIBLE, HIDDEN * max(costs.values(), default=0))
    return sorted((name for name in costs if costs[name] >= least), key=lambda name: -costs[name])[:MOST]


def heard(costs: Mapping[str, float]) -> str:
    """Two lines for the language model's prompt: what is heard, and the topics one by one."""
    names = audible(costs)
    said = ", ".join(phrase(name, costs[name]) for name in names) or "no fault"
    topics = (f"{topic} {'yes' if set(names) & set(faults) else 'no'}" for topic, faults in TOPICS.items())
    return f"Heard: {said}.\n{', '.join(topics)}."
