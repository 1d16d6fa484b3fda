"""Calls of a quarter as sentences with vectors, from a CSV file, without a database."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from devtools.calls import firm_turns
from ftm_assets.analysis.boilerplate.seeds import boilerplate_seeds
from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.sentences import FirmTurns, Sentences, measure_boilerplate, split_turns
from ftm_assets.analysis.words import all_terms
from ftm_assets.encoder import Encoder, encode_once
from ftm_assets.settings import read_settings
from ftm_assets.sources.csv.source import CsvSource


@dataclass(frozen=True)
class FirmCorpus:
    """A firm's turns and sentences. encoded: the vectors as the encoder made them, before they were rounded"""

    turns: FirmTurns
    sentences: Sentences
    encoded: np.ndarray


@dataclass(frozen=True)
class Corpus:
    """The firms of a quarter, in order of company id."""

    quarter: str
    firms: tuple[FirmCorpus, ...]

    @property
    def n_sentences(self) -> int:
        """Sentences of all firms, boilerplate included, operators not."""
        return sum(len(firm.sentences) for firm in self.firms)

    @cached_property
    def tokens(self) -> list[list[frozenset[str]]]:
        """The words of each turn, in order, each as scikit-learn and as we would cut it."""
        return [
            [_ways_to_cut(word) for word in turn.text.lower().split()]
            for firm in self.firms
            for turn in firm.turns.turns
        ]


def _ways_to_cut(word: str) -> frozenset[str]:
    return frozenset((*re.findall(r"\b\w\w+\b", word), *(term for term in all_terms(word) if " " not in term)))


def read_corpus(file: Path, quarter: str, encoder: Encoder) -> Corpus:
    """The calls of a quarter in the file, encoded. raises: SystemExit if it holds none"""
    firms = firm_turns(CsvSource(file), [quarter])
    if not firms:
        raise SystemExit(f"{file} holds no call of {quarter}")
    return Corpus(quarter, tuple(_firm(turns, encoder) for turns in firms))


def _firm(turns: FirmTurns, encoder: Encoder) -> FirmCorpus:
    sentences = split_turns(turns.company_id, turns.turns, names=turns.names)
    vectors = _vectors([sentence.text for sentence in sentences], encoder)
    measured = measure_boilerplate(sentences, vectors, encode_once(encoder, boilerplate_seeds()))
    return FirmCorpus(turns, Sentences.from_turns(turns, measured, vectors, (encoder.name, encoder.revision)), vectors)


def _vectors(texts: Sequence[str], encoder: Encoder) -> np.ndarray:
    """Vectors of the texts; encoding takes most of the time, so they are kept in FTM_HOME."""
    file = read_settings().home / "bench" / f"{content_hash(encoder.name, encoder.revision, texts)}.npy"
    if file.is_file():
        kept: np.ndarray = np.load(file)
        return kept
    file.parent.mkdir(parents=True, exist_ok=True)
    vectors = encoder.encode(texts)
    np.save(file, vectors)
    return vectors
