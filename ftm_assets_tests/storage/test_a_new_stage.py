"""A stage that only this test knows: how many sentences each firm has in a quarter."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.engine import Connection

from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.sentences import Sentences
from ftm_assets.assets.metadata import Materialized
from ftm_assets.partitions import FIRM, firm_quarter_key, firm_quarters
from ftm_assets.storage import stages
from ftm_assets.storage.read.views import firm_status
from ftm_assets.storage.schema.rows import rows_as
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages import SENTENCES, STAGES
from ftm_assets.storage.stages.base import (
    FirmQuarter,
    FirmStage,
    TableRows,
    columns_of,
    of_firm_quarter,
    read_provenance,
    rows_of,
)
from ftm_assets.storage.write.io_manager import NotStored
from ftm_assets.storage.write.stages import reencode
from ftm_assets_tests.storage.builders import TEXTS, derive, firm, put, sentences_of
from ftm_assets_tests.storage.sql import QUARTER, all_rows, one
from ftm_assets_tests.storage.write.test_io_manager import firm_sentences, materialize, told, transcripts


class Base(orm.DeclarativeBase):
    """Tables of this test."""


class CountRow(Base):
    __tablename__ = "sentence_counts"

    quarter: orm.Mapped[str] = orm.mapped_column(sa.Text, primary_key=True)
    company_id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True)
    n_sentences: orm.Mapped[int] = orm.mapped_column(sa.Integer)


@dataclass(frozen=True)
class Count:
    n_sentences: int


@dataclass(frozen=True)
class SentenceCounts:
    """The value of the stage."""

    rows: tuple[Count, ...]
    input_hash: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content_hash(self) -> str:
        return content_hash(self.rows)


def count(sentences: Sentences) -> SentenceCounts:
    return SentenceCounts((Count(len(sentences)),), sentences.content_hash)


def _rows(where: FirmQuarter, value: SentenceCounts) -> Iterator[TableRows]:
    yield rows_of(where, TABLE, Count, value.rows)


def _read(connection: Connection, where: FirmQuarter) -> SentenceCounts:
    found = connection.execute(
        sa.select(*columns_of(TABLE, Count)).where(*of_firm_quarter(TABLE, where.quarter, where.company_id))
    )
    provenance = read_provenance(connection, where, COUNTS.name)
    return SentenceCounts(tuple(rows_as(Count, found)), provenance.input_hash or "")


TABLE: Any = CountRow
COUNTS = FirmStage(
    name="sentence_counts",
    value_type=SentenceCounts,
    built_from=SENTENCES.name,
    tables=(TABLE,),
    rows=_rows,
    read=_read,
)


@dg.asset(partitions_def=firm_quarters, io_manager_key="pgvector", code_version="1")
def sentence_counts(firm_sentences: Sentences) -> SentenceCounts:
    return count(firm_sentences)


@pytest.fixture
def with_counts(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database after the migration that the stage needs, and the stage among the others."""
    monkeypatch.setattr(stages, "STAGES", (*STAGES, COUNTS))
    with database.transaction() as connection:
        Base.metadata.create_all(connection)
        connection.exec_driver_sql("DROP VIEW firm_status")
        connection.exec_driver_sql(firm_status((*STAGES, COUNTS)).statements[0])
    return database


def statuses(database: Database) -> list[object]:
    """Of sentences, topics, summaries and counts."""
    return one(database, "SELECT status FROM firm_status ORDER BY stage_order")


def test_it_is_written_and_read_like_any_other(with_counts: Database) -> None:
    where = firm(with_counts)
    sentences, _, _ = derive(with_counts, where)
    written = count(sentences)

    assert put(with_counts, where, written)
    assert not put(with_counts, where, written), "the same again touches nothing"

    with with_counts.transaction() as connection:
        assert COUNTS.read(connection, where) == written
    assert one(with_counts, "SELECT n_sentences FROM sentence_counts") == [len(TEXTS)]


def test_an_asset_may_return_it_and_ask_for_it(with_counts: Database) -> None:
    @dg.asset(partitions_def=firm_quarters)
    def report(sentence_counts: SentenceCounts) -> Materialized:
        return dg.MaterializeResult(metadata={"n": sentence_counts.rows[0].n_sentences})

    derive(with_counts, firm(with_counts, 8))
    graph = [transcripts, firm_sentences, sentence_counts, report]
    key = firm_quarter_key("BOLT-CO-8", QUARTER)

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(FIRM, ["BOLT-CO-8"])
        made = materialize(with_counts, instance, key, sentence_counts, graph=graph)
        read = materialize(with_counts, instance, key, report, graph=graph)

    assert told(made) == {"sentence_counts": "replaced"}
    [event] = read.get_asset_materialization_events()
    assert event.materialization.metadata["n"].value == len(TEXTS)
    assert "Summaries, SentenceCounts, QuarterTopics" in str(NotStored("x", int))


def test_it_is_missing_then_current_then_stale(with_counts: Database) -> None:
    where = firm(with_counts)
    sentences, _, _ = derive(with_counts, where)
    assert statuses(with_counts) == ["current", "current", "current", "missing"]
    put(with_counts, where, count(sentences))
    assert statuses(with_counts) == ["current"] * 4
    put(with_counts, where, SentenceCounts((Count(5),), "other sentences"))
    assert statuses(with_counts) == ["current", "current", "current", "stale"]


def test_it_goes_with_its_sentences_and_stays_with_other_topics(with_counts: Database) -> None:
    where = firm(with_counts)
    sentences, topics, _ = derive(with_counts, where)
    put(with_counts, where, count(sentences))

    put(with_counts, where, type(topics)((), (), topics.centroids[:0], topics.input_hash, "none", topics.provenance))
    assert statuses(with_counts) == ["current", "current", "missing", "current"]

    shorter = sentences_of(with_counts, firm(with_counts, texts=TEXTS[:3]))
    put(with_counts, where, shorter)
    assert statuses(with_counts) == ["current", "missing", "missing", "missing"]
    assert all_rows(with_counts)["sentence_counts"] == []


def test_it_goes_when_the_quarter_is_encoded_again(with_counts: Database) -> None:
    where = firm(with_counts)
    put(with_counts, where, count(derive(with_counts, where)[0]))
    with with_counts.transaction() as connection:
        reencode(connection, QUARTER)
    assert statuses(with_counts) == ["missing"] * 4
    assert all_rows(with_counts)["sentence_counts"] == []


def test_every_stage_comes_after_the_one_it_is_built_from() -> None:
    known = {"transcripts"}
    for stage in STAGES:
        assert stage.built_from in known
        known.add(stage.name)


def test_the_tables_of_the_stages_are_in_order_of_their_foreign_keys() -> None:
    tables: list[Any] = [table.__table__ for stage in STAGES for table in stage.tables]
    for place, table in enumerate(tables):
        referred = {key.column.table for key in table.foreign_keys} & set(tables)
        assert referred <= set(tables[:place])
