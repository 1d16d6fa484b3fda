"""Firm-quarters of a few sentences, made by the real functions with an encoder and a topic model that need no luck."""

from collections.abc import Callable, Sequence
from threading import Barrier, Thread
from time import monotonic, sleep

from ftm_assets.analysis.sentences import Sentences, split_turns
from ftm_assets.analysis.themes import Themes, ThemeSettings, find_themes
from ftm_assets.analysis.topic_summaries import Summaries, evidence_of, keyword_summary
from ftm_assets.analysis.topics import Topics, TopicSettings, fit_topics
from ftm_assets.storage.read.quarter_topics import read_quarter_topics
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import FirmQuarter, Provenance, StageValue, find_firm_quarter
from ftm_assets.storage.stages.transcripts import read_turns
from ftm_assets.storage.write.stages import write
from ftm_assets.storage.write.themes import publish
from ftm_assets_tests.fakes import FirstWordModel, HashEncoder, component
from ftm_assets_tests.storage.sql import QUARTER, ask, load, one

ENCODER = HashEncoder()
NAMES = {7: "Acme Inc.", 8: "Bolt & Co", 9: "Crane Works", 10: "Dune Group"}
# Sentences that begin with the same word are a topic: 0 is freight, 1 is wages; prices stay outside.
TEXTS = (
    "Freight costs rose a lot.",
    "Freight rates doubled since spring.",
    "Freight is what hurt us.",
    "Wages rose in our plants.",
    "Wages went up again today.",
    "Prices held steady this year.",
)
TOPIC_SETTINGS = TopicSettings(min_sentences=4)
# One keyword is all that this model gives.
THEME_SETTINGS = ThemeSettings(min_theme_size=2, max_firm_share=0.5, min_keywords_said=0)


def firm(
    database: Database, company_id: int = 7, texts: Sequence[str] = TEXTS, quarter: str = QUARTER, **facts: object
) -> FirmQuarter:
    """A firm with one call, in which it says the texts."""
    name = NAMES.get(company_id, f"Firm {company_id}")
    about = {"company_id": company_id, "company_name": name, "ticker": None, **facts}
    about.setdefault("transcript_id", company_id * 10)
    load(database, *(component(text, component_order=i, **about) for i, text in enumerate(texts)), quarter=quarter)
    return where_is(database, company_id, quarter)


def where_is(database: Database, company_id: int = 7, quarter: str = QUARTER) -> FirmQuarter:
    """The firm-quarter, as the partition key of the firm finds it."""
    [key] = one(database, f"SELECT partition_key FROM firms WHERE company_id = {company_id}")
    with database.transaction() as connection:
        return find_firm_quarter(connection, quarter, str(key))


def sentences_of(database: Database, where: FirmQuarter, encoder: HashEncoder = ENCODER) -> Sentences:
    """The firm's sentences, made from its turns."""
    with database.transaction() as connection:
        turns = read_turns(connection, where)
    rows = split_turns(turns.company_id, turns.turns)
    vectors = encoder.encode([row.text for row in rows])
    return Sentences.from_turns(turns, rows, vectors, (encoder.name, encoder.revision))


def topics_of(sentences: Sentences) -> Topics:
    """The sentences' topics, by their first word."""
    return fit_topics(sentences, TOPIC_SETTINGS, FirstWordModel())


def summaries_of(topics: Topics, sentences: Sentences, encoder: HashEncoder = ENCODER) -> Summaries:
    """The topics' summaries, by keywords."""
    written = [keyword_summary(topic) for topic in evidence_of(topics, sentences)]
    return Summaries.for_topics(
        topics,
        written,
        encoder.encode([summary.text for summary in written]),
        (encoder.name, encoder.revision),
    )


def put(database: Database, where: FirmQuarter, value: StageValue, **provenance: object) -> bool:
    """Write one stage in a transaction of its own; returns whether its rows were replaced."""
    with database.transaction() as connection:
        return write(connection, where, value, Provenance.of(value, None, **provenance))


def derive(database: Database, where: FirmQuarter) -> tuple[Sentences, Topics, Summaries]:
    """The three stages of the firm, made and written."""
    sentences = sentences_of(database, where)
    topics = topics_of(sentences)
    summaries = summaries_of(topics, sentences)
    for value in (sentences, topics, summaries):
        put(database, where, value)
    return sentences, topics, summaries


def firms(database: Database, *company_ids: int, texts: Sequence[str] = TEXTS) -> list[FirmQuarter]:
    """Firms that all say the same, every stage written."""
    found = [firm(database, company_id, texts) for company_id in company_ids]
    for where in found:
        derive(database, where)
    return found


def themes_of(database: Database, settings: ThemeSettings = THEME_SETTINGS) -> Themes:
    """The quarter's themes from what is there now, by the first keyword of its topics."""
    with database.transaction() as connection:
        topics = read_quarter_topics(connection, QUARTER)
    return find_themes(topics, settings, FirstWordModel())


def put_themes(database: Database, themes: Themes) -> bool:
    """Publish; returns whether that made a new run."""
    with database.transaction() as connection:
        return publish(connection, themes, Provenance.of(themes)).changed


def wait_for_a_lock(database: Database) -> None:
    """Return once somebody waits for somebody else."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    deadline = monotonic() + 30
    while not ask(database, waiting):
        assert monotonic() < deadline, "nobody waits"
        sleep(0.01)


def at_once(*works: Callable[[], object]) -> list[BaseException | None]:
    """Start all works at the same moment; what each one raised."""
    start = Barrier(len(works))
    raised: list[BaseException | None] = [None] * len(works)

    def run(i: int) -> None:
        start.wait()
        try:
            works[i]()
        except Exception as error:
            raised[i] = error

    threads = [Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised
