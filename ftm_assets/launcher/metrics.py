"""What the worker says of itself, for monitoring: Prometheus' text format over HTTP on loopback."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

from ftm_assets.errors import FtmError
from ftm_assets.launcher.queue import LaneReport, Waiting, WorkerReport

_Metric: TypeAlias = tuple[str, str, str, Sequence[tuple[str, float]]]


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


def exposition(report: Report) -> str:
    """The report in Prometheus' text format, version 0.0.4."""
    worker, lanes, waiting = report.worker, report.lanes, report.waiting
    now = worker.reported_at
    metrics: list[_Metric] = [
        ("worker_start_time_seconds", "gauge", "when the worker began", [("", worker.started_at.timestamp())]),
        ("worker_report_time_seconds", "gauge", "when all of this was so", [("", now.timestamp())]),
        ("worker_stopping", "gauge", "1 if no further run is begun", [("", worker.phase == "stopping")]),
        ("worker_last_error_time_seconds", "gauge", "when something last went wrong, 0 if nothing did",
         [("", worker.error_at.timestamp() if worker.error_at else 0)]),
        ("model_loads_total", "counter", "times that a model was loaded", [("", worker.n_loads)]),
        ("encoded_texts_total", "counter", "texts encoded", [("", worker.n_texts)]),
        ("encoding_seconds_total", "counter", "time spent encoding", [("", worker.encoding_s)]),
        ("gpu_memory_bytes", "gauge", "memory that the encoder holds on the GPU", [("", worker.gpu_bytes)]),
        ("waiting_runs", "gauge", "runs that no lane has taken", [("", waiting.n_runs)]),
        ("waiting_clicked_runs", "gauge", "those of them outside of backfills", [("", waiting.n_interactive)]),
        ("waiting_oldest_seconds", "gauge", "how long the oldest of them waits", [("", waiting.oldest_s)]),
        ("lane_busy", "gauge", "1 if the lane has a run", [(_of(lane), lane.run_id is not None) for lane in lanes]),
        ("lane_state_seconds", "gauge", "how long it has been busy, or idle",
         [(_of(lane), (now - lane.since).total_seconds()) for lane in lanes]),
        ("lane_runs_total", "counter", "runs it is through with", [(_of(lane), lane.n_runs) for lane in lanes]),
        ("lane_busy_seconds_total", "counter", "time it had a run", [(_of(lane), lane.busy_s) for lane in lanes]),
        ("lane_memory_bytes", "gauge", "memory it holds, shared pages too",
         [(_of(lane), lane.memory_bytes) for lane in lanes]),
    ]  # fmt: skip
    if worker.model is not None:
        metrics += _of_model(worker.model)
    lines = []
    for name, kind, says, values in metrics:
        lines += [f"# HELP ftm_{name} {says}", f"# TYPE ftm_{name} {kind}"]
        lines += [f"ftm_{name}{labels} {float(value)!r}" for labels, value in values]
    return "\n".join(lines) + "\n"


def _of_model(told: Mapping[str, Any]) -> list[_Metric]:
    return [
        ("llm_well", "gauge", "1 if the language model answers", [("", told["state"] == "well")]),
        ("llm_under_way", "gauge", "questions that it is asked or that wait", [("", told["n_under_way"])]),
        ("llm_requests_total", "counter", "requests sent to it", [("", told["n_requests"])]),
        ("llm_replies_total", "counter", "replies that came", [("", told["n_replies"])]),
        ("llm_replies_unpriced_total", "counter", "of them, with an unknown price", [("", told["n_unpriced"])]),
        ("llm_reused_total", "counter", "replies that the ledger had", [("", told["n_reused"])]),
        ("llm_unanswered_total", "counter", "questions without an answer", [("", told["n_unanswered"])]),
        ("llm_tokens_in_total", "counter", "tokens sent to it", [("", told["tokens_in"])]),
        ("llm_tokens_out_total", "counter", "tokens of its replies", [("", told["tokens_out"])]),
        ("llm_dollars_total", "counter", "what the replies cost, as far as it is known", [("", told["dollars"])]),
    ]


def _of(lane: LaneReport) -> str:
    return f'{{lane="{lane.number}"}}'


@contextmanager
def serving(port: int, report: Callable[[], Report | None]) -> Iterator[None]:
    """Answer `/metrics` on a loopback port while the block runs, from a thread; port 0: do not.

    raises: PortTaken
    """
    if port == 0:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.path in ("/", "/metrics")
            found = report() if is_known else None
            body = (exposition(found) if found else "").encode()
            self.send_response(200 if found else 503 if is_known else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a monitor asks every few seconds."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise PortTaken(port, error.strerror or str(error)) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
