import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from ftm_assets.cli.main import app
from ftm_assets.settings import read_settings
from ftm_assets.storage.read.verify import compare_source
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.cli.test_main import ftm
from ftm_assets_tests.fakes import component
from ftm_assets_tests.six_firms import six_firms
from ftm_assets_tests.storage.sql import QUARTER, load


@pytest.mark.usefixtures("defs", "instance")
def test_a_quarter_is_verified_with_its_source_until_a_row_is_missing(tmp_path: Path) -> None:
    calls = six_firms(tmp_path / "calls.csv")
    ftm("ingest", calls)
    ftm("backfill", "2021Q4")
    assert "no" not in ftm("verify", "2021q4", "--source", calls).split()
    renamed = tmp_path / "renamed.csv"
    renamed.write_text(Path(calls).read_text().replace("componenttext", "words", 1))
    assert "no" not in ftm("verify", "2021Q4", "--source", str(renamed), "--column", "componenttext=words").split()

    with Database(read_settings()).transaction() as connection:
        connection.execute(sa.text("DELETE FROM topic_sentences WHERE sentence_id = '7_70_0000'"))
    result = CliRunner().invoke(app, ["verify", "2021Q4", "--format", "json"])
    assert result.exit_code == 1
    found = {
        row["check"]: (row["n_expected"], row["n_found"]) for row in json.loads(result.stdout) if not row["is_equal"]
    }
    assert found["modelled sentences have an assignment"] == (180, 179)


def test_a_text_is_compared_as_it_is_stored(database: Database) -> None:
    turn = component(text="Half a pair \ud800 and a NUL \0 here.")
    load(database, turn)
    with database.transaction() as connection:
        compared = list(compare_source(connection, QUARTER, [turn]))
    assert compared and all(each.is_equal for each in compared)
