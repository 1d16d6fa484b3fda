from dataclasses import replace
from datetime import date
from functools import partial
from threading import Thread

import numpy as np
import psycopg
import pytest

from ftm_assets.analysis.sentences import Sentence, Sentences
from ftm_assets.analysis.topic_summaries import Summaries
from ftm_assets.analysis.topics import Topics
from ftm_assets.analysis.vectors import in_half_precision
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages import SENTENCES, TOPICS
from ftm_assets.storage.stages.base import FirmQuarter, Provenance, StageNotMaterialized, UnknownFirm, find_firm_quarter
from ftm_assets.storage.write import stages
from ftm_assets_tests.fakes import HashEncoder, component
from ftm_assets_tests.storage.builders import (
    TEXTS,
    at_once,
    derive,
    firm,
    put,
    sentences_of,
    summaries_of,
    topics_of,
    wait_for_a_lock,
    where_is,
)
from ftm_assets_tests.storage.sql import QUARTER, all_rows, ask, load, one

STAGE_ROWS = "SELECT stage, xmin::text, written_at FROM materializations ORDER BY stage"


def read_sentences(database: Database, where: FirmQuarter) -> Sentences:
    with database.transaction() as connection:
        return SENTENCES.read(connection, where)


def read_topics(database: Database, where: FirmQuarter) -> Topics:
    with database.transaction() as connection:
        return TOPICS.read(connection, where)


# --- what is read is what was written


def test_sentences_come_back_as_they_were_written(database: Database) -> None:
    where = firm(database)
    written = sentences_of(database, where)
    put(database, where, written)

    back = read_sentences(database, where)

    assert back.content_hash == written.content_hash
    assert back.rows == written.rows
    assert np.array_equal(back.embeddings, written.embeddings)
    assert (back.names, back.encoder, back.calls) == (written.names, written.encoder, written.calls)
    assert (back.input_hash, back.reason) == (written.input_hash, None)


def test_topics_come_back_as_they_were_written(database: Database) -> None:
    where = firm(database)
    _, written, _ = derive(database, where)

    back = read_topics(database, where)

    assert back.content_hash == written.content_hash
    assert (back.topics, back.members, back.input_hash) == (written.topics, written.members, written.input_hash)
    assert [topic.n_sentences for topic in back.topics] == [3, 2]
    assert back.members[-1].topic_number is None, "prices stay outside"


def test_floats_come_back_bit_by_bit(database: Database) -> None:
    where = firm(database, texts=TEXTS[:2])
    odd = np.zeros((2, 768), np.float32)
    odd[0, :6] = in_half_precision(np.array([1 / 3, -0.0, 6e-8, -6e-5, 65504, np.pi]))
    written = replace(sentences_of(database, where), embeddings=odd)
    put(database, where, written)

    assert read_sentences(database, where).embeddings.tobytes() == odd.tobytes()


def test_a_firm_that_said_nothing_has_an_empty_partition_that_says_why(database: Database) -> None:
    where = firm(database, texts=["Please hold."], speaker_type="Operator")
    sentences, topics, summaries = derive(database, where)

    assert (len(sentences), len(topics.topics), len(summaries.summaries)) == (0, 0, 0)
    assert read_sentences(database, where).reason == "its calls hold no sentence but the operator's"
    assert read_topics(database, where).reason == "its calls hold no sentence but the operator's"
    assert read_sentences(database, where).content_hash == sentences.content_hash
    assert read_topics(database, where).content_hash == topics.content_hash


def test_a_firm_of_ten_thousand_sentences_is_written_at_once_and_stays_in_order(database: Database) -> None:
    where = firm(database, texts=["\n".join(f"Freight costs rose in plant {i} again." for i in range(10_001))])
    written = sentences_of(database, where)
    put(database, where, written)

    back = read_sentences(database, where)

    assert len(back) == 10_001
    assert back.rows[-1].sentence_id == "7_70_10000", "an order by id would have it before 7_70_1001"
    assert back.content_hash == written.content_hash


