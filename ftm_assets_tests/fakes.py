"""Stand-ins that behave: an encoder without a model, a topic model without luck, calls of three sentences."""

import os
import re
import signal
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np

from ftm_assets.analysis.clustering import TopicModelResult
from ftm_assets.analysis.transcripts import Component
from ftm_assets.analysis.vectors import DIMENSIONS, unit_rows


@dataclass(frozen=True)
class HashEncoder:
    """Texts that share words get near vectors; the same text gets the same vector in every process."""

    name: str = "hash"
    revision: str = "1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                vectors[row, zlib.crc32(f"{self.revision} {word}".encode()) % DIMENSIONS] += 1
        return unit_rows(vectors)


@dataclass(frozen=True)
class FirstWordModel:
    """Documents that begin with the same term are one cluster; one that begins like no other, or is empty, is noise.

    n_keywords: a cluster is named by that term, and by others as far as all of its documents say them
    """

    n_keywords: int = 1

    def fit_transform(self, documents: Sequence[Sequence[str]], embeddings: np.ndarray) -> TopicModelResult:
        firsts = [document[0] if document else None for document in documents]
        counts = Counter(filter(None, firsts))
        shared = sorted((term for term, n in counts.items() if n > 1), key=lambda term: (-counts[term], term))
        assignments = np.array([shared.index(first) if first in shared else -1 for first in firsts], np.int64)
        return TopicModelResult(
            assignments,
            np.where(assignments >= 0, 1, 0).astype(np.float32),
            tuple(self._keywords([terms for terms in documents if term in terms[:1]]) for term in shared),
        )

    def _keywords(self, documents: Sequence[Sequence[str]]) -> tuple[str, ...]:
        said_by_all = [term for term in dict.fromkeys(documents[0]) if all(term in each for each in documents)]
        return tuple(said_by_all[: self.n_keywords])


def component(text: str = "Freight costs rose a lot.", **changes: object) -> Component:
    """A component of Acme's call 70 on 1 November 2021, order 0, unless told otherwise."""
    facts: dict[str, object] = {
        "row_number": 2,
        "company_id": 7,
        "company_name": "Acme Inc.",
        "ticker": "ACME",
        "transcript_id": 70,
        "call_date": date(2021, 11, 1),
        "component_order": 0,
        "type_name": "Presenter Speech",
        "speaker_type": "Executives",
        "person": "Ann Lee",
        "headline": "Acme Inc., Q3 2021 Earnings Call, Nov 01, 2021",
    }
    return Component(text=text, **{**facts, **changes})  # type: ignore[arg-type]


def at(day: int, hour: int = 0) -> datetime:
    """An instant of November 2021, UTC."""
    return datetime(2021, 11, day, hour, tzinfo=UTC)


@dataclass(frozen=True)
class FailingEncoder(HashEncoder):
    """Fails on any text with these words in it."""

    on: str = ""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if any(self.on in text for text in texts):
            raise RuntimeError("the encoder has gone")
        return super().encode(texts)


@dataclass(frozen=True)
class InterruptedEncoder(HashEncoder):
    """Whoever watches presses Ctrl-C as soon as a text with these words comes."""

    on: str = ""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if any(self.on in text for text in texts):
            os.kill(os.getpid(), signal.SIGINT)
        return super().encode(texts)
