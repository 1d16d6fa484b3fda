"""Boilerplate by meaning: sentences near a seed, a sentence that any firm could say in any call.

The seeds in `seeds.txt` were written for this purpose and come from no call: courtesies, procedure, calendar,
confidence without a subject. A sentence near one of them in the space of the encoder has as little content. Seeds name
no subject, so a new subject, such as a pandemic, is far from all of them.
"""

from functools import cache
from importlib.resources import files

import numpy as np

SEEDS_FILE = "seeds.txt"
_DIGITS = 4


@cache
def boilerplate_seeds() -> tuple[str, ...]:
    """The seed sentences; encode them with the encoder of the sentences to compare."""
    text = files("ftm_assets.analysis.boilerplate").joinpath(SEEDS_FILE).read_text(encoding="utf-8")
    return tuple(text.splitlines())


def nearness(vectors: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Cosine of each row to the nearest boilerplate seed, -1 if there is none.

    vectors: (n, d) float32 of unit length    seeds: (p, d) float32 of unit length
    returns: (n,) float64, rounded to 4 decimals
    """
    cosines = vectors.astype(np.float64) @ seeds.astype(np.float64).T
    found: np.ndarray = np.round(cosines.max(axis=1, initial=-1.0), _DIGITS)
    return found
