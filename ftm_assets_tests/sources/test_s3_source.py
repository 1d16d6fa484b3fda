import gzip
import tracemalloc
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from ftm_assets.analysis.transcripts import Component, Reject
from ftm_assets.sources.csv.columns import BadColumns
from ftm_assets.sources.csv.file import SourceUnreadable
from ftm_assets.sources.s3.source import BadAddress
from ftm_assets.sources.transcript_source import NoCallsFound, open_source, quarters_of
from ftm_assets_tests.buckets import Bucket, Fault
from ftm_assets_tests.conftest import SAMPLE
from ftm_assets_tests.sources.small_csv import csv_text, one, rows_of, source

EARLIER = {"transcriptid": "1", "mostimportantdateutc": "2021-07-28", "ticker": "OLD"}
LATER = {"transcriptid": "2", "mostimportantdateutc": "2021-10-28", "ticker": "NEW"}


def test_an_object_is_read_as_a_file_is(bucket: Bucket, tmp_path: Path) -> None:
    text = csv_text({}, {"componentorder": "x"}, {"componenttext": "A\0B", "componentorder": "2"})
    of_file = rows_of(source(tmp_path, text))
    assert len(of_file) == 4
    for key, content in (("calls.csv", text.encode()), ("calls.csv.gz", gzip.compress(text.encode()))):
        address = bucket.put(key, content)
        assert rows_of(open_source(address)) == [replace(row, source=address) for row in of_file]


def test_column_map_and_events_are_those_of_a_file(bucket: Bucket) -> None:
    address = bucket.put("calls.csv", csv_text({"symbol": "AAPL", "keydeveventtypename": "Conferences"}))
    assert one(open_source(address, {"ticker": "symbol"}, ["Conferences"])).ticker == "AAPL"


def test_objects_below_a_prefix_are_one_source_and_each_row_names_its_own(bucket: Bucket) -> None:
    bucket.put("2021/b.csv", csv_text({}, {"componentorder": "x"}))
    bucket.put("2021/a.csv.gz", gzip.compress(csv_text({"transcriptid": "7"}).encode()))
    calls = open_source(bucket.address("2021"))
    assert calls.name == bucket.address("2021")
    assert [(row.source.rpartition("/")[2], row.row_number) for row in rows_of(calls)] == [
        ("a.csv.gz", 2),
        ("b.csv", 2),
        ("b.csv", 3),
    ]


def test_a_row_with_broken_quotes_names_its_object_too(bucket: Bucket) -> None:
    address = bucket.put("calls.csv", csv_text({}) + '"he said "hello" to us"\n')
    component, reject = rows_of(open_source(address))
    assert isinstance(component, Component)
    assert isinstance(reject, Reject)
    assert (reject.source, reject.row_number) == (address, 3)


def test_a_firm_has_the_calls_of_all_objects_and_the_name_of_its_latest(bucket: Bucket) -> None:
    bucket.put("calls/a.csv", csv_text(LATER, {**LATER, "companyid": "8"}))
    bucket.put("calls/b.csv", csv_text(EARLIER))
    bolt, apple = open_source(bucket.address("calls")).firms(date.min, date.max)
    assert (bolt.company_id, bolt.call_dates) == (8, (date(2021, 10, 28),))
    assert (apple.ticker, apple.call_dates) == ("NEW", (date(2021, 7, 28), date(2021, 10, 28)))
    [apple] = open_source(bucket.address("calls")).firms(date(2021, 7, 1), date(2021, 9, 30))
    assert (apple.ticker, apple.call_dates) == ("OLD", (date(2021, 7, 28),))


# --- How much is read -----------------------------------------------------------------------------------------------


def test_quarters_are_read_from_the_objects_that_speak_of_them_once_the_quarters_were_sought(bucket: Bucket) -> None:
    bucket.put("calls/a.csv", csv_text(EARLIER))
    bucket.put("calls/b.csv", csv_text(LATER))
    bucket.put("calls/c.csv", csv_text(LATER, {**LATER, "mostimportantdateutc": "soon"}))
    assert quarters_of(open_source(bucket.address("calls"))) == {"2021Q3": 1, "2021Q4": 1}
    assert bucket.keys_asked() == ["calls/a.csv", "calls/b.csv", "calls/c.csv"]

    bucket.gate.asked.clear()
    assert len(rows_of(open_source(bucket.address("calls")), "2021Q3")) == 2
    # A row without a day is reported for every quarter.
    assert bucket.keys_asked() == ["calls/a.csv", "calls/c.csv"]


