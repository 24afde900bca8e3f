from collections import Counter

import numpy as np
import pytest

from sqllm.audio.degrade import KINDS, Impairment
from sqllm.audio.evidence import describe
from sqllm.corpus import ratings, simulate
from sqllm.corpus.questions import ASKED, CHECKS, REMEDIES, TASKS, Clip, compare, cost, draw
from sqllm.faults import PHRASES, STRENGTH, upto
from sqllm.plain import NAMES, SCALE

FACTS = dict(level_db=-26.0, activity=0.7, snr_db=45.0, band_low_hz=60.0, band_high_hz=7900.0)
FACTS |= dict(clipped_pct=0.0, dropouts=[], dropout_pct=0.0)
NOISE = [Impairment("noise", {"snr_db": 3.0, "colour": "recorded"})]
NOISY = FACTS | {"snr_db": 3.4}
CHOPPED = [Impairment("chop", {"rate": 0.1, "gap_ms": 80.0}, [(i + 0.31, i + 0.42) for i in range(6)])]
GAPS = FACTS | {"dropouts": [{"start_s": i + 0.31, "end_s": i + 0.42} for i in range(6)], "dropout_pct": 9.0}
SEVERE = {
    "noise": {"snr_db": 0.0}, "babble": {"snr_db": 3.0}, "talker": {"snr_db": 0.0}, "level": {"gain_db": -25.0},
    "band": {"low_hz": 600.0, "high_hz": 2500.0}, "clipping": {"threshold": 0.03}, "mnru": {"q_db": 3.0},
    "loss": {"rate": 0.3}, "chop": {"rate": 0.3}, "jump": {"per_second": 3.0, "length_ms": 200.0},
    "reverb": {"rt60_s": 1.2, "wet_db": 4.0},
    "echo": {"delay_ms": 300.0, "gain_db": -4.0}, "fading": {"depth_db": 28.0}, "suppress": {"strength": 4.0},
    "codec": {"name": "amr", "kbps": 4.75}, "vocoder": {"bands": 16, "rounds": 2},
    "world": {"bands": 8, "frame_ms": 20.0, "breath": 0.5, "flutter": 0.5},
}  # fmt: skip


def rate(chain):
    return ratings.expected(ratings.severities(chain))


def dialogues(chain, facts, task=None, n=400, **options):
    rng = np.random.default_rng(0)
    drawn = [draw(chain, rate(chain), facts, rng, **options) for _ in range(n)]
    return [d for d in drawn if task in (None, d.task)]


def plausible(chain):
    """Facts that go with a chain, as far as one can say without the audio."""
    facts = dict(FACTS)
    for step in chain:
        p = step.params
        if step.kind in ("loss", "chop", "jump"):
            step.spans = [(1.0, 1.1), (2.0, 2.1)]
            if step.kind == "chop":
                facts |= {"dropouts": [{"start_s": 1.0, "end_s": 1.1}], "dropout_pct": 1.0}
        facts["snr_db"] = min(facts["snr_db"], p.get("snr_db", 70.0))
        facts["level_db"] += p.get("gain_db", 0.0) if step.kind == "level" else 0.0
        narrow = ratings.severities([step]).get("narrow")
        facts["band_high_hz"] = min(facts["band_high_hz"], 3900.0 if narrow else p.get("high_hz", 8000.0))
        facts["clipped_pct"] += 5.0 if step.kind == "clipping" else 0.0
    return facts


@pytest.fixture(scope="module")
def corpus():
    """Dialogues about chains as the simulator draws them, with their facts."""
    rng = np.random.default_rng(1)
    chains = [simulate.draw_chain(rng) for _ in range(4000)]
    facts = [plausible(chain) for chain in chains]
    return [
        (draw(c, rate(c), f, rng, held_out=i % 5 == 0), f) for i, (c, f) in enumerate(zip(chains, facts, strict=True))
    ]


def plain(question):
    return question.lower().rstrip("?.")


