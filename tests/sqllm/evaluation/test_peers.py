from pathlib import Path

import numpy as np
import pytest
import soundfile

from sqllm.errors import UsageError
from sqllm.evaluation import peers

SPEECH = Path(peers.__file__).parents[1] / "samples/clean/welcome-en.flac"


@pytest.fixture
def pair(tmp_path):
    clean, rate = soundfile.read(SPEECH)  # real speech: the peers' networks know nothing else
    soundfile.write(tmp_path / "clean.wav", clean, rate)
    noise = np.random.default_rng(0).standard_normal(len(clean))
    soundfile.write(tmp_path / "noisy.wav", clean + 0.4 * clean.std() * noise, rate)
    return str(tmp_path / "noisy.wav"), str(tmp_path / "clean.wav")


@pytest.mark.parametrize("name", sorted(peers.PEERS))
def test_noise_costs_points(pair, name):
    for package in peers.PACKAGES[name]:
        if not peers.find_spec(package):
            pytest.skip(f"no {package}: pip install '.[peers]', and distillmos without its dependencies")
    noisy, clean = pair
    measure = peers.Peers([name])
    [a, *_], [b, *_] = measure.rate(noisy, clean), measure.rate(clean, clean)
    assert a["judge"] == name and a["dim"] == "mos" and 1 <= a["predicted"] < b["predicted"] <= 5
    assert measure.rate(noisy, clean)[0] == a
    if name in peers.AGAINST_REFERENCE:
        assert a["ended"] == "double" and measure.rate(noisy, None) == []


def test_what_cannot_be_rated_is_missing(pair, monkeypatch):
    def broken():
        def rate(x, reference):
            raise ValueError("too loud")

        return rate

    monkeypatch.setitem(peers.PEERS, "pesq", broken)
    monkeypatch.setitem(peers.PEERS, "dnsmos", lambda: lambda x, reference: {"mos": 3.0, "noi": 2.0})
    monkeypatch.setattr(peers, "find_spec", lambda package: True)
    measure = peers.Peers(["dnsmos", "pesq"])
    assert [(r["judge"], r["dim"], r["predicted"]) for r in measure.rate(*pair)] == [
        ("dnsmos", "mos", 3.0), ("dnsmos", "noi", 2.0), ("pesq", "mos", None),
    ]  # fmt: skip
    assert [r["predicted"] for r in measure.rate("absent.wav", None)] == [None]


def test_peers_hear_the_level_that_the_model_hears(pair, monkeypatch):
    monkeypatch.setitem(peers.PEERS, "dnsmos", lambda: lambda x, reference: {"mos": float(np.std(x))})
    monkeypatch.setattr(peers, "find_spec", lambda package: True)
    own, at_30, at_40 = (
        peers.Peers(["dnsmos"], level).rate(pair[0], None)[0]["predicted"] for level in (None, -30, -40)
    )
    assert at_30 / at_40 == pytest.approx(10**0.5, rel=0.01) and own not in (at_30, at_40)


def test_a_peer_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(UsageError, match="there are distillmos"):
        peers.check(["nisqa"])
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    with pytest.raises(UsageError, match=r"--no-deps distillmos"):
        peers.check(["distillmos"])
    with pytest.raises(UsageError, match=r"sqllm\[peers\]"):
        peers.check(["visqol"])
