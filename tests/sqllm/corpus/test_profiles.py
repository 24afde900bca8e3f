import subprocess
import sys

import numpy as np
import pytest
import yaml

from sqllm import DIMENSIONS
from sqllm.corpus.profiles import FILE, Profile, load_profiles
from sqllm.corpus.ratings import CLEAN
from sqllm.errors import UsageError

PROFILES = load_profiles()
CLEAN_CLIP = np.array([CLEAN[d] for d in DIMENSIONS])
STD = np.full(5, 0.6)
PANEL = Profile("panel", "Listener: panel. ", dict.fromkeys(DIMENSIONS[1:], 1.0), 0.0, 1.0, True)


def faulty(dimension):
    """A clip with a fault in one dimension."""
    mean = CLEAN_CLIP.copy()
    mean[[0, DIMENSIONS.index(dimension)]] = 2.8, 2.2
    return mean


def test_ten_or_so_of_which_a_few_are_untrained():
    assert 9 <= len(PROFILES) <= 14
    assert 2 <= sum(not p.trained for p in PROFILES.values()) <= 3
    assert "panel" not in PROFILES
    assert len({p.words for p in PROFILES.values()}) == len(PROFILES)
    trained = {w for p in PROFILES.values() if p.trained for w in p.words.split()}
    assert all(set(p.words.split()) - trained for p in PROFILES.values() if not p.trained)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("dimension", DIMENSIONS[1:])
def test_shift_follows_the_sensitivity(name, dimension):
    profile = PROFILES[name]
    i = DIMENSIONS.index(dimension)
    shift = profile.target(faulty(dimension), STD)[0] - faulty(dimension) + profile.strictness
    direction = -np.sign(profile.sensitivity[dimension] - 1)
    assert np.sign(shift[i].round(9)) == np.sign(shift[0].round(9)) == direction
    others = np.delete(shift, [0, i])
    assert np.abs(others).max() < 1e-9


@pytest.mark.parametrize("name", PROFILES)
def test_on_a_clean_clip_only_strictness_counts(name):
    profile = PROFILES[name]
    mean, std = profile.target(CLEAN_CLIP, STD)
    assert mean == pytest.approx(CLEAN_CLIP - profile.strictness)
    assert std == pytest.approx(STD * profile.spread)


def test_a_sensitivity_of_one_is_the_panel():
    mean = np.random.default_rng(0).uniform(1, 5, (50, 3, 5))
    moved, std = PANEL.target(mean, np.broadcast_to(STD, mean.shape))
    assert moved == pytest.approx(mean)
    assert std == pytest.approx(np.broadcast_to(STD, mean.shape))


@pytest.mark.parametrize("name", PROFILES)
def test_scores_stay_on_the_scale_and_in_order(name):
    grid = np.linspace(1, 5, 41)[:, None].repeat(5, axis=1)
    moved, _ = PROFILES[name].target(grid, np.ones_like(grid))
    assert moved.min() >= 1 and moved.max() <= 5
    assert (np.diff(moved, axis=0) >= -1e-9).all()


def test_they_differ_enough_to_be_learned():
    bad = np.array(
        [[2.5, 2.2, 4.0, 4.2, 4.2], [2.8, 4.2, 2.2, 4.2, 4.0], [2.6, 4.2, 4.0, 2.0, 4.2], [3.0, 4.2, 4.0, 4.0, 2.2]]
    )
    for profile in PROFILES.values():
        assert np.abs(profile.target(bad, np.ones_like(bad))[0] - bad).max() > 0.3, profile.name


GOOD = yaml.safe_load(FILE.read_text(encoding="utf-8"))["expert"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": "Listener: expert"}, "end with"),
        ({"words": f"Listener: {'very ' * 20}strict. "}, "at most 14 words"),
        ({"words": 3}, "needs words"),
        ({"sensitivity": {"mos": 2.0}}, "sensitivity to noi, col, dis, loud"),
        ({"sensitivity": {"noi": "much"}}, "a number from 0.1 to 5 as sensitivity to noi, not 'much'"),
        ({"strictness": True}, "as strictness, not True"),
        ({"strictness": float("nan")}, "as strictness, not nan"),
        ({"spread": 0}, "as spread, not 0"),
        ({"trained": "yes"}, "true or false as trained"),
        ({"colour": 1}, "exactly the fields sensitivity, spread, strictness, trained, words"),
    ],
)
def test_a_malformed_profile_is_named(tmp_path, change, message):
    path = tmp_path / "profiles.yaml"
    path.write_text(yaml.safe_dump({"fussy": GOOD | change}), encoding="utf-8")
    with pytest.raises(UsageError) as error:
        load_profiles(path)
    assert "'fussy'" in str(error.value) and str(path) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not YAML"), ("", "must be a mapping"), ("- a", "must be a mapping"), (None, "cannot read")],
)
def test_a_malformed_file_is_a_usage_error(tmp_path, text, message):
    path = tmp_path / "profiles.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_profiles(path)


def test_loading_brings_nothing_heavy():
    code = "import sys; from sqllm.corpus.profiles import load_profiles; load_profiles(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "scipy", "soundfile", "soxr", "ray"} & set(loaded)