def test_answers_are_short_plain_and_of_every_task(corpus):
    assert {d.task for d, _ in corpus} == {task.__name__ for task in TASKS}
    assert all(d.answer.isascii() and 1 < len(d.answer.split()) <= 60 and d.answer[-1] == "." for d, _ in corpus)
    assert not any("{" in d.question + d.answer for d, _ in corpus)


def test_as_many_yes_as_no_in_all_and_for_the_common_questions(corpus):
    answers = Counter(d.answer.split(",")[0] for d, _ in corpus if d.task == "yes_no")
    assert set(answers) == {"Yes", "No"}
    assert 0.44 < answers["Yes"] / answers.total() < 0.56
    for check in CHECKS:
        asked = {plain(q) for wordings in check.asked for q in wordings}
        of_check = [d.answer[:3] == "Yes" for d, _ in corpus if plain(d.question) in asked]
        if len(of_check) > 100:
            assert 0.3 < np.mean(of_check) < 0.7, check.asked


def test_numbers_and_times_are_those_of_the_facts(corpus):
    for d, facts in corpus:
        for unit in (" dB", " Hz", " %"):
            for words in d.answer.rstrip(".").split(", "):
                if words.endswith(unit):
                    assert words.rpartition(": ")[2] in describe(facts)


@pytest.mark.parametrize("question", ["is it noisy?", "what is wrong with it?", "when does it drop out?"])
def test_everyday_questions_are_trained(question):
    assert question in [q for trained, _ in [*ASKED.values(), *(check.asked for check in CHECKS)] for q in trained]


def test_held_out_wordings_are_never_trained(corpus):
    pairs = [*ASKED.values(), *(check.asked for check in CHECKS)]
    trained, held = ({plain(q) for pair in pairs for q in pair[side]} for side in (0, 1))
    assert trained.isdisjoint(held)

    def generic(question):
        for title in NAMES.values():
            question = question.replace(title, "{title}").replace(title.capitalize(), "{title}")
        return plain(question)

    for i, (d, _) in enumerate(corpus):
        assert generic(d.question) in (held if i % 5 == 0 else trained)


def test_same_seed_same_dialogues():
    assert dialogues(NOISE, NOISY, n=50) == dialogues(NOISE, NOISY, n=50)


def test_noise_is_said_to_be_noisy():
    drawn = dialogues(NOISE, NOISY)
    noisy = [d.answer for d in drawn if plain(d.question) == "is it noisy"]
    assert noisy and all(a.startswith("Yes, severe") and "noisiness 2.0, SNR 3 dB" in a for a in noisy)
    assert all("noise" in d.answer for d in drawn if d.task == "explain")
    assert all(d.answer.startswith("Noisiness") for d in drawn if d.task == "worst")


def test_clean_is_said_to_be_clean():
    drawn = dialogues([], FACTS)
    for d in drawn:
        assert not any(adjective in d.answer or f"{much} too" in d.answer for _, (adjective, much) in STRENGTH)
        assert d.task != "explain" or "clean" in d.answer.lower()
        assert d.task != "yes_no" or d.answer.startswith("No, ")
        assert d.task != "when" or d.answer in ("It does not drop out.", "There is no background noise.")


def test_dropouts_are_listed_as_measured():
    answers = {d.answer for d in dialogues(CHOPPED, GAPS, "when") if "noise" not in d.answer}
    assert answers
    for answer in answers:
        assert answer.endswith("0.31-0.42 s, 1.31-1.42 s, 2.31-2.42 s, 3.31-3.42 s and 2 more.")
        assert answer.split(" at ")[1].rstrip(".") in describe(GAPS)


def test_breaking_up_without_gaps_has_no_times():
    answers = {d.answer for d in dialogues(CHOPPED, FACTS, "when") if "noise" not in d.answer}
    assert answers == {"It breaks up all through, without clean gaps."}


