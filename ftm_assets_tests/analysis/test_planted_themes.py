"""The shipped sample through the real encoder: are the themes that were written into it found again?

Measured over five seeds of the theme stage, on the sentences that were written about a planted theme:

- agreement: adjusted mutual information of planted and found theme, sentences outside all themes one group of their
  own; 0 is chance, 1 is perfect
- sentences, firms: F1 of each planted theme with the found theme that fits it best, counted in sentences and in firms
  that raise it, averaged over the planted themes
"""

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from ftm_assets.analysis.sentences import CallDay, FirmTurns, Sentence, Sentences, Turn, split_turns
from ftm_assets.analysis.themes import QuarterTopic, QuarterTopics, Themes, ThemeSettings, find_themes
from ftm_assets.analysis.topics import fit_topics
from ftm_assets.analysis.transcripts import calendar_quarter
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets.resources.encoder import SentenceTransformerEncoder
from ftm_assets_tests.conftest import SAMPLE

SEEDS = (42, 1, 2, 3, 4)
N_EXEMPLARS = 3

Passages = Mapping[tuple[int, int], list[tuple[int, int, str]]]


@dataclass(frozen=True)
class Spoken:
    """One modelled sentence: what it was written about (None: the firm's own), and where it went."""

    company_id: int
    planted: str | None
    topic_number: int | None


@dataclass(frozen=True)
class Quarter:
    """The sentences of a quarter with their topics, and the topics as they enter the themes."""

    spoken: tuple[Spoken, ...]
    topics: QuarterTopics

    @cached_property
    def found(self) -> list[Themes]:
        """The themes, once for each seed."""
        return [find_themes(self.topics, ThemeSettings(seed=seed)) for seed in SEEDS]

    def themes_of_sentences(self, themes: Themes) -> list[int]:
        """The theme of each sentence, 0 for none."""
        number = {(m.company_id, m.topic_number): m.theme_number for m in themes.members}
        return [number.get((s.company_id, s.topic_number), 0) if s.topic_number is not None else 0 for s in self.spoken]

    @cached_property
    def agreement(self) -> float:
        """See above."""
        planted = [i for i, sentence in enumerate(self.spoken) if sentence.planted]
        return float(
            np.mean(
                [
                    adjusted_mutual_info_score([self.spoken[i].planted for i in planted], [numbers[i] for i in planted])
                    for numbers in map(self.themes_of_sentences, self.found)
                ]
            )
        )

    def best_f1(self, *, of_firms: bool) -> dict[str, float]:
        """F1 of each planted theme with the found theme that fits it best, in sentences or in firms."""
        scores: dict[str, list[float]] = defaultdict(list)
        for themes in self.found:
            numbers = self.themes_of_sentences(themes)
            planted, found = defaultdict(set), defaultdict(set)
            for i, (sentence, number) in enumerate(zip(self.spoken, numbers, strict=True)):
                counted = sentence.company_id if of_firms else i
                planted[sentence.planted].add(counted)
                found[number].add(counted)
            for name in filter(None, planted):
                scores[name].append(
                    max(
                        2 * len(planted[name] & members) / (len(planted[name]) + len(members))
                        for number, members in found.items()
                        if number
                    )
                )
        return {name: round(float(np.mean(scores[name])), 2) for name in sorted(scores)}

    def report(self) -> str:
        """All figures, for whoever wants to know which theme is missed."""
        return (
            f"{self.topics.quarter}: {len(self.topics.topics)} topics, {[len(t.themes) for t in self.found]} themes, "
            f"agreement {self.agreement:.3f}\n  sentences {self.best_f1(of_firms=False)}\n"
            f"  firms {self.best_f1(of_firms=True)}"
        )


@pytest.fixture(scope="module")
def quarters() -> dict[str, Quarter]:
    """The two quarters of the sample."""
    passages: dict[tuple[int, int], list[tuple[int, int, str]]] = defaultdict(list)
    with SAMPLE.with_name("planted_themes.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            passages[int(row["transcriptid"]), int(row["componentorder"])].append(
                (int(row["start_char"]), int(row["end_char"]), row["theme"])
            )
    firms: dict[str, list[FirmTurns]] = defaultdict(list)
    for (quarter, _), turns in sorted(read_turns().items()):
        firms[quarter].append(turns)
    return {quarter: modelled(quarter, of_quarter, passages) for quarter, of_quarter in firms.items()}