def test_calls_of_a_quarter_come_back_in_order_of_their_day(database: Database) -> None:
    firm(database, transcript_id=72, call_date=date(2021, 11, 1))
    where = firm(database, transcript_id=71, call_date=date(2021, 12, 1))

    sentences, topics, _ = derive(database, where)

    ids = [call.transcript_id for call in sentences.calls]
    assert ids == [72, 71]
    assert [row.transcript_id for row in read_sentences(database, where).rows] == [72] * 6 + [71] * 6
    assert read_sentences(database, where).content_hash == sentences.content_hash
    assert read_topics(database, where).content_hash == topics.content_hash


# --- nothing changes when nothing changed


def test_equal_content_touches_no_row(database: Database) -> None:
    where = firm(database)
    values = derive(database, where)
    rows = "SELECT xmin::text, sentence_id FROM sentences UNION ALL SELECT xmin::text, sentence_id FROM topic_sentences"
    before = ask(database, rows), ask(database, STAGE_ROWS)

    assert [put(database, where, value) for value in values] == [False] * 3

    assert (ask(database, rows), ask(database, STAGE_ROWS)) == before


def test_new_settings_with_equal_content_are_recorded_and_leave_the_rows(database: Database) -> None:
    where = firm(database)
    _, topics, _ = derive(database, where)
    everything = all_rows(database)

    assert not put(database, where, replace(topics, provenance={**topics.provenance, "settings": "others"}), code="2")

    now = all_rows(database)
    assert {table for table in now if now[table] != everything[table]} == {"materializations"}
    provenance = {"code": "2", "settings": "others", "reason": None}
    assert one(database, "SELECT provenance FROM materializations WHERE stage = 'firm_topics'") == [provenance]
    assert read_topics(database, where).content_hash == topics.content_hash


def test_what_changed_takes_along_what_was_made_from_it(database: Database) -> None:
    where, other = firm(database, 7), firm(database, 8)
    sentences, _, _ = derive(database, where)
    derive(database, other)

    assert put(database, where, replace(sentences, names=frozenset({"somebody"})))

    of = "SELECT stage FROM materializations WHERE company_id = {} ORDER BY stage"
    assert one(database, of.format(7)) == ["firm_sentences", "transcripts"]
    assert one(database, of.format(8)) == ["firm_sentences", "firm_topics", "topic_summaries", "transcripts"]
    for table in ("topics", "topic_sentences", "topic_summaries"):
        assert one(database, f"SELECT DISTINCT company_id FROM {table}") == [8], table


def test_changed_topics_take_their_summaries_along_and_nothing_else(database: Database) -> None:
    where = firm(database)
    sentences, topics, _ = derive(database, where)
    renamed = tuple(replace(topic, label="another") for topic in topics.topics)

    assert put(database, where, replace(topics, topics=renamed))

    assert one(database, "SELECT stage FROM materializations ORDER BY 1") == [
        "firm_sentences",
        "firm_topics",
        "transcripts",
    ]
    assert one(database, "SELECT label FROM topics") == ["another"] * 2
    assert one(database, "SELECT count(*) FROM topic_summaries") == [0]
    assert read_sentences(database, where).content_hash == sentences.content_hash


# --- all of it or nothing


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"sentence_id": "7_70_0000"}, psycopg.errors.UniqueViolation),
        ({"start_char": "at the start"}, TypeError),
        ({"role": None}, psycopg.errors.NotNullViolation),
        ({"transcript_id": 99}, stages.StaleInputError),
    ],
)
def test_a_write_that_fails_leaves_the_old_partition_whole(
    database: Database, bad: dict[str, object], error: type[Exception]
) -> None:
    where = firm(database)
    sentences, _, _ = derive(database, where)
    before = all_rows(database)
    last: Sentence = replace(sentences.rows[-1], **bad)  # type: ignore[arg-type]

    with pytest.raises(error):
        put(database, where, replace(sentences, rows=(*sentences.rows[:-1], last)))

    assert all_rows(database) == before


def test_a_vector_of_another_width_is_refused(database: Database) -> None:
    where = firm(database)
    sentences = sentences_of(database, where)
    with pytest.raises(psycopg.errors.DataException, match="expected 768 dimensions, not 384"):
        put(database, where, replace(sentences, embeddings=sentences.embeddings[:, :384]))
    assert one(database, "SELECT count(*) FROM sentences") == [0]


