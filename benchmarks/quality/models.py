"""What is compared: our stages, and the script that a researcher would write with BERTopic alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from benchmarks.quality.corpus import FirmCorpus
from ftm_assets.analysis.themes import (
    N_EXEMPLARS,
    N_KEYWORD_SENTENCES,
    QuarterTopic,
    QuarterTopics,
    Speakers,
    ThemeSettings,
    find_themes,
)
from ftm_assets.analysis.topics import Topics, TopicSettings, fit_topics
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets.encoder import Encoder

MIN_SENTENCES = 20


@dataclass(frozen=True)
class Topic:
    """A firm's topic: the ids of its sentences, and what the second level is told of it."""

    company_id: int
    sentence_ids: frozenset[str]
    keywords: tuple[str, ...]
    label: str
    vector: np.ndarray
    text: str
    sentences: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    boilerplate_similarity: float = 0.0


@dataclass(frozen=True)
class Theme:
    """A theme: the places of its topics among all, and its words."""

    topics: frozenset[int]
    keywords: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Model:
    """Topics of a firm, and themes of the topics of a quarter; both take a seed. Flagged sentences may be left out."""

    name: str
    models_flagged: bool
    topics: Callable[[FirmCorpus, int], list[Topic]]
    themes: Callable[[Sequence[Topic], int], list[Theme]]


def ours(kind: str) -> Model:
    """The stages of the graph with a clustering model of ours, `communities` or `bertopic`."""

    def topics(firm: FirmCorpus, seed: int) -> list[Topic]:
        found = fit_topics(firm.sentences, TopicSettings(model=kind, seed=seed))
        return [_topic(firm, found, number) for number in range(len(found.topics))]

    def themes(quarter: Sequence[Topic], seed: int) -> list[Theme]:
        found = find_themes(quarter_of(quarter), ThemeSettings(model=kind, seed=seed, n_refits=0))
        places: dict[int, set[int]] = {theme.theme_number: set() for theme in found.themes}
        for member in found.members:
            places[member.theme_number].add(member.topic_number)
        return [Theme(frozenset(places[t.theme_number]), t.keywords, t.label) for t in found.themes]

    return Model(f"ours, {kind}", False, topics, themes)


def quarter_of(topics: Sequence[Topic]) -> QuarterTopics:
    """Topics as the theme stage takes them; their place is their number."""
    rows = unit_rows(np.array([topic.vector for topic in topics]))
    hashes = {topic.company_id: "" for topic in topics}
    members = tuple(
        QuarterTopic(t.company_id, n, t.label, t.sentences, t.boilerplate_similarity) for n, t in enumerate(topics)
    )
    speakers = {topic.company_id: Speakers("", tuple(topic.names)) for topic in topics}
    return QuarterTopics("", members, rows, rows, hashes, len(hashes), len(topics), speakers=speakers)


def _topic(firm: FirmCorpus, found: Topics, number: int) -> Topic:
    rows = {
        row.sentence_id: (row, vector)
        for row, vector in zip(firm.sentences.rows, firm.sentences.embeddings, strict=True)
    }
    best = found.exemplars(number, N_EXEMPLARS)
    spoken = [rows[sentence_id][0] for sentence_id in found.exemplars(number, N_KEYWORD_SENTENCES)]
    topic = found.topics[number]
    return Topic(
        firm.turns.company_id,
        frozenset(member.sentence_id for member in found.members if member.topic_number == number),
        topic.keywords,
        topic.label,
        np.mean([rows[sentence_id][1] for sentence_id in best], axis=0),
        spoken[0].text,
        tuple(row.text for row in spoken),
        firm.sentences.names,
        fmean(row.boilerplate_similarity or 0.0 for row in spoken),
    )


def stock(encoder: Encoder) -> Model:
    """A plain BERTopic script: on the sentences of each firm, then on keywords and best sentence of each topic."""
    from bertopic import BERTopic
    from hdbscan import HDBSCAN
    from sklearn.feature_extraction.text import CountVectorizer
    from umap import UMAP

    def fit(
        texts: list[str], vectors: np.ndarray, umap: dict[str, float], hdbscan: dict[str, object], seed: int
    ) -> tuple[BERTopic, list[int]]:
        model = BERTopic(
            umap_model=UMAP(**umap, metric="cosine", random_state=seed),
            hdbscan_model=HDBSCAN(**hdbscan),
            vectorizer_model=CountVectorizer(ngram_range=(1, 2), stop_words="english"),
        )
        return model, model.fit_transform(texts, vectors)[0]

    def topics(firm: FirmCorpus, seed: int) -> list[Topic]:
        rows, vectors = firm.sentences.rows, firm.sentences.embeddings
        if len(rows) < MIN_SENTENCES:
            return []
        umap = {"n_neighbors": 15, "n_components": 10, "min_dist": 0.0}
        hdbscan = {"min_cluster_size": 6, "min_samples": 2, "cluster_selection_method": "leaf"}
        model, found = fit([row.text for row in rows], vectors, umap, hdbscan, seed)
        made = []
        for number in sorted(set(found) - {-1}):
            keywords = tuple(word for word, _ in model.get_topic(number) if word)
            text = f"{', '.join(keywords)}. {model.get_representative_docs(number)[0]}"
            members = frozenset(row.sentence_id for row, topic in zip(rows, found, strict=True) if topic == number)
            made.append(Topic(firm.turns.company_id, members, keywords, ", ".join(keywords[:3]), np.empty(0), text))
        encoded = encoder.encode([topic.text for topic in made])
        return [replace(topic, vector=vector) for topic, vector in zip(made, encoded, strict=True)]

    def themes(quarter: Sequence[Topic], seed: int) -> list[Theme]:
        umap = {"n_neighbors": 30, "n_components": 15, "min_dist": 0.05}
        hdbscan = {"min_cluster_size": 10, "min_samples": 3, "cluster_selection_method": "eom"}
        vectors = np.array([topic.vector for topic in quarter])
        model, found = fit([topic.text for topic in quarter], vectors, umap, hdbscan, seed)
        return [
            Theme(
                frozenset(place for place, theme in enumerate(found) if theme == number),
                keywords := tuple(word for word, _ in model.get_topic(number) if word),
                ", ".join(keywords[:3]),
            )
            for number in sorted(set(found) - {-1})
        ]

    return Model("stock BERTopic", True, topics, themes)
