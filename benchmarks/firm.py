"""CPU seconds of a firm, stage by stage: ours beside the script that a researcher would write with BERTopic.

    python -m benchmarks firm CSV [2021Q4] [--firms N] [--seeds 5] [--encoded 8] [--runs launcher.json] [--json FILE]

Real calls, real Postgres, one warm process with one thread each. The script is BERTopic with our settings for a firm
(`benchmarks.quality.models`), KeyBERTInspired and MaximalMarginalRelevance, on the same modelled sentences with the
same vectors. What only we do, or both do alike, has no second column. `--runs` takes what Dagster costs from the JSON
of `python -m benchmarks launcher --light`. Vectors are kept in FTM_HOME; encoding is measured on the first firms alone.

Quality: adjusted Rand index of the assignments, outliers being a group of their own, to runs of the script with other
seeds; the script's own agreement with them is the band. What differs is more than chance: so coherence, outliers and
what survives another seed stand beside it.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.in_subprocess import apart, peak_bytes
from benchmarks.launcher import Cost, postgres_cpu_seconds
from benchmarks.quality.corpus import Corpus, FirmCorpus, read_corpus
from benchmarks.quality.measures import Coherence, survival, words_of
from benchmarks.quality.metrics import at_least_two
from benchmarks.quality.models import MIN_SENTENCES
from ftm_assets.analysis.boilerplate.seeds import boilerplate_seeds
from ftm_assets.analysis.clustering import find_keywords
from ftm_assets.analysis.communities import CommunityModel, warm_up
from ftm_assets.analysis.sentences import Sentences, measure_boilerplate, split_turns
from ftm_assets.analysis.topic_summaries import Summaries, evidence_of, keyword_summary
from ftm_assets.analysis.topics import TopicSettings, fit_topics
from ftm_assets.analysis.words import terms
from ftm_assets.assets.transcripts import TranscriptSettings, load_quarter
from ftm_assets.encoder import encode_once, folder_of, open_encoder
from ftm_assets.settings import Settings, read_settings
from ftm_assets.storage.read.queries import firms
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import Provenance, find_firm_quarter
from ftm_assets.storage.stages.transcripts import read_turns
from ftm_assets.storage.write.stages import write

MODEL = "all-MiniLM-L6-v2"
CLUSTERING = ("reduce", "cluster", "label", "exemplars")
STAGES = ("read", "split", "encode", "flag", *CLUSTERING, "write", "Postgres, read and write", "Dagster")


@dataclass
class Measured:
    """What one way took and found.

    cpu_s:    stage -> CPU seconds of each firm that it was measured on
    labels:   seed -> the cluster of each modelled sentence, firm by firm, -1 for outliers
    keywords: of every topic of the first seed
    """

    cpu_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    labels: dict[int, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    keywords: list[tuple[str, ...]] = field(default_factory=list)
    peak_bytes: int = 0

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add what happens inside to a stage's list, one entry a firm."""
        started = time.process_time()
        yield
        self.cpu_s[stage].append(time.process_time() - started)