def test_topics_of_sentences_that_are_gone_say_what_to_do(database: Database) -> None:
    where = firm(database)
    _, topics, _ = derive(database, where)
    firm(database, texts=["Freight costs fell, to correct the record.", *TEXTS[1:]])

    with pytest.raises(
        stages.StaleInputError, match=r"firm_topics of firm 'ACME-INC-7' in 2021Q4 .* materialize it again"
    ):
        put(database, where, topics)

    assert one(database, "SELECT count(*) FROM topics") == [0]


# --- what cannot be written or read


def test_an_empty_value_for_a_firm_without_a_call_writes_nothing(database: Database) -> None:
    firm(database)
    where = where_is(database, quarter="2022Q1")
    assert not where.has_call
    before = all_rows(database)

    sentences, topics, _ = derive(database, where)

    assert sentences.reason == topics.reason == "ACME-INC-7 has no call in 2022Q1"
    assert read_sentences(database, where).reason == sentences.reason
    assert read_topics(database, where).content_hash == topics.content_hash
    assert all_rows(database) == before


def test_rows_for_a_firm_without_a_call_are_refused(database: Database) -> None:
    sentences = sentences_of(database, firm(database))
    with pytest.raises(stages.NoCallForFirm, match="firm 'ACME-INC-7' has no call in 2022Q1"):
        put(database, where_is(database, quarter="2022Q1"), sentences)


def test_an_unknown_firm_is_named(database: Database) -> None:
    with (
        database.transaction() as connection,
        pytest.raises(UnknownFirm, match="firm 'NOBODY-1' is not in the database; materialize transcripts"),
    ):
        find_firm_quarter(connection, QUARTER, "NOBODY-1")


def test_a_stage_that_is_not_there_is_named(database: Database) -> None:
    where = firm(database)
    with pytest.raises(StageNotMaterialized, match="firm_sentences of firm 'ACME-INC-7' in 2021Q4 is not there"):
        read_sentences(database, where)
    put(database, where, sentences_of(database, where))
    with pytest.raises(StageNotMaterialized, match="firm_topics"):
        read_topics(database, where)


# --- one encoder a quarter


def test_a_second_encoder_is_refused_within_a_quarter_and_free_in_another(database: Database) -> None:
    acme, bolt = firm(database, 7), firm(database, 8)
    other = HashEncoder(revision="2")
    put(database, acme, sentences_of(database, acme))

    with pytest.raises(stages.EncoderMismatch, match=r"2021Q4 is encoded with hash@1, not hash@2; .* --reencode"):
        put(database, bolt, sentences_of(database, bolt, other))
    with pytest.raises(stages.EncoderMismatch):
        put(database, acme, sentences_of(database, acme, other))
    assert one(database, "SELECT DISTINCT company_id FROM sentences") == [7]

    later = firm(database, 7, quarter="2022Q1", transcript_id=75, call_date=date(2022, 2, 1))
    put(database, later, sentences_of(database, later, other))
    assert ask(database, "SELECT quarter, encoder_revision FROM quarters ORDER BY 1") == [
        ("2021Q4", "1"),
        ("2022Q1", "2"),
    ]


def test_a_second_encoder_can_be_refused_before_anything_is_encoded(database: Database) -> None:
    where = firm(database)
    with database.transaction() as connection:
        stages.check_encoder(connection, QUARTER, "anything", "goes")
        stages.check_encoder(connection, "2030Q1", "anything", "goes")
    put(database, where, sentences_of(database, where))
    with database.transaction() as connection:
        stages.check_encoder(connection, QUARTER, "hash", "1")
        with pytest.raises(stages.EncoderMismatch, match=r"2021Q4 is encoded with hash@1, not hash@2; .* --reencode"):
            stages.check_encoder(connection, QUARTER, "hash", "2")


