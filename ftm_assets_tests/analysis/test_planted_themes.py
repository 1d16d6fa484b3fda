"""The shipped sample through the real encoder: are the themes that were written into it found again?

Measured on the sentences that were written about a planted theme, as the mean over three seeds of both levels:

- agreement: adjusted mutual information of planted and found themes, sentences outside all themes one group of their
  own; 0 is chance, 1 is perfect
- sentences, firms: F1 of each planted theme with the found theme that fits it best, counted in sentences and in the
  firms that raise it, averaged over the planted themes. Half of the firms raise each planted theme, so that one theme
  of all firms looks good already: what counts is how much better the found themes are than that.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from statistics import fmean

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from ftm_assets.analysis.boilerplate.seeds import boilerplate_seeds
from ftm_assets.analysis.sentences import (
    CallDay,
    FirmTurns,
    Sentence,
    Sentences,
    Turn,
    measure_boilerplate,
    split_turns,
)
from ftm_assets.analysis.themes import (
    N_EXEMPLARS,
    N_KEYWORD_SENTENCES,
    QuarterTopic,
    QuarterTopics,
    Speakers,
    ThemeSettings,
    find_themes,
)
from ftm_assets.analysis.topics import TopicSettings, fit_topics
from ftm_assets.analysis.transcripts import calendar_quarter
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets.encoder import SentenceTransformerEncoder, encode_once
from ftm_assets_tests.conftest import SAMPLE

pytestmark = pytest.mark.slow  # The sample is encoded, and two quarters are made under three seeds.

SEEDS = (42, 1, 2)

Passages = Mapping[tuple[int, int], list[tuple[int, int, str]]]


@dataclass(frozen=True)
class Recovery:
    """A quarter's modelled sentences: who says them, what they were written about, and where they went.

    planted: the planted theme, None for the firm's own subjects
    found:   for each seed, the number of the found theme, 0 for none
    """

    companies: Sequence[int]
    planted: Sequence[str | None]
    found: Sequence[Sequence[int]]

    def agreement(self) -> float:
        """See above."""
        rows = [row for row, theme in enumerate(self.planted) if theme]
        planted = [self.planted[row] for row in rows]
        return float(
            np.mean([adjusted_mutual_info_score(planted, [numbers[row] for row in rows]) for numbers in self.found])
        )

    def f1(self, *, of_firms: bool) -> dict[str, float]:
        """F1 of each planted theme with the found theme that fits it best, in sentences or in firms."""
        counted = self.companies if of_firms else range(len(self.planted))
        written, found = members_of(self.planted, counted), [members_of(numbers, counted) for numbers in self.found]
        return {
            theme: round(float(np.mean([max(f1(written[theme], other) for other in by.values()) for by in found])), 2)
            for theme in sorted(filter(None, set(self.planted)))
        }

    def mean_f1(self, *, of_firms: bool) -> float:
        """F1 averaged over the planted themes."""
        return float(np.mean(list(self.f1(of_firms=of_firms).values())))

    def lift(self, *, of_firms: bool) -> float:
        """How much the F1 is above that of one theme that holds everything."""
        everything = replace(self, found=[[1] * len(self.planted)])
        return self.mean_f1(of_firms=of_firms) - everything.mean_f1(of_firms=of_firms)

    def report(self) -> str:
        """All figures, for whoever wants to know which theme is missed."""
        return (
            f"{[len(set(numbers)) - 1 for numbers in self.found]} themes, agreement {self.agreement():.3f}\n"
            f"sentences {self.f1(of_firms=False)}, lift {self.lift(of_firms=False):.3f}\n"
            f"firms {self.f1(of_firms=True)}, lift {self.lift(of_firms=True):.3f}"
        )


def members_of(names: Sequence[object], members: Sequence[int]) -> dict[object, set[int]]:
    """What goes by each name; what has none is left out."""
    found: dict[object, set[int]] = defaultdict(set)
    for name, member in zip(names, members, strict=True):
        if name:
            found[name].add(member)
    return found


def f1(one: set[int], other: set[int]) -> float:
    return 2 * len(one & other) / (len(one) + len(other))


@pytest.fixture(scope="module")
def quarters() -> dict[str, Recovery]:
    """The two quarters of the sample."""
    passages: dict[tuple[int, int], list[tuple[int, int, str]]] = defaultdict(list)
    with SAMPLE.with_name("planted_themes.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            passages[int(row["transcriptid"]), int(row["componentorder"])].append(
                (int(row["start_char"]), int(row["end_char"]), row["theme"])
            )
    firms: dict[str, list[Sentences]] = defaultdict(list)
    for (quarter, _), turns in sorted(read_turns().items()):
        firms[quarter].append(encoded(turns))
    return {quarter: recovered(quarter, of_quarter, passages) for quarter, of_quarter in firms.items()}


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


def encoded(firm: FirmTurns) -> Sentences:
    """The firm's sentences; only those that may be modelled, because encoding takes most of the time."""
    encoder = SentenceTransformerEncoder()
    rows = tuple(row for row in split_turns(firm.company_id, firm.turns) if row.boilerplate is None)
    vectors = encoder.encode([row.text for row in rows])
    measured = measure_boilerplate(rows, vectors, encode_once(encoder, boilerplate_seeds()))
    return Sentences.from_turns(firm, measured, vectors, (encoder.name, "")).modelled()