def measure_ours(file: Path, corpus: Corpus, seeds: Sequence[int], n_encoded: int) -> Measured:
    """Each stage on each firm, from the rows of `components` to those of `topic_summaries`."""
    found = Measured()
    warm_up()
    encoder = open_encoder(MODEL, "cpu")
    of_seeds = encode_once(encoder, boilerplate_seeds())
    known = (encoder.name, encoder.revision)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        database = Database(Settings(home=Path(folder)))
        try:
            load_quarter(database, corpus.quarter, TranscriptSettings(source=str(file)))
            keys, loading_s = _partition_keys(database), postgres_cpu_seconds(Path(folder))
            for number, firm in enumerate(corpus.firms):
                with database.transaction() as connection:
                    where = find_firm_quarter(connection, corpus.quarter, keys[firm.turns.company_id])
                with found.clock("read"), database.transaction() as connection:
                    turns = read_turns(connection, where)
                with found.clock("split"):
                    rows = split_turns(turns.company_id, turns.turns, names=turns.names)
                vectors = firm.sentences.embeddings
                if number < n_encoded:
                    with found.clock("encode"):
                        encoder.encode([row.text for row in rows])
                with found.clock("flag"):
                    flagged = measure_boilerplate(rows, vectors, of_seeds)
                    sentences = Sentences.from_turns(turns, flagged, vectors, known)
                topics = _fit(found, sentences, seeds[0])
                summaries = [keyword_summary(evidence) for evidence in evidence_of(topics, sentences)]
                texts = encoder.encode([summary.text for summary in summaries])
                with found.clock("write"):
                    for value in (sentences, topics, Summaries.for_topics(topics, summaries, texts, known)):
                        with database.transaction() as connection:
                            write(connection, where, value, Provenance.of(value))
                found.keywords += [topic.keywords for topic in topics.topics]
                for seed in seeds[1:]:
                    _note(found, seed, fit_topics(sentences, TopicSettings(seed=seed)))
            serving_s = postgres_cpu_seconds(Path(folder)) - loading_s
            found.cpu_s["Postgres, read and write"] = [serving_s / len(corpus.firms)]
        finally:
            if database.embedded:
                database.embedded.stop()
    found.peak_bytes = peak_bytes()
    return found


def _fit(found: Measured, sentences: Sentences, seed: int) -> Any:
    """The topics; of the seconds that they take, those for terms and keywords are found by doing these once more."""
    settings = TopicSettings(seed=seed)
    modelled = sentences.modelled()
    started = time.process_time()
    topics = fit_topics(sentences, settings)
    whole = time.process_time() - started
    with found.clock("terms"):
        said = [terms(row.text, sentences.names) for row in modelled.rows]
    assignments = np.array([member.raw_topic for member in topics.members])
    with found.clock("cluster and label"):
        if topics.topics:
            CommunityModel(settings, settings.min_topic_size).fit_transform(said, modelled.embeddings)
    with found.clock("keywords"):
        find_keywords(said, assignments, settings.n_keywords, settings.keyword_support)
    of_terms, fit, keywords = (found.cpu_s[part][-1] for part in ("terms", "cluster and label", "keywords"))
    found.cpu_s["cluster"].append(fit - keywords)
    found.cpu_s["label"].append(of_terms + keywords)
    found.cpu_s["exemplars"].append(max(0.0, whole - of_terms - fit))
    _note(found, seed, topics)
    return topics


def _note(found: Measured, seed: int, topics: Any) -> None:
    found.labels[seed].append(np.array([member.raw_topic for member in topics.members], np.int64))


def _partition_keys(database: Database) -> dict[int, str]:
    with database.transaction() as connection:
        return {firm.company_id: firm.partition_key for firm in firms(connection)}


def measure_stock(corpus: Corpus, seeds: Sequence[int]) -> Measured:
    """The script on each firm: with KeyBERT and MMR under the first seed, the clusters alone under the others."""
    from sentence_transformers import SentenceTransformer

    found = Measured()
    transformer = SentenceTransformer(str(folder_of(MODEL)), device="cpu", local_files_only=True)
    with threadpool_limits(1):
        _script(Measured(), corpus.firms[0], seeds[0], transformer)  # Imports and compiles.
        for seed in seeds:
            for firm in corpus.firms:
                _script(found, firm, seed, transformer if seed == seeds[0] else None)
    found.peak_bytes = peak_bytes()
    return found