def test_an_object_that_was_written_since_is_read_whatever_it_said_before(bucket: Bucket) -> None:
    bucket.put("calls/a.csv", csv_text(EARLIER))
    quarters_of(open_source(bucket.address("calls")))
    bucket.put("calls/a.csv", csv_text(LATER))
    assert one(open_source(bucket.address("calls")), "2021Q4").ticker == "NEW"


def test_a_quarter_of_its_own_is_read_once(bucket: Bucket) -> None:
    address = bucket.put("calls.csv", csv_text({}))
    one(open_source(address))
    assert bucket.keys_asked() == ["calls.csv"]


def test_the_month_is_looked_for_in_the_copy(bucket: Bucket) -> None:
    rows = [{"mostimportantdateutc": "10/28/2021", "componentorder": str(i)} for i in range(40_000)]
    content = csv_text(*rows)
    calls = open_source(bucket.put("calls.csv", content))
    assert len(rows_of(calls)) == 40_000
    assert bucket.keys_asked() == ["calls.csv"]


def test_memory_does_not_grow_with_the_object(bucket: Bucket) -> None:
    text = "word " * 4_000
    rows = [{"componentorder": str(i), "componenttext": text} for i in range(1_000)]
    # Packed it is small: the store is in the same process.
    calls = open_source(bucket.put("calls.csv.gz", gzip.compress(csv_text(*rows).encode())))
    peaks: list[int] = []
    # What the threads of the store allocate at times counts, too.
    while not peaks or (min(peaks) >= 1e6 and len(peaks) < 10):
        a_pass = calls.read("2021Q4")
        next(a_pass)
        tracemalloc.start()
        assert sum(1 for _ in a_pass) == 999
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < 1e6, "20 MB pass through less than one"


# --- What fails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["s3://", "s3:///calls.csv"])
def test_an_address_without_a_bucket_is_refused_at_once(address: str) -> None:
    with pytest.raises(BadAddress, match=rf"'{address}' names no bucket; write s3://bucket/prefix or"):
        open_source(address)


def test_nothing_is_asked_for_before_it_is_read() -> None:
    assert open_source("s3://no-such-bucket/calls.csv").name == "s3://no-such-bucket/calls.csv"


def test_a_truncated_gzip_tells_object_and_row(bucket: Bucket) -> None:
    packed = gzip.compress(SAMPLE.read_bytes())
    address = bucket.put("calls.csv.gz", packed[: len(packed) // 2])
    n_rows = 0
    with pytest.raises(SourceUnreadable, match=rf"{address} breaks off after row \d+ \(.*upload it again"):
        for _ in open_source(address).read("2024Q1"):
            n_rows += 1
    assert n_rows > 0


def test_a_fault_of_one_object_is_a_fault_of_the_source(bucket: Bucket) -> None:
    bucket.put("calls/a.csv", csv_text({}))
    bad = bucket.put("calls/b.csv", "a,b\n1,2\n")
    empty = bucket.put("others/a.csv", "")
    with pytest.raises(BadColumns, match=f"{bad} has no column 'companyid'"):
        rows_of(open_source(bucket.address("calls")))
    with pytest.raises(SourceUnreadable, match=f"{empty} has no rows"):
        rows_of(open_source(bucket.address("others")))


def test_objects_without_calls_say_what_they_hold_instead(bucket: Bucket) -> None:
    address = bucket.put("calls/a.csv", csv_text({"keydeveventtypename": "Conferences"}))
    with pytest.raises(NoCallsFound, match=rf"holds no call .*: {address}: 1 rows; 1 of 'Conferences' where calls are"):
        quarters_of(open_source(bucket.address("calls")))


def test_what_comes_over_a_connection_that_breaks_is_what_is_in_the_file(bucket: Bucket) -> None:
    packed = gzip.compress(SAMPLE.read_bytes())
    address = bucket.put("calls.csv.gz", packed)
    bucket.gate.faults.extend(Fault(cut_at=len(packed) // 5) for _ in range(4))
    of_file = rows_of(open_source(str(SAMPLE)), "2024Q1")
    assert rows_of(open_source(address), "2024Q1") == [replace(row, source=address) for row in of_file]
    assert len(bucket.gate.asked) == 5
