"""The five tasks of the paper (arXiv 2512.08238), drawn uniformly: a question about a rated clip, and its answer.

They need ratings alone, and no more of them than a task names. `{against}` stands where a question says that there is
a reference; the causes that an explanation gives are faults where these are known, and else the worst dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sqllm import DIMENSIONS
from sqllm.corpus.questions import SATISFIED, Dialogue, join, sentence
from sqllm.faults import upto
from sqllm.plain import NAMES, SCALE

AGAINST = (" compared to the reference", " against the clean reference", " with the reference at hand")
WORDS = "very bad, poor, fair, good or excellent"

# fmt: off
ASKED = {  # task: (trained wordings, wordings kept out of training)
    "mos_numeric": (
        ("What is the overall quality of the degraded speech{against}, from 1 to 5?",
         "Rate the overall listening quality{against} on a scale from 1 (bad) to 5 (excellent).",
         "Give one number from 1 to 5 for the speech quality{against}.",
         "What mean opinion score would listeners give this recording{against}?"),
        ("Between 1 and 5, how good does it sound overall{against}?",
         "Estimate the MOS of this recording{against}.")),
    "dim_numeric": (
        ("Rate the {title} of the degraded speech{against} from 1 to 5, where 5 is best.",
         "From 1 (bad) to 5 (excellent), what is its {title}{against}?",
         "Give one number from 1 to 5 for the {title}{against}."),
        ("How would listeners score the {title}{against}, from 1 to 5?",
         "Put a figure on the {title}{against}; 5 is best.")),
    "dim_categ": (
        ("How is the {title} of the degraded speech{against}? Answer with {words}.",
         "Which fits the {title}{against}: {words}?",
         "Name the {title}{against} in a word: {words}."),
        ("Is the {title}{against} {words}?",
         "Choose from {words} for the {title}{against}.")),
    "multi_dim": (
        ("Score the degraded speech{against} from 1 to 5: {titles}.",
         "Assess this recording{against}. Give {titles}, each from 1 to 5.",
         "What are its scores{against}? From 1 to 5, give {titles}."),
        ("Fill in a score sheet{against}, 1 to 5: {titles}.",
         "Judge each of these{against} from 1 to 5: {titles}.")),
    "explanatory": (
        ("Explain what degrades the speech{against}, and give the overall score from 1 to 5.",
         "What lowers the quality{against}? End with a MOS between 1 and 5.",
         "Describe the main causes of degradation{against}, then rate the overall quality from 1 to 5."),
        ("Why does it sound as it does{against}? Conclude with a MOS.",
         "Account for the quality of this recording{against} and sum it up in a score from 1 to 5.")),
}
ANSWERS = {
    "mos_numeric": ("{mos}", "{mos} out of 5.", "I would say {mos}."),
    "dim_numeric": ("{score}", "{score} out of 5.", "The {title} is {score}."),
    "dim_categ": ("{word}", "The {title} is {word}.", "{word}, about {score} of 5."),
    "multi_dim": ("{scores}.",),
    "explanatory": ("{causes}, so that the overall score is {mos}.", "{causes}. I would give {mos} overall."),
}
# fmt: on


def draw(
    scores: Mapping[str, float], faults: Sequence[str] | None, rng: np.random.Generator, reference: bool = False,
    held_out: bool = False,
) -> Dialogue:  # fmt: skip
    """One question and its answer. `scores`: the dimensions that are rated, at least one; `faults`: what is heard, in
    words, None where nobody knows; `reference`: whether the model hears one."""
    scores = {d: round(float(scores[d]), 1) for d in DIMENSIONS if d in scores}
    parts = [d for d in scores if d != "mos"]
    tasks = (["mos_numeric"] if "mos" in scores else []) + (["dim_numeric", "dim_categ"] if parts else [])
    tasks += (["multi_dim"] if len(scores) > 1 else []) + (["explanatory"] if "mos" in scores and parts else [])

    def pick(options: Sequence):
        return options[rng.integers(len(options))]

    task, d = pick(tasks), pick(parts) if parts else "mos"
    titles, against = join([NAMES[n] for n in scores]), pick(AGAINST) if reference else ""
    question = pick(ASKED[task][held_out]).format(against=against, title=NAMES[d], words=WORDS, titles=titles)
    answer = pick(ANSWERS[task]).format(
        mos=scores.get("mos"), score=scores[d], title=NAMES[d], word=upto(scores[d], SCALE),
        scores=", ".join(f"{NAMES[n]} {scores[n]}" for n in scores), causes=causes(scores, faults),
    )  # fmt: skip
    return Dialogue(task, question, sentence(answer))


def causes(scores: Mapping[str, float], faults: Sequence[str] | None) -> str:
    """What degrades a clip, with the dimensions that show it."""
    low = sorted((d for d in scores if d != "mos" and scores[d] < SATISFIED), key=scores.get)
    shown = [f"{NAMES[d]} ({upto(scores[d], SCALE)}, {scores[d]})" for d in low]
    if faults:
        return f"It suffers from {join(faults)}" + (f", which shows in {join(shown)}" if low else "")
    return f"It suffers in {join(shown)}" if low else "No dimension stands out as bad"