def _script(found: Measured, firm: FirmCorpus, seed: int, transformer: object) -> None:
    """One firm; its seconds count where there is a transformer for KeyBERT and MMR."""
    from bertopic import BERTopic
    from bertopic.representation import KeyBERTInspired, MaximalMarginalRelevance
    from hdbscan import HDBSCAN
    from sklearn.feature_extraction.text import CountVectorizer
    from umap import UMAP

    modelled = firm.sentences.modelled()
    if len(modelled) < MIN_SENTENCES:
        found.labels[seed].append(np.full(len(modelled), -1))
        return
    umap = UMAP(n_neighbors=15, n_components=10, min_dist=0.0, metric="cosine", random_state=seed)
    hdbscan = HDBSCAN(min_cluster_size=6, min_samples=2, cluster_selection_method="leaf")
    words: list[Any] = [KeyBERTInspired(), MaximalMarginalRelevance(diversity=0.3)] if transformer else []
    took: dict[str, float] = defaultdict(float)
    labelling = [("label", each, "extract_topics") for each in words]
    for part, thing, method in [("reduce", umap, "fit_transform"), ("cluster", hdbscan, "fit"), *labelling]:
        setattr(thing, method, _timed(getattr(thing, method), took, part))
    model = BERTopic(
        umap_model=umap,
        hdbscan_model=hdbscan,
        vectorizer_model=CountVectorizer(ngram_range=(1, 2), stop_words="english"),
        representation_model=words or None,
        embedding_model=transformer,
    )
    started = time.process_time()
    labels = model.fit_transform([row.text for row in modelled.rows], modelled.embeddings[:, : _width(modelled)])[0]
    whole = time.process_time() - started
    found.labels[seed].append(np.array(labels, np.int64))
    if transformer:
        for part in ("reduce", "cluster", "label"):
            found.cpu_s[part].append(took[part])
        found.cpu_s["exemplars"].append(whole - sum(took.values()))
        topics = sorted(set(labels) - {-1})
        found.keywords += [tuple(word for word, _ in model.get_topic(topic) if word) for topic in topics]


def _timed(call: Callable[..., Any], took: dict[str, float], part: str) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        value = call(*args, **kwargs)
        took[part] += time.process_time() - started
        return value

    return timed


def _width(sentences: Sentences) -> int:
    """Columns that are not padding: a script would have the model's own vectors."""
    return int(np.flatnonzero(sentences.embeddings.any(axis=0)).max()) + 1


