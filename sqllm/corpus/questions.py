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
from sqllm.faults import ABSENT, AUDIBLE, TOPICS, audible, heard, phrase, upto
from sqllm.plain import SCALE

SATISFIED = 3.5  # a dimension from here on is no complaint
GAPS = TOPICS["dropouts"]
ADDITIVE = ("noise", "white", "babble", "talker")
FACTS = ("level_db", "snr_db", "band_high_hz", "clipped_pct", "dropout_pct")  # the parts of `describe`, in its order
TITLES = {"mos": "overall quality", "noi": "noisiness", "col": "coloration", "dis": "discontinuity", "loud": "loudness"}

# fmt: off
# words up to a limit
MEANS = (
    (1.7, ("Words will be lost.", "It is hard to understand.", "A listener can hardly follow it.")),
    (2.5, ("A listener tires quickly.", "Listening takes real effort.", "It is annoying to listen to.")),
    (3.3, ("Listening takes some effort.", "It annoys a little, but can be followed.")),
    (4.0, ("It stays easy to follow.", "A listener notices it and is hardly disturbed.")),
    (9, ("It is still easy to listen to.", "It hardly matters to a listener.")),
)
TRANSCRIBE = (2.3, "No, expect many errors"), (3.3, "Only with care, expect some errors"), (9, "Yes")
FOLLOW = (1.7, "Hardly"), (2.7, "Only with effort"), (9, "Yes")
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

ASKED = {  # topic: (trained wordings, wordings kept out of training)
    "explain": (
        ("what is wrong with it?", "what's wrong with this recording?", "describe the quality.", "why this score?",
         "what do you hear?", "explain the score.", "how does it sound?", "what faults does the recording have?",
         "describe what a listener would notice.", "tell me about the quality.", "what is the problem?",
         "summarise the sound quality.", "what do you make of it?", "what bothers a listener here?", "is it any good?",
         "what happened to this recording?"),
        ("what is the matter with this call?", "give me a short report on the sound.", "how come it got this score?")),
    "when": (
        ("when does it drop out?", "when are the dropouts?", "where does the speech cut out?", "where are the gaps?",
         "at what times does it break up?", "list the dropouts.", "when is the voice gone?", "when are there gaps?",
         "where is audio missing?", "give me the times of the cut-outs."),
        ("at which moments do we lose the voice?", "when does the audio disappear?")),
    "when_noise": (("when is the noise?", "at what time is there noise?", "where is the noise?"),
                  ("from when to when do you hear noise?",)),
    "category": (("how is the {title}?", "rate the {title} in a word.", "what about the {title}?", "{title}?"),
                ("which word fits the {title}?", "how would you call the {title}?")),
    "worst": (("which dimension is worst?", "what is the weakest point?", "what should be fixed first?",
               "which score is the lowest?", "what is the main weakness?"),
             ("where does it fall short the most?", "what hurts the quality most?")),
    "fix": (("what should I do?", "how can I improve it?", "what can be done about it?", "how do I fix it?",
             "any advice?", "how would it sound better?", "how can I avoid that?"),
           ("what would make the next recording better?",)),
    "transcribe": (("is it usable for transcription?", "can it be transcribed?", "is it fit for speech recognition?",
                    "will speech recognition work on it?", "can I send it to a transcriber?"),
                  ("would a transcript of it be reliable?",)),
    "follow": (("can a customer understand it?", "is it easy to understand?", "can people follow what is said?",
                "is it intelligible?", "can you make out the words?"),
              ("will the other side get what is being said?",)),
}


@dataclass(frozen=True)
class Check:
    """A fault to ask about with yes or no."""

    topic: str
    asked: tuple[tuple[str, ...], tuple[str, ...]]
    deny: str
    near: tuple[str, ...] = ()  # while one of these is audible, No is not beyond doubt
    score: str | None = None
    fact: tuple[str, float, float] | None = None  # its name, from where on it proves the fault, or rules it out
    no_weight: float = 1.0  # how often No is drawn: as often as Yes, in clips from `simulate`

    @property
    def faults(self) -> tuple[str, ...]:
        return TOPICS[self.topic]


