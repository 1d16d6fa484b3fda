"""Encoders that take next to no time."""

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ftm_assets.analysis.vectors import DIMENSIONS, unit_rows


class LightEncoder:
    """A vector for each text, from its letters."""

    name = "light"
    revision = "1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`."""
        seeds = np.array([zlib.crc32(text.encode()) for text in texts], np.uint32)
        waves = np.sin(seeds[:, None] * np.arange(1, DIMENSIONS + 1, dtype=np.float64))
        return unit_rows(waves.astype(np.float32))


class WordEncoder:
    """The mean of the vectors of a text's words, each drawn from its letters: texts that share words are near."""

    name = "words"
    revision = "1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`."""
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = np.mean([_of_word(word) for word in text.lower().split()] or [_of_word("")], axis=0)
        return unit_rows(vectors)


@lru_cache(maxsize=2**14)
def _of_word(word: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).normal(size=DIMENSIONS).astype(np.float32)
