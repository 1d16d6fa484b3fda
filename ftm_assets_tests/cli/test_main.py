import csv
import gzip
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from dagster._daemon.types import DaemonHeartbeat
from typer.testing import CliRunner

from ftm_assets.assets.transcripts import TranscriptSettings, load_quarter
from ftm_assets.cli.main import app
from ftm_assets.definitions import build_definitions
from ftm_assets.encoder import Encoder, SentenceTransformerEncoder
from ftm_assets.errors import FtmError
from ftm_assets.operations.backfill import by_daemon as backfills
from ftm_assets.operations.backfill.plan import OtherBackfill
from ftm_assets.storage.read.resolve import NoCall
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.sentences import VectorsArchived
from ftm_assets_tests.buckets import DENIED, Bucket, Fault
from ftm_assets_tests.fakes import FailingEncoder, HashEncoder, InterruptedEncoder
from ftm_assets_tests.six_firms import COLUMNS, six_firms, write_calls


def ftm(*arguments: object, fails: bool = False) -> str:
    """What the command prints on standard output; its error is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, FtmError):
        raise result.exception
    assert (result.exit_code != 0) == fails, result.output
    return result.stdout


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return six_firms(tmp_path / "calls.csv")


OWN_SOURCE = """
from datetime import date
from ftm_assets.analysis.transcripts import SourceFirm

class Broken:
    name = "broken"
    def firms(self, start, end):
        return [SourceFirm(7, "Acme Inc.", None, (date(2021, 11, 1),))]
    def read(self, quarter, firms=None):
        raise KeyError("text")