def test_reencode_frees_one_quarter_and_keeps_its_calls(database: Database) -> None:
    where = firm(database)
    derive(database, where)
    later = firm(database, quarter="2022Q1", transcript_id=75, call_date=date(2022, 2, 1))
    derive(database, later)

    with database.transaction() as connection:
        stages.reencode(connection, QUARTER)

    for table in ("sentences", "topics", "topic_sentences", "topic_summaries"):
        assert one(database, f"SELECT DISTINCT quarter FROM {table}") == ["2022Q1"], table
    assert one(database, f"SELECT stage FROM materializations WHERE quarter = '{QUARTER}'") == ["transcripts"]
    assert put(database, where, sentences_of(database, where, HashEncoder(revision="2")))
    assert read_sentences(database, where).encoder == ("hash", "2")


# --- several writers


def test_firms_of_a_new_quarter_may_be_written_at_once(database: Database) -> None:
    found = [firm(database, company_id) for company_id in (7, 8, 9)]
    works = [partial(put, database, where, sentences_of(database, where)) for where in found]

    assert at_once(*works) == [None] * 3

    assert ask(database, "SELECT company_id, count(*) FROM sentences GROUP BY 1 ORDER BY 1") == [(7, 6), (8, 6), (9, 6)]


def test_of_two_encoders_at_once_one_is_refused(database: Database) -> None:
    acme, bolt = firm(database, 7), firm(database, 8)
    one_way, other_way = sentences_of(database, acme), sentences_of(database, bolt, HashEncoder(revision="2"))

    raised = at_once(lambda: put(database, acme, one_way), lambda: put(database, bolt, other_way))

    assert sorted(type(error).__name__ for error in raised) == ["EncoderMismatch", "NoneType"]
    assert len(one(database, "SELECT DISTINCT company_id FROM sentences")) == 1


def test_two_writers_of_one_firm_take_turns(database: Database) -> None:
    where = firm(database)
    whole = sentences_of(database, where)
    half = replace(whole, rows=whole.rows[:3], embeddings=whole.embeddings[:3])

    for _ in range(5):
        assert at_once(lambda: put(database, where, whole), lambda: put(database, where, half)) == [None] * 2
        assert read_sentences(database, where).content_hash in (whole.content_hash, half.content_hash)
        assert one(database, "SELECT content_hash FROM materializations WHERE stage = 'firm_sentences'") == [
            read_sentences(database, where).content_hash
        ]


def test_calls_may_change_while_their_topics_are_being_written(database: Database) -> None:
    where = firm(database)
    sentences = sentences_of(database, where)
    put(database, where, sentences)
    corrected = [component("Freight costs fell, to correct the record.", company_id=7, transcript_id=70)]

    with database.transaction() as connection:
        topics = topics_of(sentences)
        stages.write(connection, where, topics, Provenance.of(topics))
        waiting = Thread(target=lambda: load(database, *corrected))
        waiting.start()
        wait_for_a_lock(database)
    waiting.join()

    assert one(database, "SELECT stage FROM materializations") == ["transcripts"]
    assert one(database, "SELECT text FROM components") == ["Freight costs fell, to correct the record."]


def test_a_summary_without_its_topic_is_refused(database: Database) -> None:
    where = firm(database)
    sentences, topics, summaries = derive(database, where)
    extra = replace(summaries.summaries[0], topic_number=9)
    more: Summaries = replace(
        summaries_of(topics, sentences), summaries=(*summaries.summaries[:1], extra), embeddings=summaries.embeddings
    )
    with pytest.raises(stages.StaleInputError):
        put(database, where, more)
    assert one(database, "SELECT topic_number FROM topic_summaries ORDER BY 1") == [0, 1]


def test_sql_and_python_name_the_same_voice(database: Database) -> None:
    speakers = ("Executives", "Analysts", "Unknown")
    types = ("Presenter Speech", "Question", "Answer", "Unknown")
    turns = [{"speaker_type": speaker, "type_name": name} for speaker in speakers for name in types]
    load(database, *(component(component_order=order, **turn) for order, turn in enumerate(turns)))
    sentences = sentences_of(database, where_is(database))
    put(database, where_is(database), sentences)

    stored = one(database, "SELECT utterance_type FROM sentences ORDER BY position")

    assert stored == [sentence.utterance_type for sentence in sentences.rows]
    assert set(stored) == {"remark", "answer", "question", "unknown"}
