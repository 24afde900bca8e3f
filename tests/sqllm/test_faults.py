from sqllm.faults import MOST, PHRASES, TOPICS, audible, heard, noun, phrase


def test_the_worst_comes_first_and_hides_the_slight():
    costs = {"noise": 0.6, "echo": 3.0, "clipping": 1.2, "loss": 0.3}
    assert audible(costs) == ["echo", "clipping"]
    first, topics = heard(costs).splitlines()
    assert first == "Heard: severe echo, clear clipping."
    assert topics.startswith("noise no, muffled no,") and "clipping yes" in topics and topics.count("yes") == 2
    assert audible({}) == [] and heard({"noise": 0.2}).startswith("Heard: no fault.\nnoise no")
    assert len(audible(dict.fromkeys(PHRASES, 1.0))) == MOST


def test_words_of_every_strength():
    assert [phrase("quiet", cost) for cost in (0.5, 1.0, 1.8, 3.9)] == [
        "a level slightly too low", "a level clearly too low", "a level much too low", "a level far too low",
    ]  # fmt: skip
    assert noun("white") == "hiss" and noun("quiet") == "a level too low"
    assert len({noun(name) for name in PHRASES}) == len(PHRASES)
    assert {name for faults in TOPICS.values() for name in faults} <= set(PHRASES)