CHECKS = (
    Check("noise",
          (("is it noisy?", "is there background noise?", "do you hear noise?", "any noise?", "is something humming?",
            "can you hear hiss or hum?", "is there noise behind the voice?", "does it hiss?"),
           ("is there a lot of noise in it?",)),
          "no noise stands out", ("talker", "mnru", "suppress"),
          "noi", ("snr_db", 10, 40), 3.0),
    Check("muffled",
          (("is it muffled?", "does it sound dull?", "is the treble missing?", "is it dark?", "are the highs gone?",
            "does the voice sound covered?", "is it unclear, as behind a door?"), ("is it like through a blanket?",)),
          "the treble is there", ("coding", "suppress"), None, ("band_high_hz", 4600, 6800), 0.6),
    Check("telephone",
          (("is it narrowband?", "is it telephone quality?", "is it like a telephone?", "is the band narrow?",
            "does it sound thin, like a landline?", "is it 8 kHz audio?"), ("is it an old phone line?",)),
          "the band is wide", ("bass",), None, ("band_high_hz", 4300, 4900), 0.5),
    Check("dropouts",
          (("does it drop out?", "is it choppy?", "does it break up?", "are there dropouts?", "are there gaps?",
            "is anything missing in between?", "are words or syllables lost?", "is there packet loss?",
            "does it stutter?", "is the speech interrupted?"), ("is speech cut off?",)),
          "the speech runs on without breaks", ("fading", "suppress"), "dis", ("dropout_pct", 1e-6, -1e-6), 3.1),
    Check("clipping",
          (("is it clipped?", "is it distorted?", "is it overdriven?", "is there clipping?", "are the peaks cut?",
            "was the recording gain too high?", "is the input overloaded?", "does it crackle on loud words?"),
           ("is it too hot?",)),
          "the peaks are intact", ("mnru", "coding", "suppress", "loss"),
          None, ("clipped_pct", 0.1, -1e-3)),
    Check("too quiet",
          (("is it too quiet?", "is the level too low?", "is it too soft?", "is it hard to hear?", "is it faint?",
            "is it quiet?", "should it be louder?"), ("do I have to turn it up?",)),
          "the level is high enough", ("fading",), "loud", ("level_db", -31, -28.5), 0.9),
    Check("too loud",
          (("is it too loud?", "is the level too high?", "is it loud?", "should it be softer?", "does it blast?"),
           ("do I have to turn it down?",)),
          "the level is not too high", (), None, ("level_db", -20, -23), 0.1),
    Check("echo",
          (("is there an echo?", "do you hear an echo?", "does it echo?", "any echo?", "is each word heard twice?",
            "does the voice repeat itself a moment later?"), ("does the voice come back?",)),
          "no echo can be heard", ("reverb", "jump"), no_weight=0.2),
    Check("reverb",
          (("is it reverberant?", "is there much reverb?", "do you hear the room?", "is it a big room?",
            "was it recorded in a bathroom?", "is the talker far from the microphone?"), ("is it a bare hall?",)),
          "the room is hardly heard", ("echo",), no_weight=0.3),
    Check("other voices",
          (("is someone else talking in the background?", "is there another talker?", "do you hear other voices?",
            "is there a second speaker?", "are other people talking?", "do you hear a crowd?", "any crosstalk?"),
           ("is more than one person speaking at once?",)),
          "only one voice can be heard", no_weight=0.4),
)
# fmt: on


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
            out.append((self.scores[d] < SATISFIED, True, f"{TITLES[d]} {self.scores[d]}"))
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
    title, score, word = TITLES[d], clip.scores[d], upto(clip.scores[d], SCALE)
    forms = f"The {title} is {word}: {score}.", f"{title} is {word}, {score}.", f"{word}: {score} for {title}."
    return clip.ask(ASKED["category"]).format(title=title), sentence(clip.pick(forms))


def worst(clip: Clip) -> tuple[str, str]:
    d = min(panel.DIMENSIONS[1:], key=lambda name: clip.scores[name])
    score, question = clip.scores[d], clip.ask(ASKED["worst"])
    if score >= 4:
        return question, f"None stands out: the lowest is {TITLES[d]} at {score}."
    answer = clip.pick([f"{TITLES[d]}, at {score}", f"{TITLES[d]} is the lowest at {score}"])
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


TASKS = {explain: 4.0, yes_no: 10.0, when: 3.0, category: 1.5, worst: 1.0, advice: 1.5}


def draw(
    chain: Sequence[Impairment], ratings: dict, facts: dict, rng: np.random.Generator, held_out: bool = False
) -> Dialogue:
    """One question about a degraded clip and its answer; `held_out` takes the wordings that are never trained."""
    clip, shares = Clip(chain, ratings, facts, rng, held_out), np.array(list(TASKS.values()))
    task = list(TASKS)[rng.choice(len(TASKS), p=shares / shares.sum())]
    if drawn := task(clip):
        return Dialogue(task.__name__, *drawn)
    return Dialogue("explain", *explain(clip))  # not the opposite answer: that would outnumber its like
