"""Documents whose clusters are known: they speak of four subjects in turn."""

import numpy as np

from ftm_assets.analysis.vectors import unit_rows

SUBJECTS = ("freight", "wages", "leases", "tariffs")
Documents = list[tuple[str, ...]]


def planted(n: int, d: int = 32, spread: float = 0.2) -> tuple[Documents, np.ndarray]:
    """Terms of n documents about the four subjects in turn, and vectors scattered around a direction for each."""
    chance = np.random.default_rng(3)
    centres = unit_rows(chance.normal(size=(len(SUBJECTS), d)))
    subjects = np.arange(n) % len(SUBJECTS)
    vectors = unit_rows(centres[subjects] + chance.normal(scale=spread / d**0.5, size=(n, d)))
    return [(SUBJECTS[subject], "costs", f"number{i % 7}") for i, subject in enumerate(subjects)], vectors


def subjects_of(assignments: np.ndarray) -> list[set[int]]:
    """The clusters that the documents about each subject are in."""
    return [set(assignments[start :: len(SUBJECTS)].tolist()) - {-1} for start in range(len(SUBJECTS))]
