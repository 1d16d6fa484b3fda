"""Platitudes: what any firm could say in any call, told by meaning.

The sentences of `seeds.txt` were written for this purpose and come from no call: courtesies, procedure, calendar,
confidence without a subject. What lies near one of them in the space of the encoder says as little. They name no
subject, so that a new one, a pandemic for instance, is far from all of them.
"""

from functools import cache
from importlib.resources import files

import numpy as np

SEEDS_FILE = "seeds.txt"
_DIGITS = 4


@cache
def boilerplate_seeds() -> tuple[str, ...]:
    """The sentences, to be encoded by whatever encodes the others."""
    text = files("ftm_assets.analysis.boilerplate").joinpath(SEEDS_FILE).read_text(encoding="utf-8")
    return tuple(text.splitlines())


def nearness(vectors: np.ndarray, of_seeds: np.ndarray) -> np.ndarray:
    """Cosine of each row to the nearest boilerplate seed, -1 where there is none.

    vectors: (n, d) float32 of unit length    of_seeds: (p, d) float32 of unit length
    returns: (n,) float64, rounded to 4 decimals
    """
    cosines = vectors.astype(np.float64) @ of_seeds.astype(np.float64).T
    found: np.ndarray = np.round(cosines.max(axis=1, initial=-1.0), _DIGITS)
    return found