def read_turns() -> dict[tuple[str, int], FirmTurns]:
    """The turns of each quarter and firm."""
    rows: dict[tuple[str, int], list[dict[str, str]]] = defaultdict(list)
    with SAMPLE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            quarter = calendar_quarter(date.fromisoformat(row["mostimportantdateutc"]))
            rows[quarter, int(row["companyid"])].append(row)
    return {
        (quarter, company_id): FirmTurns(
            company_id,
            of_firm[0]["companyname"],
            tuple(CallDay(n, date.min) for n in sorted({int(row["transcriptid"]) for row in of_firm})),
            tuple(
                Turn(
                    int(row["transcriptid"]),
                    int(row["componentorder"]),
                    row["transcriptcomponenttypename"],
                    row["speakertypename"],
                    row["transcriptpersonname"],
                    row["componenttext"],
                )
                for row in of_firm
            ),
            "",
        )
        for (quarter, company_id), of_firm in rows.items()
    }


def modelled(quarter: str, firms: list[FirmTurns], passages: Passages) -> Quarter:
    """The quarter as storage hands it on: a topic's vector is the unit mean of its best sentences."""
    encoder = SentenceTransformerEncoder()
    spoken: list[Spoken] = []
    topics: list[QuarterTopic] = []
    exemplars: list[np.ndarray] = []
    for firm in firms:
        # Encoding takes most of the time, and what is not modelled has no part in this.
        rows = tuple(row for row in split_turns(firm.company_id, firm.turns) if row.boilerplate is None)
        sentences = Sentences.of(firm, rows, encoder.encode([row.text for row in rows]), (encoder.name, ""))
        found = fit_topics(sentences)
        vectors = {row.sentence_id: vector for row, vector in zip(rows, sentences.embeddings, strict=True)}
        for topic in found.topics:
            topics.append(QuarterTopic(firm.company_id, topic.topic_number, topic.label, topic.keywords))
            best = found.exemplars(topic.topic_number, N_EXEMPLARS)
            exemplars.append(np.mean([vectors[sentence_id] for sentence_id in best], axis=0))
        spoken += [
            Spoken(firm.company_id, planted_in(row, passages), member.topic_number)
            for row, member in zip(rows, found.members, strict=True)
        ]
    matrix = unit_rows(np.array(exemplars))
    return Quarter(
        tuple(spoken),
        QuarterTopics(
            quarter=quarter,
            topics=tuple(topics),
            exemplars=matrix,
            summaries=matrix,
            firm_hashes={firm.company_id: "" for firm in firms},
            n_expected=len(firms),
            n_by_keywords=len(topics),
        ),
    )


def planted_in(sentence: Sentence, passages: Passages) -> str | None:
    """The theme of the passage that the sentence lies in."""
    for start, end, theme in passages.get((sentence.transcript_id, sentence.component_order), ()):
        if start <= sentence.start_char and sentence.end_char <= end:
            return theme
    return None


def test_planted_passages_are_cut_into_whole_sentences(quarters: dict[str, Quarter]) -> None:
    for quarter in quarters.values():
        planted = [sentence.planted for sentence in quarter.spoken if sentence.planted]
        assert len(set(planted)) == 8
        assert 0.35 < len(planted) / len(quarter.spoken) < 0.5


# Other machines round otherwise, and that moves a figure as much as another seed does: the floors leave room for it.
@pytest.mark.parametrize(
    ("quarter", "agreement", "sentences", "firms"), [("2024Q1", 0.2, 0.25, 0.7), ("2024Q2", 0.07, 0.12, 0.58)]
)
def test_planted_themes_are_found_again(
    quarters: dict[str, Quarter], quarter: str, agreement: float, sentences: float, firms: float
) -> None:
    found = quarters[quarter]
    assert found.agreement > agreement, found.report()
    assert np.mean(list(found.best_f1(of_firms=False).values())) > sentences, found.report()
    assert np.mean(list(found.best_f1(of_firms=True).values())) > firms, found.report()