def recovered(quarter: str, firms: Sequence[Sentences], passages: Passages) -> Recovery:
    """The quarter's sentences with their themes."""
    rows = [row for sentences in firms for row in sentences.rows]
    return Recovery(
        [int(row.sentence_id.split("_")[0]) for row in rows],
        [planted_in(row, passages) for row in rows],
        [themes_of_sentences(quarter, firms, seed) for seed in SEEDS],
    )


def planted_in(sentence: Sentence, passages: Passages) -> str | None:
    """The theme of the passage that the sentence lies in."""
    for start, end, theme in passages.get((sentence.transcript_id, sentence.component_order), ()):
        if start <= sentence.start_char and sentence.end_char <= end:
            return theme
    return None


def themes_of_sentences(quarter: str, firms: Sequence[Sentences], seed: int) -> list[int]:
    """The theme of each sentence, 0 for none; a topic enters as storage hands it on, the unit mean of its best."""
    topics: list[QuarterTopic] = []
    exemplars: list[np.ndarray] = []
    went: list[tuple[int, int | None]] = []
    for company_id, sentences in enumerate(firms):
        found = fit_topics(sentences, TopicSettings(seed=seed))
        vectors = {row.sentence_id: vector for row, vector in zip(sentences.rows, sentences.embeddings, strict=True)}
        by_id = {row.sentence_id: row for row in sentences.rows}
        for topic in found.topics:
            ids = found.exemplars(topic.topic_number, N_KEYWORD_SENTENCES)
            texts = tuple(by_id[sentence_id].text for sentence_id in ids)
            similarity = fmean(by_id[sentence_id].boilerplate_similarity or 0.0 for sentence_id in ids)
            topics.append(QuarterTopic(company_id, topic.topic_number, topic.label, texts, similarity))
            best = found.exemplars(topic.topic_number, N_EXEMPLARS)
            exemplars.append(np.mean([vectors[sentence_id] for sentence_id in best], axis=0))
        went += [(company_id, member.topic_number) for member in found.members]
    rows = unit_rows(np.array(exemplars))
    of_quarter = QuarterTopics(
        quarter=quarter,
        topics=tuple(topics),
        exemplars=rows,
        summaries=rows,
        firm_hashes=dict.fromkeys(range(len(firms)), ""),
        n_expected=len(firms),
        n_by_keywords=len(topics),
        speakers={firm: Speakers(of_firm.company_name, tuple(of_firm.names)) for firm, of_firm in enumerate(firms)},
    )
    themes = find_themes(of_quarter, ThemeSettings(seed=seed, n_refits=0))
    numbers: dict[tuple[int, int | None], int] = {
        (member.company_id, member.topic_number): member.theme_number for member in themes.members
    }
    return [numbers.get(topic, 0) for topic in went]


def test_planted_passages_are_cut_into_whole_sentences(quarters: dict[str, Recovery]) -> None:
    for quarter in quarters.values():
        planted = [theme for theme in quarter.planted if theme]
        assert len(set(planted)) == 8
        assert 0.35 < len(planted) / len(quarter.planted) < 0.5


# Reached: agreement .32 and .16 (single seeds .31-.34 and .15-.17), F1 of sentences .40 and .24 where one theme of
# everything has .10, F1 of firms .87 and .76 where that has .67 and .66; 10-11 and 7-8 themes of the 8 planted. Other
# machines round otherwise, which moves a figure as much as another seed does: the floors leave room for it.
@pytest.mark.parametrize(
    ("quarter", "agreement", "sentences", "firms"), [("2024Q1", 0.27, 0.24, 0.15), ("2024Q2", 0.12, 0.1, 0.06)]
)
def test_planted_themes_are_found_again(
    quarters: dict[str, Recovery], quarter: str, agreement: float, sentences: float, firms: float
) -> None:
    found = quarters[quarter]
    assert found.agreement() > agreement, found.report()
    assert found.lift(of_firms=False) > sentences, found.report()
    assert found.lift(of_firms=True) > firms, found.report()


def test_one_theme_of_everything_is_no_recovery(quarters: dict[str, Recovery]) -> None:
    for quarter in quarters.values():
        everything = replace(quarter, found=[[1] * len(quarter.planted)])
        assert everything.agreement() == 0
        assert everything.lift(of_firms=False) == everything.lift(of_firms=True) == 0
        assert everything.mean_f1(of_firms=True) > 0.6, "so a floor for the F1 itself would say little"
