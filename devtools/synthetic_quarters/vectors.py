"""Vectors that lie as those of real sentences do: around topics, which lie around themes, in 384 dimensions.

What `Mix` holds was measured on the 46 firms of a real quarter, encoded with all-MiniLM-L6-v2; docs/architecture.md
compares the two.
"""

from dataclasses import dataclass

import numpy as np

from ftm_assets.analysis.vectors import unit_rows

N_DIMENSIONS = 384


@dataclass(frozen=True)
class Mix:
    """How long each part of a vector is, squared, before the whole is scaled to length one.

    common:    what all sentences share
    theme, firm, topic, sentence: what those of one theme, firm or topic share, and what is a sentence's own
    topic_spread, sentence_spread: by how much the last two differ from one to the next (log-normal)
    decay:     variance falls with the dimension's number to this power
    """

    common: float = 0.146
    theme: float = 0.13
    firm: float = 0.017
    topic: float = 0.15
    sentence: float = 0.60
    topic_spread: float = 0.5
    sentence_spread: float = 0.6
    decay: float = 0.8


class Space:
    """Draws directions whose variance decays from one dimension to the next, and mixes them."""

    def __init__(self, mix: Mix, common: np.random.Generator) -> None:
        self.mix = mix
        weights = np.arange(1, N_DIMENSIONS + 1, dtype=np.float64) ** -mix.decay
        # Dimensions in a random order, as an encoder has them.
        self._scale = common.permutation(np.sqrt(weights)).astype(np.float32)
        self._common = self.directions(common, 1)

    def directions(self, draw: np.random.Generator, n: int) -> np.ndarray:
        """(n, 384) float32 of length one."""
        return unit_rows(draw.standard_normal((n, N_DIMENSIONS), dtype=np.float32) * self._scale)

    def centres(self, draw: np.random.Generator, themes: np.ndarray, firm: np.ndarray | float = 0.0) -> np.ndarray:
        """Middles of topics, one for each row of `themes`: (k, 384) float32, not of length one."""
        mix, n = self.mix, len(themes)
        own = np.sqrt(mix.topic * draw.lognormal(0, 2 * mix.topic_spread, n))[:, None]
        shared = np.sqrt(mix.common) * self._common + np.sqrt(mix.firm) * firm
        middles = shared + np.sqrt(mix.theme) * themes + own * self.directions(draw, n)
        return np.asarray(middles, np.float32)

    def around(self, draw: np.random.Generator, middles: np.ndarray, closeness: float = 1.0) -> np.ndarray:
        """A sentence near each middle, nearer where `closeness` is above one: (n, 384) float32 of length one."""
        mix, n = self.mix, len(middles)
        lengths = np.sqrt(mix.sentence * draw.lognormal(0, 2 * mix.sentence_spread, n) / closeness)
        return unit_rows(middles + lengths.astype(np.float32)[:, None] * self.directions(draw, n))
