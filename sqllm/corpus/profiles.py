"""Listeners: how somebody's scores differ from the panel's, and the words that say who is listening.

A profile moves the panel's rating of a clip. The points that a clip keeps in a dimension are raised to the listener's
sensitivity, so that the move grows with the fault and is none on a clean clip. Read by the command line before torch is
loaded: this module imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import yaml

from sqllm import DIMENSIONS
from sqllm.errors import UsageError

FILE = Path(__file__).with_name("profiles.yaml")
PREFIX, MOST_WORDS = "Listener: ", 14
LEAST_KEPT = 0.02  # nothing is gained by a power of less
MOS_SHARE = 0.5  # of what a sensitivity changes in its dimension, this much (in the logarithm) reaches mos


@dataclass(frozen=True)
class Profile:
    name: str
    words: str  # in front of the answers (`AnswerTree.build`): "Listener: ... . "
    sensitivity: dict[str, float]  # of noi, col, dis, loud; 1 is the panel
    strictness: float  # points off every score
    spread: float  # factor on the standard deviation
    trained: bool

    def target(self, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The panel's mean and spread [..., 5] (mos, noi, col, dis, loud) as this listener's."""
        # imported here: it brings the simulator's audio libraries, which the command line can spare
        from sqllm.corpus.ratings import CLEAN

        mean = np.asarray(mean, float)
        top = np.array([CLEAN[d] - 1 for d in DIMENSIONS])
        power = np.array([self.sensitivity[d] for d in DIMENSIONS[1:]])
        kept = np.clip((mean - 1) / top, LEAST_KEPT, 1)
        heard = kept[..., 1:] ** power
        mos = kept[..., :1] * np.prod(kept[..., 1:] ** (MOS_SHARE * (power - 1)), axis=-1, keepdims=True)
        moved = top * (np.concatenate([np.minimum(mos, 1), heard], axis=-1) - kept)
        return np.clip(mean + moved - self.strictness, 1, 5), np.asarray(std, float) * self.spread


def load_profiles(path: Path | None = None) -> dict[str, Profile]:
    """The profiles of a YAML file, by name; without a path those that ship with the package."""
    path = path or FILE
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the profiles in {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {error}") from None
    if not isinstance(entries, dict) or not entries:
        raise UsageError(f"{path} must be a mapping of profile names to their fields")
    return {str(name): _profile(str(name), entry, path) for name, entry in entries.items()}


def _profile(name: str, entry: object, path: Path) -> Profile:
    def wrong(what: str) -> UsageError:
        return UsageError(f"{path}: profile {name!r} {what}")

    def number(what: str, value: object, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise wrong(f"needs a number from {low:g} to {high:g} as {what}, not {value!r}")
        return float(value)

    names = {field.name for field in fields(Profile)} - {"name"}
    if not isinstance(entry, dict) or set(entry) != names:
        raise wrong(f"needs exactly the fields {', '.join(sorted(names))}")
    words, sensitivity = entry["words"], entry["sensitivity"]
    if not (isinstance(words, str) and words.startswith(PREFIX) and words.endswith(". ")):
        raise wrong(f'needs words that begin with "{PREFIX}" and end with ". " (a space last)')
    if len(words.split()) > MOST_WORDS:
        raise wrong(f"needs words of at most {MOST_WORDS} words")
    if not isinstance(sensitivity, dict) or not set(sensitivity) <= set(DIMENSIONS[1:]):
        raise wrong(f"may have a sensitivity to {', '.join(DIMENSIONS[1:])} and to nothing else")
    if not isinstance(entry["trained"], bool):
        raise wrong(f"needs true or false as trained, not {entry['trained']!r}")
    return Profile(
        name,
        words,
        {d: number(f"sensitivity to {d}", sensitivity.get(d, 1.0), 0.1, 5) for d in DIMENSIONS[1:]},
        number("strictness", entry["strictness"], -2, 2),
        number("spread", entry["spread"], 0.2, 3),
        entry["trained"],
    )
