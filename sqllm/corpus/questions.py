"""Questions people ask about a recording, and truthful answers from its ground truth.

They teach a small language model to answer in words. When it answers it has the audio, the line of
`evidence.describe`, the faults (`faults.heard`) and the five scores before it: numbers, times and faults are copied
from those, as they are written there. What can be heard is not decided here: it is the points that an impairment costs
when it acts alone (`ratings.expected`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sqllm.audio.degrade import Impairment
from sqllm.audio.evidence import describe
from sqllm.corpus import ratings as panel
from sqllm.corpus.wordings import ASKED
from sqllm.faults import ABSENT, AUDIBLE, TOPICS, audible, heard, phrase, upto
from sqllm.plain import NAMES, SCALE

ALIKE = 0.3  # scores that differ by less are about the same
SATISFIED = 3.5  # a dimension from here on is no complaint
GAPS = TOPICS["dropouts"]
ADDITIVE = ("noise", "white", "babble", "talker")
FACTS = ("level_db", "snr_db", "band_high_hz", "clipped_pct", "dropout_pct")  # the parts of `describe`, in its order

# fmt: off
# words up to a limit, which is one of SCALE's: the prompt has its word beside the score
MEANS = (
    (1.5, ("Words will be lost.", "It is hard to understand.", "A listener can hardly follow it.")),
    (2.5, ("A listener tires quickly.", "Listening takes real effort.", "It is annoying to listen to.")),
    (3.5, ("Listening takes some effort.", "It annoys a little, but can be followed.")),
    (4.5, ("It stays easy to follow.", "A listener notices it and is hardly disturbed.")),
    (9, ("It is still easy to listen to.", "It hardly matters to a listener.")),
)
TRANSCRIBE = (2.5, "No, expect many errors"), (3.5, "Only with care, expect some errors"), (9, "Yes")
FOLLOW = (1.5, "Hardly"), (2.5, "Only with effort"), (9, "Yes")
CLEAN = ("It is clean: no fault stands out.", "The recording is clean and easy to listen to.",
         "Nothing is wrong: the speech is clean, {mos} overall.", "Clean speech, {mos} overall.")

_CLOSER = "Move the microphone closer, or find a quieter place."
_NETWORK = "Look at the network: packets come late or not at all."
_EQUALISE = "Check the microphone and the filters: a part of the band is missing."
REMEDIES = {
    "noise": _CLOSER,
    "white": _CLOSER,
    "babble": _CLOSER,
    "talker": "Record one person at a time.",
    "bass": _EQUALISE,
    "treble": _EQUALISE,
    "narrow": "Use a wideband codec.",
    "coding": "Raise the bit rate of the codec.",
    "clipping": "Lower the recording gain: peaks are cut.",
    "mnru": "Check the codec.",
    "suppress": "Reduce less noise.",
    "loss": _NETWORK,
    "chop": _NETWORK,
    "jump": _NETWORK,
    "loud": "Lower the gain.",
    "quiet": "Raise the gain.",
    "fading": "Keep a steady distance to the microphone.",
    "echo": "Switch on echo cancellation.",
    "reverb": "Move closer to the microphone, or to another room.",
}
# fmt: on


@dataclass(frozen=True)
class Check:
    """A fault to ask about with yes or no."""

    topic: str
    deny: str
    near: tuple[str, ...] = ()  # while one of these is audible, No is not beyond doubt
    score: str | None = None
    fact: tuple[str, float, float] | None = None  # its name, from where on it proves the fault, or rules it out
    no_weight: float = 1.0  # how often No is drawn: as often as Yes, in clips from `simulate`

    @property
    def asked(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return ASKED[self.topic]

    @property
    def faults(self) -> tuple[str, ...]:
        return TOPICS[self.topic]


CHECKS = (
    Check("noise", "no noise stands out", ("talker", "mnru", "suppress"), "noi", ("snr_db", 10, 40), 3.0),
    Check("muffled", "the treble is there", ("coding", "suppress"), None, ("band_high_hz", 4600, 6800), 0.6),
    Check("telephone", "the band is wide", ("bass",), None, ("band_high_hz", 4300, 4900), 0.5),
    Check(
        "dropouts",
        "the speech runs on without breaks",
        ("fading", "suppress"),
        "dis",
        ("dropout_pct", 1e-6, -1e-6),
        3.1,
    ),
    Check(
        "clipping", "the peaks are intact", ("mnru", "coding", "suppress", "loss"), None, ("clipped_pct", 0.1, -1e-3)
    ),
    Check("too quiet", "the level is high enough", ("fading",), "loud", ("level_db", -31, -28.5), 0.9),
    Check("too loud", "the level is not too high", (), None, ("level_db", -20, -23), 0.1),
    Check("echo", "no echo can be heard", ("reverb", "jump"), no_weight=0.2),
    Check("reverb", "the room is hardly heard", ("echo",), no_weight=0.3),
    Check("other voices", "only one voice can be heard", no_weight=0.4),
)


@dataclass
class Dialogue:
    task: str
    question: str
    answer: str


def cost(found: dict[str, float], names: Sequence[str], dimension: str | None = None) -> float:
    """Points that these severities cost when they act alone: in one dimension, or in the one they cost most."""
    rated = panel.expected({name: found[name] for name in names if name in found})
    lost = {d: panel.CLEAN[d] - rated[d] for d in panel.DIMENSIONS}
    return lost[dimension] if dimension else max(lost.values())


def acting(chain: Sequence[Impairment]) -> list[Impairment]:
    """A drawn loss may lose nothing."""
    return [step for step in chain if step.kind not in GAPS or step.spans]


def costs(chain: Sequence[Impairment]) -> dict[str, float]:
    """What each fault of a chain costs."""
    found = panel.severities(acting(chain))
    return {name: cost(found, [name]) for name in found}


def join(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


class Clip:
    """One recording, and what is true of it."""

    def __init__(self, chain: Sequence[Impairment], scores: dict, facts: dict, rng, held_out: bool):
        self.facts, self.rng, self.held_out = facts, rng, held_out
        self.chain, self.costs = acting(chain), costs(chain)
        self.scores = {d: round(float(value), 1) for d, value in scores.items()}  # as the model reads them
        self.found = panel.severities(self.chain)
        self.faults, self.heard = audible(self.costs), heard(self.costs)
        self.parts = dict(zip(FACTS, describe(facts).split(", ", 4), strict=False))
        self.gaps = self.parts.get("dropout_pct", "").partition("dropouts at ")[2]

    def pick(self, options: Sequence):
        return options[self.rng.integers(len(options))]

    def ask(self, asked: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
        """One wording, at times with a capital or without its question mark."""
        question, style = self.pick(asked[self.held_out]), self.rng.random()
        question = sentence(question) if style < 0.2 else question
        return question.rstrip("?.") if 0.1 < style < 0.3 else question

    def phrase(self, name: str) -> str:
        return phrase(name, self.costs[name])

    def spans(self, names: Sequence[str] = ADDITIVE) -> str:
        """When added noise is there, if not all the time."""
        steps = [step for step in self.chain if panel.severities([step]).keys() & set(names)]
        spans = [span for step in steps for span in step.spans] if all(step.spans for step in steps) else []
        return ", ".join(f"{start:.1f}-{end:.1f} s" for start, end in spans)

    def evidence(self, check: Check) -> list[tuple[bool, bool, str]]:
        """Each number that bears on a check: whether it points to the fault, whether it settles it, and its words."""
        out = []
        if d := check.score:
            out.append((self.scores[d] < SATISFIED, True, f"{NAMES[d]} {self.scores[d]}"))
        if check.fact and check.fact[0] in self.parts and (value := self.facts[check.fact[0]]) is not None:
            name, faulty, fine = check.fact
            place = (value - faulty) / (fine - faulty)  # from 0, faulty, to 1, fine
            out.append((place < 0.5, not 0 < place < 1, self.parts[name]))
        return out

    def fits(self, check: Check, yes: bool) -> bool:
        """Whether the answer is beyond doubt: true of the chain, and not gainsaid by a number that the model sees."""
        if any(settled and faulty is not yes for faulty, settled, _ in self.evidence(check)):
            return False
        loss = cost(self.found, check.faults)
        if yes:
            return bool(set(check.faults) & set(self.faults))
        return loss < ABSENT and cost(self.found, check.near) < AUDIBLE


def explain(clip: Clip) -> tuple[str, str]:
    mos, question = clip.scores["mos"], clip.ask(ASKED["explain"])
    if not clip.faults:
        return question, clip.pick(CLEAN).format(mos=mos)
    first, *rest = said = [clip.phrase(name) for name in clip.faults]
    rated = f"{upto(mos, SCALE)} quality, {mos} overall: {{}}.", f"the score of {mos} comes from {{}}."
    answer = clip.pick(["It has {}.", "You hear {}.", "{}.", *rated]).format(join(said))
    if rest and clip.rng.random() < 0.3:
        answer = f"The main fault is {first}, besides {join(rest)}."
    if clip.gaps and set(GAPS) & set(clip.faults):
        answer += f" It drops out at {clip.gaps}."
    return question, f"{sentence(answer)} {clip.pick(upto(mos, MEANS))}"


def yes_no(clip: Clip) -> tuple[str, str] | None:
    """The coin first, then a question that it fits."""
    yes = bool(clip.rng.random() < 0.54)  # a clip in seven has no fault to say yes to
    if not (fitting := [check for check in CHECKS if clip.fits(check, yes)]):
        return None
    weights = np.array([1.0 if yes else check.no_weight for check in fitting])
    check = fitting[clip.rng.choice(len(fitting), p=weights / weights.sum())]
    proof = ", ".join(words for faulty, _, words in clip.evidence(check) if faulty is yes)
    reason = clip.phrase(next(name for name in clip.faults if name in check.faults)) if yes else check.deny
    return clip.ask(check.asked), f"{'Yes' if yes else 'No'}, {reason}{f': {proof}' if proof else ''}."


def when(clip: Clip) -> tuple[str, str] | None:
    noisy, spans, broken = set(ADDITIVE) & set(clip.faults), clip.spans(), set(GAPS) & set(clip.faults)
    if clip.rng.random() < (0.7 if spans else 0.12) and (noisy or cost(clip.found, ADDITIVE) < ABSENT):
        there = f"The noise is at {spans}." if spans else "The noise is there all the time."
        return clip.ask(ASKED["when_noise"]), there if noisy else "There is no background noise."
    if set(GAPS) & set(clip.found) and clip.gaps:
        answer = f"It drops out at {clip.gaps}."  # one wording: among several, greedy decoding would lose it
    elif broken:
        where = "slightly, here and there" if cost(clip.found, tuple(broken)) < 1 else "all through"
        answer = f"It breaks up {where}, without clean gaps."
    elif set(GAPS) & set(clip.found) or clip.gaps or clip.rng.random() < 0.5:
        return None  # nobody could tell; or enough answers without dropouts
    else:
        answer = "It does not drop out."
    return clip.ask(ASKED["when"]), answer


def category(clip: Clip) -> tuple[str, str]:
    d = clip.pick(panel.DIMENSIONS)
    title, score, word = NAMES[d], clip.scores[d], upto(clip.scores[d], SCALE)
    forms = f"The {title} is {word}: {score}.", f"{title} is {word}, {score}.", f"{word}: {score} for {title}."
    return clip.ask(ASKED["category"]).format(title=title), sentence(clip.pick(forms))


def worst(clip: Clip) -> tuple[str, str]:
    d = min(panel.DIMENSIONS[1:], key=lambda name: clip.scores[name])
    score, question = clip.scores[d], clip.ask(ASKED["worst"])
    if score >= 4:
        return question, f"None stands out: the lowest is {NAMES[d]} at {score}."
    answer = clip.pick([f"{NAMES[d]}, at {score}", f"{NAMES[d]} is the lowest at {score}"])
    if clip.faults:
        answer += f": {clip.phrase(max(clip.faults, key=lambda name: cost(clip.found, [name], d)))}"
    return question, sentence(f"{answer}.")


def advice(clip: Clip) -> tuple[str, str]:
    use, mos = clip.pick(["fix", "transcribe", "follow"]), clip.scores["mos"]
    main = f"the main fault is {clip.phrase(clip.faults[0])}" if clip.faults else "no fault stands out"
    todo = REMEDIES[clip.faults[0]] if clip.faults else "Nothing, use it as it is."
    if use == "fix":
        return clip.ask(ASKED[use]), f"{todo} {sentence(main)}."
    verdict = upto(mos, TRANSCRIBE if use == "transcribe" else FOLLOW)
    return clip.ask(ASKED[use]), f"{verdict}: overall quality {mos}, {main}."


TASKS = {explain: 4.0, yes_no: 10.0, when: 3.0, category: 3.0, worst: 1.5, advice: 1.5}


def draw(
    chain: Sequence[Impairment], ratings: dict, facts: dict, rng: np.random.Generator, held_out: bool = False
) -> Dialogue:
    """One question about a degraded clip and its answer; `held_out` takes the wordings that are never trained."""
    clip, shares = Clip(chain, ratings, facts, rng, held_out), np.array(list(TASKS.values()))
    task = list(TASKS)[rng.choice(len(TASKS), p=shares / shares.sum())]
    if drawn := task(clip):
        return Dialogue(task.__name__, *drawn)
    return Dialogue("explain", *explain(clip))  # not the opposite answer: that would outnumber its like


def compare(first: Clip, second: Clip) -> Dialogue:
    """A question about two clips and its answer."""
    use = first.pick(["better", "better_in", "difference"])
    d = first.pick(list(NAMES)) if use == "better_in" else "mos"
    question = first.ask(ASKED[use]).format(title=NAMES[d])
    a, b = first.scores[d], second.scores[d]
    has = [join([clip.phrase(name) for name in clip.faults] or ["no fault"]) for clip in (first, second)]
    if use == "difference":
        return Dialogue("compare", question, f"The first has {has[0]}, the second has {has[1]}: {a} and {b} overall.")
    if round(abs(a - b), 1) < ALIKE:
        return Dialogue("compare", question, f"They are about the same: {NAMES[d]} {a} and {b}.")
    better, worse = ("first", "second") if a > b else ("second", "first")
    why = f" The {worse} has {has[worse == 'second']}." if d == "mos" else ""
    return Dialogue("compare", question, f"The {better}: {NAMES[d]} {max(a, b)} against {min(a, b)}.{why}")
