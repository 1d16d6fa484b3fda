import json
from datetime import date

import pytest
import sqlalchemy as sa

from ftm_assets.errors import FtmError
from ftm_assets.search import EmptyQuery, EncoderUnavailable, NothingEncoded, search_text
from ftm_assets.storage.maintain.search_index import build_search_index
from ftm_assets.storage.read.queries import NoVectors
from ftm_assets.storage.read.search_index import SearchIndexSettings
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.cli.test_main import ftm
from ftm_assets_tests.fakes import HashEncoder, component
from ftm_assets_tests.storage.builders import TEXTS, derive, firm, firms, put_themes, themes_of, where_is
from ftm_assets_tests.storage.sql import QUARTER, load

FREIGHT, LATER = "theme_2021Q4_001", date(2022, 2, 1)
OTHER_REVISION = HashEncoder(revision="2")


@pytest.fixture
def published(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Two firms that talk of freight and of wages, in two themes, indexed; found by commands, with their encoder."""
    monkeypatch.setenv("FTM_DATABASE_URL", database.url())
    monkeypatch.setenv("FTM_ENCODER", "ftm_assets_tests.fakes:HashEncoder")
    firms(database, 7, 8)
    put_themes(database, themes_of(database))
    build_search_index(database, QUARTER, SearchIndexSettings())
    return database


def search(*arguments: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(ftm("search", *arguments, "-f", "json"))
    return found


@pytest.mark.usefixtures("published")
def test_a_text_finds_what_says_the_same_at_every_level() -> None:
    found = search("freight costs rose", "-n", 2)
    assert [hit["level"] for hit in found] == ["themes"] * 2 + ["topics"] * 2 + ["sentences"] * 2
    assert (found[0]["id"], found[0]["theme_id"]) == (FREIGHT, FREIGHT)
    assert {hit["id"] for hit in found[2:4]} == {"7_2021Q4_0", "8_2021Q4_0"}
    assert {hit["text"] for hit in found[4:]} == {TEXTS[0]}
    assert {hit["theme_id"] for hit in found[2:]} == {FREIGHT}


@pytest.mark.usefixtures("published")
def test_a_table_names_the_hits_and_says_nothing_of_an_index_that_is_there() -> None:
    shown = ftm("search", "freight costs rose", "--level", "sentences", "--quarter", "2021q4", "--firm", "bolt")
    assert "8_80_0000" in shown and "7_70_0000" not in shown
    assert "all rows were compared" not in shown


def test_an_answer_without_an_index_says_so_and_how_to_get_one(published: Database) -> None:
    derive(published, firm(published, 9, quarter="2022Q1", call_date=LATER))
    shown = ftm("search", "freight costs rose", "-n", 1)
    assert "2022Q1 sentences: no index, so all rows were compared" in shown
    assert "build the search index of 2022Q1 with: ftm backfill 2022Q1" in shown
    assert "2021Q4 sentences" not in shown


def test_a_role_and_a_section_narrow_the_search(published: Database) -> None:
    asked = {"company_id": 9, "transcript_id": 90, "type_name": "Question", "speaker_type": "Analysts"}
    load(
        published, component(TEXTS[1], **asked), component(TEXTS[0], transcript_id=90, company_id=9, component_order=1)
    )
    derive(published, where_is(published, 9))
    [hit] = search("freight costs rose", "--level", "sentences", "--role", "analysts", "--section", "qa")
    assert (hit["text"], hit["role"], hit["section"]) == (TEXTS[1], "analyst", "qa")
    assert search("freight", "--level", "sentences", "--role", "unknown") == []


def test_each_quarter_is_asked_with_its_own_encoder_or_not_at_all(
    published: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTM_ENCODER", "ftm_assets_tests.cli.test_search:OTHER_REVISION")
    with pytest.raises(EncoderUnavailable, match=r"2021Q4 is encoded with hash@1, .* this machine has hash@2"):
        ftm("search", "freight")
    with published.transaction() as connection:
        connection.execute(sa.text("UPDATE quarters SET encoder = './no-such-model'"))
    with pytest.raises(EncoderUnavailable, match=r"encoder folder './no-such-model' does not exist.* only other"):
        ftm("search", "freight")


def test_a_query_in_another_precision_is_the_same_query(published: Database) -> None:
    before = search("freight")
    with published.transaction() as connection:
        connection.execute(sa.text("UPDATE quarters SET encoder_revision = '1+bf16'"))
    assert search("freight") == before


def test_what_cannot_be_searched_is_refused_with_the_next_step(published: Database) -> None:
    firm(published, 9, quarter="2022Q1", call_date=LATER)
    with pytest.raises(NoVectors, match="2022Q1 has no vectors yet; make them with: ftm backfill 2022Q1"):
        search_text(published, "freight", ["2022Q1"])
    with pytest.raises(EmptyQuery, match="ftm search"):
        ftm("search", "  ")
    with pytest.raises(FtmError, match="unknown quarter '2012Q4'"):
        ftm("search", "freight", "--quarter", "2012Q4")


def test_an_empty_database_says_what_comes_first(database: Database) -> None:
    with pytest.raises(NothingEncoded, match="ftm ingest SOURCE, ftm backfill QUARTER"):
        search_text(database, "freight")


@pytest.mark.usefixtures("published")
def test_the_firms_of_a_theme_and_a_firm_over_the_quarters() -> None:
    assert [row["firm_key"] for row in json.loads(ftm("firms", FREIGHT, "-f", "json"))] == ["ACME-INC-7", "BOLT-CO-8"]
    with pytest.raises(FtmError, match="ftm themes QUARTER"):
        ftm("firms", "theme_2021Q4_999")
    [quarter] = json.loads(ftm("firm", "acme", "-f", "json"))
    assert [quarter[name] for name in ("n_calls", "n_sentences", "n_in_topics", "n_topics", "n_themes")] == [
        1,
        6,
        5,
        2,
        2,
    ]
    assert FREIGHT in ftm("firm", "acme", "--themes")