def test_noise_in_a_part_has_its_time():
    part = [Impairment("noise", {"snr_db": 3.0, "start": 0.2, "end": 0.6}, [(2.0, 6.0)])]
    answers = {d.answer for d in dialogues(part, NOISY, "when")}
    assert answers == {"The noise is at 2.0-6.0 s.", "It does not drop out."}
    both = [*part, Impairment("babble", {"snr_db": 3.0})]
    assert "The noise is there all the time." in {d.answer for d in dialogues(both, NOISY, "when")}


def test_categories_are_those_of_the_score():
    assert [upto(x, SCALE) for x in (1.4, 1.5, 2.5, 3.5, 4.5)] == ["very bad", "poor", "fair", "good", "excellent"]
    for d in dialogues(NOISE, NOISY, "category"):
        title = next(t for t in NAMES.values() if t in d.question)
        score = round(rate(NOISE)[next(k for k, t in NAMES.items() if t == title)], 1)
        assert str(score) in d.answer and upto(score, SCALE) in d.answer.lower()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_words(kind):
    chain = [Impairment(kind, SEVERE[kind], [(1.0, 2.0)] if kind in ("loss", "chop", "jump") else [])]
    clip = Clip(chain, rate(chain), FACTS, np.random.default_rng(0), False)
    assert clip.faults
    assert all(clip.phrase(clip.faults[0]) in d.answer.lower() for d in dialogues(chain, FACTS, "explain"))


def test_every_severity_has_words():
    assert set(PHRASES) == set(REMEDIES) == set(ratings.WEIGHTS)
    assert {name for check in CHECKS for name in (*check.faults, *check.near)} <= set(PHRASES)


def test_answers_name_the_faults_that_stand_in_the_prompt(corpus):
    rng = np.random.default_rng(2)
    for _ in range(1000):
        chain = simulate.draw_chain(rng)
        facts, rated = plausible(chain), rate(chain)
        said = draw(chain, rated, facts, rng)
        clip = Clip(chain, rated, facts, rng, False)
        if said.task == "explain":
            assert all(clip.phrase(name) in said.answer.lower() for name in clip.faults)
        if said.answer.startswith("Yes, ") and said.task == "yes_no":
            assert said.answer[5:].split(":")[0].rstrip(".") in clip.heard
        if said.task == "yes_no":  # the verdict stands in the prompt too
            check = next(c for c in CHECKS if plain(said.question) in map(plain, c.asked[0]))
            assert f"{check.topic} {said.answer.split(',')[0].lower()}" in clip.heard


def test_worst_fault_comes_first_and_an_inaudible_one_not_at_all():
    chain = [Impairment("noise", {"snr_db": 18.0}), Impairment("clipping", {"threshold": 0.02})]
    chain.append(Impairment("mnru", {"q_db": 34.0}))
    found = ratings.severities(chain)
    assert cost(found, ["mnru"]) < 0.15
    for d in dialogues(chain, FACTS, "explain"):
        assert d.answer.find("clipping") < d.answer.find("noise") and "voice" not in d.answer


def test_two_clips_are_compared():
    rng = np.random.default_rng(3)
    noisy, clean = (Clip(chain, rate(chain), FACTS, rng, False) for chain in (NOISE, []))
    for first, second, better in ((noisy, clean, "second"), (clean, noisy, "first")):
        drawn = [compare(first, second) for _ in range(60)]
        asked = {d.question.lower().rstrip("?.") for d in drawn}
        assert any("noisiness" in question for question in asked) and any("differ" in question for question in asked)
        said = [d.answer for d in drawn if "quality" in d.answer]
        assert said and all(a.startswith(f"The {better}: overall quality {clean.scores['mos']}") for a in said)
        assert all("background noise" in a for a in said)
    assert {compare(clean, clean).answer[:24] for _ in range(60)} <= {
        "They are about the same:",
        "The first has no fault, ",
    }


def test_no_sound_is_no_error():
    silent = FACTS | dict(level_db=None, snr_db=None, band_low_hz=None, band_high_hz=None)
    assert len(dialogues([Impairment("level", {"gain_db": -30.0})], silent)) == 400
