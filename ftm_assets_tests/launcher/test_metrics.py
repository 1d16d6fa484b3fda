import re
import socket
import urllib.error
import urllib.request
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest

from devtools.processes import free_port
from ftm_assets.launcher.metrics import PortTaken, Report, ReportCollector, serving
from ftm_assets.launcher.queue import Waiting
from ftm_assets.llm.stats import ClientStats
from ftm_assets_tests.launcher.test_queue import lane, worker

NOW = datetime(2021, 11, 1, 12, tzinfo=UTC)


def report(**changes: object) -> Report:
    facts = {"reported_at": NOW, "started_at": NOW - timedelta(hours=1), "n_texts": 450, "encoding_s": 1.5, **changes}
    lanes = [
        lane(1, run_id="run", since=NOW - timedelta(seconds=3), n_runs=7, busy_s=2.5),
        lane(2, since=NOW, memory_bytes=1 << 30),
    ]
    return Report(worker(**facts), lanes, Waiting(3, 1, 60.5))


def exposition(said: Report) -> str:
    return generate_latest(ReportCollector(said)).decode()


def parse(text: str) -> dict[str, float]:
    """Sample -> value of a text in Prometheus' format 0.0.4, which is refused if anything is wrong with it."""
    assert text.endswith("\n")
    samples: dict[str, float] = {}
    families: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if help_ := re.fullmatch(r"# HELP ([a-z_]+) \S.*", line):
            families.append(help_[1])
            kind = re.fullmatch(rf"# TYPE {help_[1]} (counter|gauge)", next(lines))
            assert kind, f"the type of {help_[1]} follows its help"
            assert (kind[1] == "counter") == help_[1].endswith("_total"), help_[1]
            continue
        sample = re.fullmatch(r'([a-z_]+)(\{[a-z]+="[^"\\\n]*"\})? (-?[0-9.e+-]+)', line)
        assert sample, line
        assert sample[1] == families[-1], "samples follow their family's type"
        name = sample[1] + (sample[2] or "")
        assert name not in samples
        samples[name] = float(sample[3])
    assert len(families) == len(set(families))
    return samples


def test_a_report_is_valid_and_complete() -> None:
    samples = parse(exposition(report()))
    assert samples["ftm_worker_start_time_seconds"] == (NOW - timedelta(hours=1)).timestamp()
    assert samples["ftm_worker_report_time_seconds"] == NOW.timestamp()
    assert (samples["ftm_encoded_texts_total"], samples["ftm_encoding_seconds_total"]) == (450, 1.5)
    assert (samples["ftm_waiting_runs"], samples["ftm_waiting_clicked_runs"]) == (3, 1)
    assert samples["ftm_waiting_oldest_seconds"] == 60.5
    assert [samples[f'ftm_lane_busy{{lane="{n}"}}'] for n in (1, 2)] == [1, 0]
    assert [samples[f'ftm_lane_state_seconds{{lane="{n}"}}'] for n in (1, 2)] == [3, 0]
    assert samples['ftm_lane_memory_bytes{lane="2"}'] == 1 << 30


def test_a_worker_that_stops_and_one_that_had_an_error_say_so() -> None:
    well = parse(exposition(report()))
    assert (well["ftm_worker_stopping"], well["ftm_worker_last_error_time_seconds"]) == (0, 0)
    ill = parse(exposition(report(phase="stopping", error_at=NOW)))
    assert (ill["ftm_worker_stopping"], ill["ftm_worker_last_error_time_seconds"]) == (1, NOW.timestamp())


def test_the_language_model_is_among_the_metrics_where_there_is_one() -> None:
    found = parse(exposition(report(model=asdict(ClientStats(n_requests=7, tokens_in=90, dollars=0.5, state="well")))))
    wanted = {
        "ftm_llm_well": 1,
        "ftm_llm_requests_total": 7,
        "ftm_llm_tokens_in_total": 90,
        "ftm_llm_dollars_total": 0.5,
    }
    assert {name: found[name] for name in wanted} == wanted
    assert not any("llm" in name for name in parse(exposition(report())))


def test_metrics_are_served_on_loopback_while_the_worker_works() -> None:
    port = free_port()
    with serving(port, report):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert parse(answer.read().decode()) == parse(exposition(report()))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/secrets")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")


def test_a_worker_that_has_nothing_to_report_yet_is_not_ready() -> None:
    port = free_port()
    with serving(port, lambda: None), pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")


def test_a_port_that_is_taken_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{port} \(.*in use\); set FTM_METRICS_PORT, 0 for none"):
            serving(port, report).__enter__()


def test_with_port_0_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("ftm_assets.launcher.metrics.start_http_server")
    with serving(0, report):
        pass
