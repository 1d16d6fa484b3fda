"""What themes are worth by the text that stands for a topic: python -m bench.quality.summaries CSV QUARTER [--seeds N]

The same topics, clustered by their exemplars, by summaries of keywords, and by summaries of a language model where one
is configured (FTM_LLM_BASE_URL, FTM_LLM_MODEL, FTM_LLM_API_KEY); its replies are kept in the database's ledger, so that
a second run pays nothing. Names of rows are as in `python -m bench.quality`; survival is that of the topics in a theme.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from rich.console import Console

from bench.quality.corpus import Corpus, FirmCorpus, read_corpus
from bench.quality.measures import Coherence, diversity, survival, words_of
from bench.quality.metrics import at_least_two, deletions, mean, table_of
from bench.quality.models import Theme, Topic, ours
from ftm_assets.analysis.topic_summaries import TopicEvidence, TopicSummary, evidence_of, keyword_summary
from ftm_assets.analysis.topics import TopicSettings, fit_topics
from ftm_assets.encoder import Encoder, open_encoder
from ftm_assets.llm.guardrails import NameBlocklist
from ftm_assets.llm.protocol import LanguageModel, UsageCost
from ftm_assets.llm.topic_summaries import summarize
from ftm_assets.settings import read_settings

KIND = "communities"


@dataclass(frozen=True)
class Texts:
    """A text for each topic."""

    name: str
    texts: list[str]


def evidence(firm: FirmCorpus) -> list[TopicEvidence]:
    """What the summaries of a firm's topics rest on; the topics are those of `ours`."""
    return evidence_of(fit_topics(firm.sentences, TopicSettings(model=KIND, seed=0)), firm.sentences)


def by_keywords(corpus: Corpus) -> Texts:
    """The summary of each topic that needs no language model."""
    return Texts("keywords", [keyword_summary(topic).text for firm in corpus.firms for topic in evidence(firm)])


def by_model(corpus: Corpus, model: LanguageModel) -> tuple[Texts, UsageCost]:
    """The summary of each topic by a language model. raises: SystemExit if one has none: kinds are never mixed"""
    written: list[TopicSummary] = []
    cost = UsageCost()
    for firm in corpus.firms:
        of_firm = summarize(evidence(firm), NameBlocklist.for_firm(firm.sentences), model, corpus.quarter)
        written += of_firm.summaries
        cost += of_firm.cost
    if left := [summary.reason for summary in written if summary.source == "keywords"]:
        raise SystemExit(f"{len(left)} of {len(written)} topics have no summary by {model.name}: {left[0]}")
    return Texts(model.name, [summary.text for summary in written]), cost


def measure(corpus: Corpus, topics: Sequence[Topic], n_seeds: int) -> dict[str, str]:
    """The rows of one column."""
    themes_of = ours(KIND).themes
    themes = themes_of(topics, 0)
    others = [themes_of(topics, seed) for seed in range(1, n_seeds)]
    placed = frozenset().union(*(theme.topics for theme in themes))
    sentences = frozenset().union(*(topics[place].sentence_ids for place in placed))
    words = [words_of(theme.keywords) for theme in themes]
    coherence = Coherence(corpus.tokens, {word for of_theme in words for word in of_theme})
    firms = [len({topics[place].company_id for place in theme.topics}) for theme in themes]
    return {
        "themes": f"{len(themes)}",
        "  topics in no theme": f"{1 - len(placed) / len(topics):.3f}",
        "  sentences covered": f"{len(sentences) / corpus.n_sentences:.3f}",
        "  firms a theme, median": f"{np.median(firms):.0f}" if firms else "-",
        "  npmi": mean([coherence.npmi(of_theme) for of_theme in words]),
        "  diversity": f"{diversity([theme.keywords for theme in themes]):.3f}",
        "  cosine within a theme": mean([closeness(topics, theme) for theme in themes]),
        "  survive seeds": mean([_survive(themes, other) for other in others]),
        "  survive deletions": mean(deletions(ours(KIND), corpus, topics, themes)),
    }


def closeness(topics: Sequence[Topic], theme: Theme) -> float:
    """Mean cosine of a theme's topics to their mean."""
    rows = np.array([topics[place].vector for place in sorted(theme.topics)], np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    centre = rows.mean(axis=0)
    return float((rows @ centre).mean() / np.linalg.norm(centre))


def with_vectors(topics: Sequence[Topic], texts: Texts, encoder: Encoder) -> list[Topic]:
    """The topics, each with the vector of its text."""
    vectors = encoder.encode(texts.texts)
    return [replace(topic, vector=vector) for topic, vector in zip(topics, vectors, strict=True)]


def _survive(before: Sequence[Theme], after: Sequence[Theme]) -> float:
    return survival([theme.topics for theme in before], [theme.topics for theme in after])


def main() -> None:
    """Print a table with a column for each text."""
    parser = argparse.ArgumentParser(description="Quality of themes by the text that stands for a topic.")
    parser.add_argument("file", type=Path, help="CSV file of calls")
    parser.add_argument("quarter")
    parser.add_argument("--seeds", type=at_least_two, default=5)
    asked = parser.parse_args()
    settings, console = read_settings(), Console(width=120)
    encoder = open_encoder(settings.encoder, settings.device, settings.precision)
    corpus = read_corpus(asked.file, asked.quarter, encoder)
    topics = [topic for firm in corpus.firms for topic in ours(KIND).topics(firm, 0)]
    columns = {"exemplars": measure(corpus, topics, asked.seeds)}
    texts, note = [by_keywords(corpus)], "no language model is configured: nothing to compare the keywords with"
    if settings.llm_model:
        from ftm_assets.definitions import defs

        written, cost = by_model(corpus, cast(LanguageModel, (defs.resources or {})["language_model"]))
        texts.append(written)
        note = f"{cost.n_sent} requests, {cost.n_reused} replies reused, ${cost.dollars:.4f}"
    for each in texts:
        columns[each.name] = measure(corpus, with_vectors(topics, each, encoder), asked.seeds)
    console.print(table_of(f"{asked.quarter}: {len(corpus.firms)} firms, {len(topics):,} topics", columns))
    console.print(note)


if __name__ == "__main__":
    main()