"""


@pytest.mark.usefixtures("instance")
def test_a_load_that_fails_says_so_once_and_without_a_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_calls.py").write_text(OWN_SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(app, ["ingest", "broken_calls:Broken"])
    assert isinstance(result.exception, FtmError)
    assert "broken_calls.py, line 10" in str(result.exception)
    printed = "".join([result.output, *capfd.readouterr()])
    assert "Stack Trace" not in printed
    assert "Traceback" not in printed


def test_from_a_file_to_themes_by_two_commands(defs: dg.Definitions, instance: dg.DagsterInstance, calls: Path) -> None:
    loaded = json.loads(ftm("ingest", calls, "--format", "json"))
    assert [(row["quarter"], row["n_firms"], row["n_components"]) for row in loaded] == [("2021Q4", 6, 180)]

    assert "themes wait" not in ftm("backfill", "2021q4")

    [status] = json.loads(ftm("status", "--format", "json"))
    assert (status["n_expected"], status["n_sentences"], status["n_themes"]) == (6, 180, 3)


@pytest.mark.usefixtures("done")
def test_the_way_down_from_a_theme_and_back_up_from_a_sentence() -> None:
    themes = list(csv.DictReader(io.StringIO(ftm("themes", "2021Q4", "-f", "csv"))))
    assert themes, "six firms that say the same make themes"
    below = json.loads(ftm("sentences", themes[0]["theme_id"], "-n", 4, "-f", "json"))
    assert {row["theme_id"] for row in below} == {themes[0]["theme_id"]}
    assert len({row["firm_key"] for row in below}) == 4, "a few sentences show many firms"

    [up] = json.loads(ftm("sentences", below[0]["sentence_id"], "-f", "json"))
    assert up == below[0]

    topics = json.loads(ftm("topics", "2021Q4", "crane", "-f", "json"))
    within = json.loads(ftm("sentences", topics[0]["topic_id"], "-n", 100, "-f", "json"))
    assert len(within) == topics[0]["n_sentences"]
    assert [row["rank"] for row in within] == list(range(1, len(within) + 1))


@pytest.mark.usefixtures("done")
def test_people_get_tables() -> None:
    assert "theme_2021Q4_001" in ftm("themes", "2021Q4")
    assert "Acme Inc." in ftm("topics", "2021Q4", "ACME")
    assert "Bolt & Co, Ltd." in ftm("calls", "2021Q4", "NA")
    assert "topics of theme_2021Q4_001" in ftm("sentences", "theme_2021Q4_001")
    assert "2021Q4" in ftm("status", "2021Q4")


@pytest.mark.usefixtures("done")
def test_the_status_of_one_quarter_tells_what_became_of_each_voice() -> None:
    [status] = json.loads(ftm("status", "2021Q4", "-f", "json"))
    whole, by_utterance_type = status["attrition"]["whole"], status["attrition"]["by_utterance_type"]
    for count in ("n_sentences", "n_modelled", "n_in_topics"):
        assert whole[count] == status[count] == sum(row[count] for row in by_utterance_type)
    assert [row["utterance_type"] for row in by_utterance_type if row["n_sentences"]] == ["remark"]
    assert 0 < whole["n_in_themes"] <= whole["n_in_topics"]

    [row] = [line.split("│")[1:] for line in ftm("status", "2021Q4").splitlines() if "remark" in line]
    assert [cell.strip() for cell in row[1:4]] == ["180", "180", "1.00"]
    assert "remark" not in ftm("status"), "of all quarters at once that would take long"


@pytest.mark.usefixtures("done")
def test_only_what_is_to_do_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    ftm("backfill", "2021Q4")
    assert "0/0" in capfd.readouterr().err
    ftm("backfill", "2021Q4", "--firm", "acme", "--all")
    assert "1/1" in capfd.readouterr().err


@pytest.mark.usefixtures("done")
def test_a_corrected_call_shows_as_stale_until_the_next_backfill(tmp_path: Path) -> None:
    ftm("ingest", six_firms(tmp_path / "again.csv", corrected=True))

    status = ftm("status", "2021Q4")
    assert "firms changed since the themes: NA-8" in status
    assert "NA-8" in status.split("firm key")[1]

    assert "firms changed" not in ftm("backfill", "2021Q4")


@pytest.fixture
def encode_with(database: Database, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch) -> Callable[[Encoder], None]:
    """Lets commands use another encoder."""

    def use(encoder: Encoder) -> None:
        graph = build_definitions(database, encoder)
        monkeypatch.setattr("ftm_assets.definitions.defs", graph)

    return use


def test_a_failed_firm_is_named_and_the_themes_wait(
    encode_with: Callable[[Encoder], None], instance: dg.DagsterInstance, calls: Path
) -> None:
    ftm("ingest", calls)
    encode_with(FailingEncoder(on="plant 3"))
    result = CliRunner().invoke(app, ["backfill", "2021Q4", "--firm", "acme"])
    assert result.exit_code == 1
    assert "failed: ACME-7" in result.stderr
    assert "the encoder has gone" in result.stderr
    assert "themes wait for 6 firms; go on with: ftm backfill 2021Q4" in result.stdout

    encode_with(HashEncoder())
    assert "themes wait" not in ftm("backfill", "2021Q4")


def test_an_encoder_that_is_nowhere_is_named_before_anything_is_run_or_dropped(
    encode_with: Callable[[Encoder], None], instance: dg.DagsterInstance, calls: Path
) -> None:
    ftm("ingest", calls)
    ftm("backfill", "2021Q4")
    n_runs = instance.get_runs_count()
    encode_with(SentenceTransformerEncoder("./no-such-model", "cpu"))
    for option in ("--reencode", "--all"):
        with pytest.raises(FtmError, match="no-such-model"):
            ftm("backfill", "2021Q4", option)
    assert instance.get_runs_count() == n_runs
    assert json.loads(ftm("status", "-f", "json"))[0]["n_complete"] == 6


def test_a_backfill_that_dagster_carries_out_is_joined_only_if_it_does_what_is_asked_for(
    instance: dg.DagsterInstance, calls: Path, defs: dg.Definitions
) -> None:
    ftm("ingest", calls)
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "BACKFILL", None, None))
    backfill_id = backfills.begin(defs, instance, "2021Q4", ["ACME-7"])
    lacks = f"carries out backfill {backfill_id} of 2021Q4, which does not "
    for options, what in ((["--firm", "crane"], "hold CRN-9"), (["--reencode"], "begin with new vectors")):
        with pytest.raises(OtherBackfill, match=lacks + what):
            ftm("backfill", "2021Q4", *options)

    instance.wipe_daemon_heartbeats()
    backfills.cancel(instance, "2021Q4")
    assert "themes wait" not in ftm("backfill", "2021Q4"), "without a daemon the command does it all"


def test_ctrl_c_stops_the_backfill_and_the_same_command_goes_on(
    encode_with: Callable[[Encoder], None], instance: dg.DagsterInstance, calls: Path
) -> None:
    ftm("ingest", calls)
    encode_with(InterruptedEncoder(on="Freight"))
    result = CliRunner().invoke(app, ["backfill", "2021Q4"])
    assert result.exit_code == 130
    assert "stopped; go on with: ftm backfill 2021Q4" in result.stderr
    assert instance.get_runs_count() == 2, "the ingest, and the one firm that was in work"

    encode_with(HashEncoder())
    assert "themes wait" not in ftm("backfill", "2021Q4")


@pytest.mark.usefixtures("done")
def test_forget_shows_first_and_deletes_only_when_told(instance: dg.DagsterInstance) -> None:
    assert "nothing was deleted" in ftm("forget", "--firm", "acme")
    assert "Acme" in ftm("calls", "2021Q4")

    ftm("forget", "--firm", "acme", "--yes")

    assert "Acme" not in ftm("calls", "2021Q4")
    assert "ACME-7" not in instance.get_dynamic_partitions("firm")
    assert "firms changed since the themes: ACME-7" in ftm("status")
    with pytest.raises(FtmError, match="no call matches"):
        ftm("forget", "--call", 70)


@pytest.mark.usefixtures("done")
def test_drop_takes_a_whole_quarter_when_told(calls: Path, instance: dg.DagsterInstance) -> None:
    assert "nothing was deleted" in ftm("drop", "2021Q4")
    assert "dropped 2021Q4 with 6 calls" in ftm("drop", "2021Q4", "--yes")
    assert "nothing is loaded yet" in ftm("status")
    assert instance.get_dynamic_partitions("firm") == []
    ftm("ingest", calls)
    ftm("backfill", "2021Q4")
    assert len(json.loads(ftm("themes", "2021Q4", "-f", "json"))) == 3


@pytest.mark.usefixtures("done")
def test_archive_drops_vectors_when_told_and_reencode_brings_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTM_ENCODER", "ftm_assets_tests.fakes:HashEncoder")
    assert "nothing was deleted; repeat with --yes to archive 2021Q4" in ftm("archive", "2021Q4")
    assert "archived 2021Q4: " in ftm("archive", "2021Q4", "--yes")
    assert "2021Q4 is archived: its sentences were not searched" in ftm("search", "freight")
    assert "2021Q4: archived on " in ftm("status", "2021Q4")
    assert json.loads(ftm("status", "-f", "json"))[0]["archived_at"]
    before = ftm("themes", "2021Q4", "-f", "json")
    for option in ("--all", "--themes", "--upgrade-summaries"):
        with pytest.raises(VectorsArchived, match=r"2021Q4 is archived: .* ftm backfill 2021Q4 --reencode"):
            ftm("backfill", "2021Q4", option)
    ftm("backfill", "2021Q4", "--reencode")
    assert ftm("themes", "2021Q4", "-f", "json") == before
    assert "archived" not in ftm("search", "freight")


@pytest.mark.usefixtures("done")
def test_a_wrong_word_gets_one_message_with_the_next_step() -> None:
    for arguments, message in {
        "status 2012Q4": "unknown quarter '2012Q4'; did you mean 2021Q4?",
        "status autumn": "'autumn' is not a quarter; write it as 2021Q4",
        "topics 2021Q4 acne": "did you mean ACME",
        "sentences theme_2021Q4_999": "no theme, topic or sentence has the id",
        "backfill 2021Q4 --firm nobody": "unknown firm 'nobody'",
        "backfill 2021Q4 --reencode --firm acme": "leave out --firm",
        "ingest nowhere.csv": "nowhere.csv",
        "ingest calls.csv --column companyid": "--column takes ours=theirs",
    }.items():
        with pytest.raises(FtmError) as error:
            ftm(*arguments.split())
        assert message in str(error.value)


def test_a_firm_without_a_call_in_the_quarter_is_told_where_it_has_some(
    defs: dg.Definitions, instance: dg.DagsterInstance, calls: Path, tmp_path: Path
) -> None:
    later = (7, "Acme Inc.", "ACME", 71, "", "2022-02-02", 0, "Answer", "Ann", "Executives", "We grew.")
    ftm("ingest", calls)
    ftm("ingest", write_calls(tmp_path / "later.csv", [later]))
    for command in ("topics 2022Q1 crane", "calls 2022Q1 crane", "backfill 2022Q1 --firm crane"):
        with pytest.raises(NoCall, match=r"CRN-9 \(The .Crane.*\) has no call in 2022Q1; it has calls in 2021Q4"):
            ftm(*command.split())


def test_a_day_that_is_none_is_refused_before_anything_is_loaded(calls: Path, instance: dg.DagsterInstance) -> None:
    result = CliRunner().invoke(app, ["ingest", str(calls), "--as-of", "soon"])
    assert result.exit_code == 2 and "'soon' does not match" in result.stderr
    assert instance.get_runs_count() == 0


def test_a_quarter_that_the_source_lacks_is_named(
    defs: dg.Definitions, instance: dg.DagsterInstance, calls: Path
) -> None:
    with pytest.raises(FtmError, match="unknown quarter of the source '2021Q3'; did you mean 2021Q4"):
        ftm("ingest", calls, "--quarter", "2021Q3")


def test_rows_that_cannot_be_used_are_counted_and_shown(
    defs: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    good = (7, "Acme Inc.", "ACME", 70, "", "2021-11-02", 0, "Answer", "Ann", "Executives", "We grew.")
    bad = (7, "Acme Inc.", "ACME", 71, "", "soon", 0, "Answer", "Ann", "Executives", "We fell.")
    path = write_calls(tmp_path / "calls.csv", [good, bad])

    [told] = json.loads(ftm("ingest", path, "-f", "json"))

    assert (told["n_rows"], told["n_components"], told["n_rejected"]) == (2, 1, 1)
    [reject] = json.loads(ftm("rejects", "-f", "json"))
    assert (reject["row_number"], reject["column"], reject["value"]) == (3, COLUMNS[5], "soon")


@pytest.mark.usefixtures("defs", "instance")
def test_objects_below_a_prefix_are_loaded_like_a_file(bucket: Bucket, calls: Path, tmp_path: Path) -> None:
    from_file = json.loads(ftm("ingest", calls, "-f", "json"))
    bucket.put("calls/2021Q4.csv.gz", gzip.compress(calls.read_bytes()))
    other = (7, "Acme Inc.", "ACME", 71, "", "2022-02-02", "x", "Answer", "Ann", "Executives", "We grew.")
    other_quarter = bucket.put("calls/2022Q1.csv", write_calls(tmp_path / "later.csv", [other]).read_bytes())

    [again, later] = json.loads(ftm("ingest", bucket.address("calls"), "-f", "json"))

    assert again == {**from_file[0], "n_new": 0, "n_unchanged": 6, "n_firms_changed": 0}
    assert (later["n_calls"], later["n_rejected"]) == (0, 1)
    [reject] = json.loads(ftm("rejects", bucket.address("calls"), "-f", "json"))
    assert (reject["source"], reject["row_number"]) == (other_quarter, 2)
    assert bucket.keys_asked() == ["calls/2021Q4.csv.gz", "calls/2022Q1.csv"] * 2, "once for the quarters, once to load"


@pytest.mark.usefixtures("defs", "instance")
def test_a_source_that_fails_at_its_last_object_leaves_nothing_behind(bucket: Bucket, calls: Path) -> None:
    bucket.put("calls/a.csv", calls.read_bytes())
    address = bucket.put("calls/b.csv", calls.read_bytes())
    for fault, message in {
        Fault(403, DENIED): f"{address}: the store refuses access",
        Fault(first=lambda: bucket.put("calls/b.csv", "x")): f"{address} was replaced",
    }.items():
        # Both for the quarters, and the first to load it.
        bucket.gate.faults.extend([Fault(), Fault(), Fault(), fault])
        with pytest.raises(FtmError, match=message):
            ftm("ingest", bucket.address("calls"))
        assert "nothing is loaded yet" in ftm("status")
        bucket.put("calls/b.csv", calls.read_bytes())


@pytest.mark.usefixtures("defs", "instance")
def test_the_address_in_the_environment_is_what_the_ui_loads(
    bucket: Bucket, calls: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTM_SOURCE", bucket.put("calls.csv", calls.read_bytes()))
    load_quarter(database, "2021Q4", TranscriptSettings())
    assert "2021Q4" in ftm("status")
    assert bucket.keys_asked() == ["calls.csv"]


def test_an_empty_database_says_what_comes_first(instance: dg.DagsterInstance) -> None:
    assert "nothing is loaded yet: ftm ingest SOURCE" in ftm("status")


@pytest.mark.usefixtures("instance")
def test_db_prints_a_url_that_works() -> None:
    with psycopg.connect(ftm("db").strip()) as connection:
        assert connection.execute("SELECT count(*) FROM firms").fetchone() == (0,)


def test_env_prints_what_dagster_needs(instance: dg.DagsterInstance) -> None:
    assert "export FTM_DAGSTER_URL=" in ftm("env")


def test_an_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    said = subprocess.run(
        [Path(sys.executable).parent / "ftm", "ingest", tmp_path / "absent.csv"], capture_output=True, text=True
    )
    assert said.returncode == 1
    assert said.stdout == ""
    assert said.stderr.startswith("error: ") and "Traceback" not in said.stderr


def test_a_setting_that_cannot_be_used_is_named() -> None:
    said = subprocess.run(
        [Path(sys.executable).parent / "ftm", "status"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "FTM_QUARTERS": "2021"},
    )
    assert said.returncode == 1
    assert "FTM_QUARTERS" in said.stderr and "Traceback" not in said.stderr


def test_the_graph_loads_without_the_heavy_libraries() -> None:
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import ftm_assets.definitions"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    modules = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in loaded.splitlines()}
    assert "dagster" in modules
    assert not modules & {"torch", "bertopic", "umap", "sknetwork", "sentence_transformers", "transformers", "hdbscan"}
