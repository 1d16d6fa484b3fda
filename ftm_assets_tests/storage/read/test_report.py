from datetime import date

import numpy as np
import pytest
import sqlalchemy as sa

from ftm_assets.storage.read.report import Configuration, NoThemes, QuarterReport, StageSeconds, read_report
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import Provenance
from ftm_assets.storage.write.stages import write
from ftm_assets_tests.storage.builders import (
    TEXTS,
    THEME_SETTINGS,
    derive,
    firm,
    firms,
    put,
    put_themes,
    sentences_of,
    summaries_of,
    themes_of,
    topics_of,
)
from ftm_assets_tests.storage.sql import QUARTER

PRICES = ("Prices fell in the autumn.", "Prices rose in the winter.", "Prices are what they are.")


def read(database: Database) -> QuarterReport:
    with database.transaction() as connection:
        return read_report(connection, QUARTER)


def change(database: Database, statement: str) -> None:
    with database.transaction() as connection:
        connection.execute(sa.text(statement))


def test_a_report_tells_the_run_its_themes_and_what_is_in_none(database: Database) -> None:
    firms(database, 7, 8)
    firms(database, 9, texts=(*TEXTS[:3], *PRICES))
    themes = themes_of(database)
    put_themes(database, themes)

    report = read(database)

    assert (report.quarter, report.run.run_number, report.run.n_firms, report.run.n_topics) == (QUARTER, 1, 3, 6)
    assert report.run.settings == THEME_SETTINGS
    assert [theme.row.label for theme in report.themes] == ["freight", "wages"]
    assert np.array_equal(report.centroids, themes.centroids)
    freight, wages = (theme.row for theme in report.themes)
    assert (freight.n_firms, freight.n_topics, freight.n_sentences, freight.stability) == (3, 3, 9, None)
    assert freight.top_firm_share == freight.concentration == pytest.approx(1 / 3)
    assert report.share_of_modelled(freight) == 9 / 18
    assert report.share_of_modelled(wages) == 4 / 18
    assert [(topic.label, topic.firm_name, topic.n_sentences) for topic in report.without_theme] == [
        ("prices", "Crane Works", 3)
    ]


def test_examples_are_the_best_sentences_of_several_firms(database: Database) -> None:
    firms(database, 7, 8, 9, 10)
    put_themes(database, themes_of(database))
    freight = read(database).themes[0]
    assert [said.rank for said in freight.examples] == [1, 1, 1]
    assert len({said.firm_key for said in freight.examples}) == 3


def test_the_funnel_is_that_of_the_day_of_publishing(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    then = read(database)
    assert then.attrition == then.run.attrition == then.status.attrition

    firm(database, 7, texts=("Freight costs fell, to correct the record.",))

    now = read(database)
    assert now.attrition == then.attrition != now.status.attrition
    change(database, "UPDATE theme_runs SET attrition = NULL")
    assert read(database).attrition == now.status.attrition, "a run of the first schema has kept none"


def test_firms_that_the_themes_were_made_without_are_named(database: Database) -> None:
    firms(database, 7, 8)
    firm(database, 9)
    put_themes(database, themes_of(database))
    assert [(gone.partition_key, gone.name) for gone in read(database).missing] == [("CRANE-WORKS-9", "Crane Works")]


def test_seconds_are_summed_over_the_firms_that_were_measured(database: Database) -> None:
    for company_id, seconds in ((7, 1.0), (8, 2.0), (9, 6.0), (10, None)):
        where = firm(database, company_id)
        sentences = sentences_of(database, where)
        topics = topics_of(sentences)
        with database.transaction() as connection:
            write(connection, where, sentences, Provenance.of(sentences, seconds))
        put(database, where, topics)
        put(database, where, summaries_of(topics, sentences))
    put_themes(database, themes_of(database))

    stages = read(database).stages

    assert stages == (
        StageSeconds("firm_sentences", 4, 3, 9.0, 2.0, 6.0),
        StageSeconds("firm_topics", 4, 0, None, None, None),
        StageSeconds("topic_summaries", 4, 0, None, None, None),
    )


def test_each_way_in_which_firms_were_made_is_told_with_how_many(database: Database) -> None:
    firms(database, 7, 8)
    derive(database, firm(database, 9, texts=["Please hold."], speaker_type="Operator"))
    where = firm(database, 10)
    put(database, where, sentences_of(database, where), code="2")
    put_themes(database, themes_of(database))

    sentences, other, *_ = read(database).configurations

    assert (sentences.stage, sentences.n_firms, "code" in sentences.provenance) == ("firm_sentences", 3, False)
    assert isinstance(other, Configuration)
    assert (other.stage, other.n_firms, other.provenance["code"]) == ("firm_sentences", 1, "2")


def test_a_run_that_found_no_theme_has_a_report_that_says_what_it_rejected(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, themes_of(database, THEME_SETTINGS.model_copy(update={"min_firms": 3})))
    report = read(database)
    assert (report.themes, report.centroids.shape, report.run.rejected) == ((), (0, 768), {"fewer than 3 firms": 2})


def test_without_themes_it_is_told_how_to_make_them(database: Database) -> None:
    firms(database, 7)
    firm(database, 8, quarter="2022Q1", transcript_id=85, call_date=date(2022, 2, 1))
    with pytest.raises(NoThemes, match="no themes were published for 2021Q4 yet; make them with: ftm backfill 2021Q4"):
        read(database)
