"""What the worker reports for monitoring: Prometheus' text format over HTTP on loopback."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ftm_assets.errors import FtmError
from ftm_assets.launcher.queue import LaneReport, Waiting, WorkerReport

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class PortTaken(FtmError):
    """Something else listens where the metrics should be."""

    def __init__(self, port: int, reason: str) -> None:
        super().__init__(f"cannot serve metrics on 127.0.0.1:{port} ({reason}); set FTM_METRICS_PORT, 0 for none")


@dataclass(frozen=True)
class Report:
    """The worker, its lanes and what waits for them at one moment."""

    worker: WorkerReport
    lanes: Sequence[LaneReport]
    waiting: Waiting


@dataclass(frozen=True)
class ReportCollector(Collector):
    """The metrics of one report."""

    report: Report

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        worker, waiting = self.report.worker, self.report.waiting
        now, error_at = worker.reported_at, worker.error_at
        yield _metric("worker_start_time_seconds", "when the worker began", worker.started_at.timestamp())
        yield _metric("worker_report_time_seconds", "when all of this was so", now.timestamp())
        yield _metric("worker_stopping", "1 if no further run is begun", worker.phase == "stopping")
        yield _metric(
            "worker_last_error_time_seconds",
            "when something last went wrong, 0 if nothing did",
            error_at.timestamp() if error_at else 0,
        )
        yield _metric("model_loads_total", "times that a model was loaded", worker.n_loads)
        yield _metric("encoded_texts_total", "texts encoded", worker.n_texts)
        yield _metric("encoding_seconds_total", "time spent encoding", worker.encoding_s)
        yield _metric("gpu_memory_bytes", "memory that the encoder holds on the GPU", worker.gpu_bytes)
        yield _metric("waiting_runs", "runs that no lane has taken", waiting.n_runs)
        yield _metric("waiting_clicked_runs", "those of them outside of backfills", waiting.n_interactive)
        yield _metric("waiting_oldest_seconds", "how long the oldest of them waits", waiting.oldest_s)
        if worker.model is not None:
            yield from _of_language_model(worker.model)

        def by_lane(name: str, description: str, value: Callable[[LaneReport], float]) -> Metric:
            return _metric(name, description, {str(lane.number): value(lane) for lane in self.report.lanes})

        yield by_lane("lane_busy", "1 if the lane has a run", lambda lane: lane.run_id is not None)
        yield by_lane(
            "lane_state_seconds", "how long it has been busy, or idle", lambda lane: (now - lane.since).total_seconds()
        )
        yield by_lane("lane_runs_total", "runs that it has ended", lambda lane: lane.n_runs)
        yield by_lane("lane_busy_seconds_total", "time it had a run", lambda lane: lane.busy_s)
        yield by_lane("lane_memory_bytes", "memory it holds, shared pages too", lambda lane: lane.memory_bytes)


def _of_language_model(progress: Mapping[str, Any]) -> Iterator[Metric]:
    yield _metric("llm_well", "1 if the language model answers", progress["state"] == "well")
    yield _metric("llm_under_way", "questions that it is asked or that wait", progress["n_under_way"])
    yield _metric("llm_requests_total", "requests sent to it", progress["n_requests"])
    yield _metric("llm_replies_total", "replies that came", progress["n_replies"])
    yield _metric("llm_replies_unpriced_total", "of them, with an unknown price", progress["n_unpriced"])
    yield _metric("llm_reused_total", "replies that the ledger had", progress["n_reused"])
    yield _metric("llm_unanswered_total", "questions without an answer", progress["n_unanswered"])
    yield _metric("llm_tokens_in_total", "tokens sent to it", progress["tokens_in"])
    yield _metric("llm_tokens_out_total", "tokens of its replies", progress["tokens_out"])
    yield _metric("llm_dollars_total", "what the replies cost, as far as it is known", progress["dollars"])


def _metric(name: str, description: str, value: float | Mapping[str, float]) -> Metric:
    """A metric of the worker, or one with a value for each lane; what ends with _total is a counter."""
    family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    if not isinstance(value, Mapping):
        return family(f"ftm_{name}", description, value=value)
    of_lanes = family(f"ftm_{name}", description, labels=["lane"])
    for lane, of_lane in value.items():
        of_lanes.add_metric([lane], of_lane)
    return of_lanes


@contextmanager
def serving(port: int, report: Callable[[], Report | None]) -> Iterator[None]:
    """Answer `/metrics` on a loopback port while the block runs, from a thread; port 0: do not.

    raises: PortTaken
    """
    if port == 0:
        yield
        return
    try:
        server, thread = start_http_server(port, "127.0.0.1", CollectorRegistry())
    except OSError as error:
        raise PortTaken(port, error.strerror or str(error)) from error
    server.set_app(_metrics_app(report))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _metrics_app(report: Callable[[], Report | None]) -> "WSGIApplication":
    """Answers `/` and `/metrics`; 503 until there is a report, so that a monitor sees that the worker is not ready."""

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Any:
        is_known = environ["PATH_INFO"] in ("/", "/metrics")
        if is_known and (now := report()):
            return make_wsgi_app(ReportCollector(now))(environ, start_response)
        start_response("503 Service Unavailable" if is_known else "404 Not Found", [])
        return []

    return answer
