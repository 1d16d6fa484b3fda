from datetime import date
from pathlib import Path

import pytest

from ftm_assets.analysis.transcripts import SourceFirm
from ftm_assets.sources.transcript_source import NoCallsFound, NoSuchSource, SourceFailed, open_source, quarters_of
from ftm_assets_tests.sources.small_csv import one, rows_of, source_of

OWN = """
from datetime import datetime
from ftm_assets.analysis.transcripts import SourceFirm

class Own:
    def __init__(self, name="own"):
        self.name = name
    def firms(self, start, end):
        return []
    def read(self, quarter, firms=None):
        return iter(())

class Explaining(Own):
    def why_no_calls(self):
        return "it is closed on Mondays"

class Shy:
    name = "shy"
    def read(self, quarter, firms=None):
        return iter(())

class Broken(Own):
    def firms(self, start, end):
        raise KeyError("ticker")
    def read(self, quarter, firms=None):
        yield {}["text"]

class Frame(Own):
    def firms(self, start, end):
        days = (datetime(2021, 11, 1, 9), float("nan"))
        return [SourceFirm(7.0, "Acme Inc.", float("nan"), days)]

instance = Own("instance")
shy = Shy()

def make():
    return Own("made")

def greedy(url):
    return Own(url)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_transcripts.py").write_text(OWN)
    (tmp_path / "broken_transcripts.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_transcripts"


def test_a_path_is_a_csv(tmp_path: Path) -> None:
    calls = source_of(tmp_path, {"symbol": "AAPL", "keydeveventtypename": "Conferences"})
    assert one(open_source(str(calls.path), {"ticker": "symbol"}, ["Conferences"])).ticker == "AAPL"


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source_of(tmp_path, {})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert one(open_source("~/calls.csv")).text == "Good day."


def test_provenance_is_the_full_path_behind_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = source_of(tmp_path, {})
    (tmp_path / "latest.csv").symlink_to(str(calls.path))
    monkeypatch.chdir(tmp_path)
    assert open_source("latest.csv").name == str(calls.path.resolve())


@pytest.mark.parametrize(("attribute", "name"), [("instance", "instance"), ("make", "made"), ("Own", "own")])
def test_an_import_path_names_a_source_or_what_makes_one(own: str, attribute: str, name: str) -> None:
    assert open_source(f"{own}:{attribute}").name == name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_transcripts:instanc", r"cannot be loaded \(AttributeError: .* no attribute 'instanc'\)"),
        ("own_transcripts:shy", "is a Shy; it needs `name`, `firms` and `read`"),
        ("own_transcripts:greedy", r"cannot be loaded \(TypeError: .*without arguments"),
        ("no.such_module:thing", r"cannot be loaded \(ModuleNotFoundError: .*PYTHONPATH"),
        ("broken_transcripts:thing", "cannot be loaded .*no_such_library"),
        ("gs://bucket/calls.csv", "copy it here .*package.module:attribute"),
        ("", "no transcript source is named"),
    ],
)
@pytest.mark.usefixtures("own")
def test_a_name_that_leads_nowhere_says_why_and_what_to_do(spec: str, message: str) -> None:
    with pytest.raises(NoSuchSource, match=message):
        open_source(spec)


def test_a_source_of_ones_own_without_calls_is_named(own: str) -> None:
    with pytest.raises(NoCallsFound, match="instance holds no call that can be loaded: its `firms` names no firm"):
        quarters_of(open_source(f"{own}:instance"))


def test_a_source_of_ones_own_may_say_why_it_has_no_calls(own: str) -> None:
    with pytest.raises(NoCallsFound, match="own holds no call that can be loaded: it is closed on Mondays"):
        quarters_of(open_source(f"{own}:Explaining"))


def test_an_error_in_a_source_of_ones_own_says_where_it_arises(own: str) -> None:
    source = open_source(f"{own}:Broken")
    with pytest.raises(SourceFailed, match=r"`firms` \(.*own_transcripts.py, line \d+: raise .*KeyError: 'ticker'"):
        quarters_of(source)
    with pytest.raises(SourceFailed, match=r"`read` \(.*own_transcripts.py, line \d+: yield .*KeyError: 'text'"):
        rows_of(source)


def test_the_firms_of_a_data_frame_are_firms(own: str) -> None:
    source = open_source(f"{own}:Frame")
    assert source.firms(date.min, date.max) == [SourceFirm(7, "Acme Inc.", None, (date(2021, 11, 1),))]
    assert quarters_of(source) == {"2021Q4": 1}


def test_a_column_map_for_a_source_of_ones_own_is_refused(own: str) -> None:
    with pytest.raises(NoSuchSource, match="leave the map out"):
        open_source(f"{own}:instance", {"ticker": "symbol"})