def agreement(ours: Measured, stock: Measured, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Adjusted Rand indices firm by firm: within the script's seeds, ours to them, and within ours."""
    from sklearn.metrics import adjusted_rand_score

    first = ours.labels[seeds[0]]
    firms = range(len(first))
    pairs = list(combinations(seeds, 2))

    def mean(of: Callable[[int], list[float]]) -> list[float]:
        return [float(np.mean(of(firm))) for firm in firms]

    def within(way: Measured) -> list[float]:
        return mean(lambda f: [adjusted_rand_score(way.labels[a][f], way.labels[b][f]) for a, b in pairs])

    return {
        "stock to stock, other seeds": within(stock),
        "ours to stock": mean(
            lambda f: [adjusted_rand_score(ours.labels[seeds[0]][f], stock.labels[s][f]) for s in seeds]
        ),
        "ours to ours, other seeds": within(ours),
    }


def quality(way: Measured, corpus: Corpus, seeds: Sequence[int]) -> dict[str, float]:
    """Outliers, coherence of the keywords, and what survives another seed, as `quality` measures them."""
    first = way.labels[seeds[0]]
    keywords = [words_of(words) for words in way.keywords]
    coherence = Coherence(corpus.tokens, {word for words in keywords for word in words})
    survived = [
        survival(_groups(one), _groups(other))
        for seed in seeds[1:]
        for one, other in zip(first, way.labels[seed], strict=True)
    ]
    return {
        "topics": float(len(keywords)),
        "share of sentences in no topic": float(np.mean(np.concatenate(first) < 0)),
        "NPMI of keywords": float(np.nanmean([coherence.npmi(words) for words in keywords])),
        "topics survive another seed": float(np.nanmean(survived)),
    }


def _groups(labels: np.ndarray) -> list[frozenset[object]]:
    return [frozenset(np.flatnonzero(labels == label).tolist()) for label in range(labels.max(initial=-1) + 1)]


def spread(values: Sequence[float]) -> str:
    """Median with the middle half."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def table_of(ours: Measured, stock: Measured, n_firms: int, n_sentences: int) -> Table:
    """One row a stage: median of the firms, the middle half, and how often ours goes into the script's."""
    title = f"CPU s a firm: {n_firms} firms, {n_sentences / n_firms:.0f} sentences each; median (middle half)"
    table = Table("", title=title, title_justify="left")
    for name in ("ours", "BERTopic, KeyBERT, MMR", "ratio of the means"):
        table.add_column(name, justify="right")
    for stage in STAGES:
        here, there = ours.cpu_s.get(stage), stock.cpu_s.get(stage)
        ratio = f"{np.mean(there) / max(float(np.mean(here)), 1e-9):.1f}" if here and there else ""
        table.add_row(stage, spread(here) if here else "", spread(there) if there else "", ratio)
    wholes = [
        np.sum([way.cpu_s[stage] for stage in CLUSTERING if way.cpu_s.get(stage)], axis=0) for way in (ours, stock)
    ]
    table.add_row("reduce to exemplars", *map(spread, wholes), f"{wholes[1].mean() / wholes[0].mean():.1f}")
    table.add_row("peak memory, MB", f"{ours.peak_bytes / 1e6:,.0f}", f"{stock.peak_bytes / 1e6:,.0f}", "")
    return table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="CPU seconds of a firm, stage by stage, beside a BERTopic script.")
    parser.add_argument("file", type=Path, help="CSV file of calls")
    parser.add_argument("quarter", nargs="?", default="2021Q4")
    parser.add_argument("--firms", type=int, help="only the first so many")
    parser.add_argument("--seeds", type=at_least_two, default=5)
    parser.add_argument("--encoded", type=int, default=8, help="firms that are encoded anew, to be measured")
    parser.add_argument("--runs", type=Path, help="JSON of benchmarks.launcher --light, for what Dagster costs")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def main() -> None:
    """Measure and print."""
    asked = parser().parse_args()
    settings, console, seeds = read_settings(), Console(width=120), [42, *range(1, asked.seeds)]
    corpus = read_corpus(asked.file, asked.quarter, open_encoder(MODEL, settings.device, settings.precision))
    corpus = replace(corpus, firms=corpus.firms[: asked.firms])
    ours = apart(measure_ours, asked.file, corpus, seeds, asked.encoded)
    stock = apart(measure_stock, corpus, seeds)
    if asked.runs:
        runs = [Cost(**cost) for cost in json.loads(asked.runs.read_text())]
        ours.cpu_s["Dagster"] = [cost.cpu_per_run_s for cost in runs[-1:]]
    console.print(table_of(ours, stock, len(corpus.firms), corpus.n_sentences))
    table = Table("", "mean", "least", "most", title="Adjusted Rand index, firm by firm", title_justify="left")
    rand = agreement(ours, stock, seeds)
    for name, values in rand.items():
        table.add_row(name, *(f"{value:.3f}" for value in (np.mean(values), min(values), max(values))))
    console.print(table)
    good = {name: quality(way, corpus, seeds) for name, way in (("ours", ours), ("stock", stock))}
    table = Table("", "ours", "BERTopic, KeyBERT, MMR", title="Quality", title_justify="left")
    for measure in good["ours"]:
        table.add_row(measure, *(f"{good[way][measure]:.3f}" for way in ("ours", "stock")))
    console.print(table)
    if asked.json:
        figures = {
            "n_firms": len(corpus.firms),
            "n_sentences": corpus.n_sentences,
            "ours": {"cpu_s": dict(ours.cpu_s), "peak_bytes": ours.peak_bytes},
            "stock": {"cpu_s": dict(stock.cpu_s), "peak_bytes": stock.peak_bytes},
            "rand": rand,
            "quality": good,
        }
        asked.json.write_text(json.dumps(figures, indent=2))
