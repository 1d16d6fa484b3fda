import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from devtools.processes import wait_for
from ftm_assets.encoder import SentenceTransformerEncoder, batches
from ftm_assets.launcher.encoder_server import (
    DIGEST_SIZE,
    CrashHistory,
    EncoderFailed,
    EncoderFailure,
    ModelLoaded,
    RemoteEncoder,
    encoder_process,
)
from ftm_assets.launcher.encoder_supervisor import EncoderProcess
from ftm_assets.processes.child import receive
from ftm_assets.processes.ipc import ProcessGone
from ftm_assets_tests.fakes import HashEncoder
from ftm_assets_tests.launcher import encoders
from ftm_assets_tests.launcher.encoders import Recording

HASH = "ftm_assets_tests.fakes:HashEncoder"
TEXTS = [f"Our costs rose {n} percent" + " again" * (n % 7) for n in range(100)]
_SPAWN = get_context("spawn")


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "encoder")


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which encoders write what they encode."""
    monkeypatch.setenv(encoders.BATCHES, str(tmp_path / "batches"))
    return tmp_path / "batches"


def batches_in(recorded: Path) -> list[list[str]]:
    """What was encoded so far; a line that is still being written is for the next look."""
    lines = recorded.read_text().splitlines(keepends=True) if recorded.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.fixture
def serve(address: str) -> Iterator[Callable[[str], Connection]]:
    """Start the encoder process with a model; returns what it tells the worker."""
    started = []

    def serve(model: str) -> Connection:
        ours, theirs = _SPAWN.Pipe()
        in_progress = _SPAWN.RawArray("c", DIGEST_SIZE + 1)
        process = _SPAWN.Process(
            target=encoder_process,
            args=(theirs, in_progress, os.getpid(), address, model, "cpu", "auto", CrashHistory()),
        )
        process.start()
        started.append((process, ours))
        theirs.close()
        return ours

    yield serve
    for process, _ in started:
        process.kill()
        process.join()


def served_at(address: str) -> RemoteEncoder:
    """The encoder as a lane has it, less patient."""
    return RemoteEncoder(address, timeout_s=10.0)


def ours(encoder: str) -> str:
    return f"{encoders.__name__}:{encoder}"


def test_served_vectors_are_those_of_the_encoder_itself_to_the_last_bit(
    serve: Callable[[str], Connection], address: str
) -> None:
    serve(ours("Recording"))
    served = served_at(address)
    assert (served.name, served.revision) == ("hash", "1")
    for n in (100, 1, 32, 33):
        vectors = served.encode(TEXTS[:n])
        assert vectors.shape == (n, 768) and vectors.dtype == np.float32
        assert vectors.tobytes() == Recording().encode(TEXTS[:n]).tobytes()


@pytest.mark.slow
def test_served_vectors_of_the_packaged_model_are_those_of_the_model_itself(
    serve: Callable[[str], Connection], address: str
) -> None:
    serve("all-MiniLM-L6-v2")
    itself = SentenceTransformerEncoder(device="cpu")
    # Meanwhile, the other process loads its own.
    vectors = itself.encode(TEXTS)
    served = served_at(address)
    assert served.encode(TEXTS).tobytes() == vectors.tobytes()
    assert (served.name, served.revision) == (itself.name, itself.revision)


def test_no_texts_need_no_process(address: str) -> None:
    assert served_at(address).encode([]).shape == (0, 768)


def test_a_batch_never_mixes_requests(serve: Callable[[str], Connection], address: str, recorded: Path) -> None:
    serve(ours("slow"))
    served_at(address).encode(["warm"])
    requests = [[f"firm {n}: {text}" for text in TEXTS[: 40 + 20 * n]] for n in range(4)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda texts: served_at(address).encode(texts), requests))
    for n, (texts, vectors) in enumerate(zip(requests, answers, strict=True)):
        mine = [batch for batch in batches_in(recorded) if any(text.startswith(f"firm {n}:") for text in batch)]
        assert mine == [[texts[row] for row in rows] for rows in batches(texts)]
        assert vectors.tobytes() == Recording().encode(texts).tobytes()


def test_the_next_batch_is_handed_over_before_the_last_one_is_waited_for(
    serve: Callable[[str], Connection], address: str, recorded: Path
) -> None:
    serve(ours("Pipelined"))
    texts = list("abcdef")
    assert served_at(address).encode(texts).tobytes() == HashEncoder().encode(texts).tobytes()
    assert batches_in(recorded) == [
        ["begin", "a"],
        ["begin", "c"],
        ["end", "a"],
        ["begin", "e"],
        ["end", "c"],
        ["end", "e"],
    ]


def test_a_batch_that_fails_late_ends_its_request_alone(
    serve: Callable[[str], Connection], address: str, recorded: Path
) -> None:
    serve(ours("Pipelined"))
    served = served_at(address)
    with pytest.raises(EncoderFailed, match="RuntimeError while 6 texts were encoded: the device has failed"):
        served.encode(["late", *"bcdef"])
    assert ["begin", "e"] not in batches_in(recorded), "what else it asked for is given up"
    assert served.encode(["a"]).tobytes() == HashEncoder().encode(["a"]).tobytes()


@pytest.mark.parametrize("texts", [["a", "b", "early"], ["a", "b", "early", "d", "e"]], ids=["last", "not the last"])
def test_a_batch_that_cannot_be_handed_over_is_answered_once(
    serve: Callable[[str], Connection], address: str, recorded: Path, texts: list[str]
) -> None:
    serve(ours("Pipelined"))
    served = served_at(address)
    with pytest.raises(EncoderFailed, match="the device takes nothing"):
        served.encode(texts)
    for n in (1, 3):  # A second answer would be taken for that of the next request.
        assert served.encode(["x"] * n).tobytes() == HashEncoder().encode(["x"] * n).tobytes()


def test_a_small_request_waits_for_a_batch_of_each_large_one_and_not_for_all_of_it(
    serve: Callable[[str], Connection], address: str, recorded: Path
) -> None:
    serve(ours("slow"))
    large = [f"large {n}" for n in range(2000)]
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(served_at(address).encode, large)
        wait_for(lambda: len(batches_in(recorded)) >= 3)
        small = served_at(address)
        for number in range(3):
            before = len(batches_in(recorded))
            small.encode([f"small {number}"])
            done = batches_in(recorded)
            # One under way when the request comes and one picked while it came, or some more on a busy machine.
            assert done.index([f"small {number}"]) - before <= 8
            assert not answer.done()
        assert len(answer.result()) == 2000


def test_a_model_that_cannot_be_loaded_is_told_to_who_asks_and_tried_again_by_the_next(
    serve: Callable[[str], Connection], address: str, recorded: Path
) -> None:
    worker = serve(ours("Absent"))
    served = served_at(address)
    with pytest.raises(EncoderFailed, match="the model is not there; put it there"):
        served.encode(TEXTS)
    with pytest.raises(EncoderFailed, match="the model is not there"):
        _ = served.revision
    recorded.touch()
    assert served.encode(["Freight."]).tobytes() == HashEncoder().encode(["Freight."]).tobytes()
    reports = list(iter(lambda: receive(worker), None))
    assert isinstance(reports[0], EncoderFailure) and reports[0].reason.endswith("the model is not there; put it there")
    assert ModelLoaded("absent", "1") in reports


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (ours("NoSuchThing"), "cannot be loaded"),
        ("ftm_assets_tests.fakes:FirstWordModel", "needs `name`, `revision` and `encode`"),
        (ours("Misshapen"), "CUDA out of memory"),
    ],
)
def test_whatever_is_wrong_with_the_model_runs_are_told_and_do_not_wait(
    serve: Callable[[str], Connection], address: str, model: str, why: str
) -> None:
    serve(model)
    with pytest.raises(EncoderFailed, match=why):
        RemoteEncoder(address, timeout_s=5.0).encode(TEXTS)


def test_a_request_that_fails_harms_no_other(serve: Callable[[str], Connection], address: str) -> None:
    worker = serve(ours("failing"))
    served, other = served_at(address), served_at(address)
    why = "RuntimeError while 32 texts were encoded: the encoder has gone"
    with pytest.raises(EncoderFailed, match=why):
        served.encode(["bad", *TEXTS[:31]])
    for well in (served, other):
        assert well.encode(TEXTS).tobytes() == HashEncoder().encode(TEXTS).tobytes()
    assert EncoderFailure(why) in list(iter(lambda: receive(worker), None))


def test_who_is_interrupted_while_he_waits_asks_again_and_the_process_forgets_what_he_asked(
    serve: Callable[[str], Connection], address: str, recorded: Path
) -> None:
    class TimeIsUp(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise TimeIsUp

    serve(ours("slow"))
    served = served_at(address)
    served.encode(["warm"])
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(TimeIsUp):
            served.encode([f"large {n}" for n in range(32 * 1000)])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert served.encode(TEXTS).tobytes() == Recording().encode(TEXTS).tobytes()
    assert len(batches_in(recorded)) < 100


def test_a_process_that_comes_later_is_waited_for(serve: Callable[[str], Connection], address: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(served_at(address).encode, TEXTS)
        time.sleep(0.3)
        serve(HASH)
        assert answer.result(30).tobytes() == HashEncoder().encode(TEXTS).tobytes()


def test_a_process_that_never_comes_is_given_up(address: str) -> None:
    with pytest.raises(ProcessGone, match="no encoder process for 1 s; see why with: ftm worker status"):
        RemoteEncoder(address, timeout_s=1.0).encode(TEXTS)


# The process as the worker keeps it


class Kept:
    """The process and what it complains of, looked at as a worker does."""

    def __init__(self, address: str, model: str) -> None:
        self.process = EncoderProcess(address, model, "cpu")
        self.errors: list[str] = []

    def until(self, condition: Callable[[], object]) -> None:
        def look() -> object:
            self.errors.extend(self.process.collect())
            return condition()

        wait_for(look)


@pytest.fixture
def keep(address: str) -> Iterator[Callable[[str], Kept]]:
    kept: list[Kept] = []

    def keep(model: str) -> Kept:
        kept.append(Kept(address, model))
        return kept[-1]

    yield keep
    for each in kept:
        each.process.close()


def test_a_process_that_is_killed_in_a_request_is_started_again_and_the_request_answered(
    keep: Callable[[str], Kept], address: str, recorded: Path
) -> None:
    kept = keep(ours("slow"))
    process = kept.process
    kept.until(lambda: process.n_loads == 1)
    assert process.loaded == ModelLoaded("hash", "1")
    served_at(address).encode(TEXTS)
    kept.until(lambda: process.progress.n_texts == 100)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(served_at(address).encode, TEXTS * 10)
        wait_for(lambda: len(batches_in(recorded)) > 8)
        assert process._process.pid
        os.kill(process._process.pid, signal.SIGKILL)
        kept.until(answer.done)
    assert answer.result().tobytes() == Recording().encode(TEXTS * 10).tobytes()
    kept.until(lambda: process.progress.n_texts >= 1100)
    assert process.n_loads == 2
    assert kept.errors == ["the encoder process ended, killed by SIGKILL; it starts again"]
    assert process.progress.encoding_s > 0


def test_a_request_over_which_three_processes_died_is_refused_and_harms_no_other(
    keep: Callable[[str], Kept], address: str
) -> None:
    kept = keep(ours("Deadly"))
    deadly = [*TEXTS, "a deadly text"]
    with ThreadPoolExecutor(4) as threads:
        well = [threads.submit(served_at(address).encode, TEXTS[n:]) for n in range(3)]
        ill = threads.submit(served_at(address).encode, deadly)
        kept.until(lambda: ill.done() and all(answer.done() for answer in well))
    with pytest.raises(EncoderFailed, match="the encoder process died each time it encoded these 101 texts"):
        ill.result()
    for n, answer in enumerate(well):
        assert answer.result().tobytes() == HashEncoder().encode(TEXTS[n:]).tobytes()
    assert kept.errors == ["the encoder process ended, killed by SIGSEGV; it starts again"] * 3
    assert kept.process.n_loads == 4


def test_a_model_that_kills_its_process_fails_requests_with_that_reason(
    keep: Callable[[str], Kept], address: str
) -> None:
    kept = keep(ours("TooLarge"))
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(served_at(address).encode, TEXTS)
        kept.until(answer.done)
    with pytest.raises(
        EncoderFailed, match="the encoder process ended while it loaded or tried its model, killed by SIGKILL"
    ):
        answer.result()
    assert len(kept.errors) == 3
    assert kept.process.n_loads == 0


def test_a_process_that_cannot_encode_anything_any_more_is_replaced_and_the_request_answered(
    keep: Callable[[str], Kept], address: str, recorded: Path
) -> None:
    kept = keep(ours("Broken"))
    texts = [*TEXTS, "This breaks it."]
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(served_at(address).encode, texts)
        kept.until(answer.done)
    assert answer.result().tobytes() == HashEncoder().encode(texts).tobytes()
    assert kept.process.n_loads == 2


def test_what_is_broken_for_good_fails_requests_with_what_it_said(
    keep: Callable[[str], Kept], address: str, recorded: Path
) -> None:
    recorded.touch()
    kept = keep(ours("Broken"))
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(served_at(address).encode, ["This breaks it."])
        kept.until(answer.done)
    with pytest.raises(EncoderFailed, match=r"ended while it loaded or tried its model, exit code 1, after: .*illegal"):
        answer.result()


@pytest.mark.slow
def test_a_process_that_hangs_is_killed_and_its_request_refused_in_the_end(
    keep: Callable[[str], Kept], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EncoderProcess, "timeout_s", 2.0)
    kept = keep(ours("Hanging"))
    with ThreadPoolExecutor(2) as threads:
        well, ill = (threads.submit(served_at(address).encode, [text]) for text in ("well", "endless"))
        kept.until(lambda: well.done() and ill.done())
    assert well.result().shape == (1, 768)
    with pytest.raises(EncoderFailed, match="died each time it encoded these 1 texts"):
        ill.result()
    assert kept.errors.count("the encoder process hangs and is killed") == 3


def test_a_lane_that_stands_still_in_the_middle_of_a_request_does_not_keep_others_waiting(
    serve: Callable[[str], Connection], address: str
) -> None:
    serve(HASH)
    served = served_at(address)
    served.encode(["warm"])
    with socket.socket(socket.AF_UNIX) as still:
        still.connect(address)
        still.sendall(b"\0\0")  # Half of the length of what would come.
        time.sleep(0.5)
        started = time.monotonic()
        assert served.encode(TEXTS).shape == (100, 768)
        assert time.monotonic() - started < 9
        assert still.recv(1) == b"", "it may ask again"


def test_the_process_ends_with_the_worker_however_that_ends(address: str) -> None:
    def worker(said: Connection) -> None:
        process = EncoderProcess(address, HASH, "cpu")
        said.send(process._process.pid)
        time.sleep(300)

    theirs, ours_ = get_context("fork").Pipe()
    starter = get_context("fork").Process(target=worker, args=(theirs,))
    starter.start()
    pid: int = ours_.recv()
    assert served_at(address).name == "hash"
    starter.kill()
    starter.join()
    wait_for(lambda: not _is_alive(pid))


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_many_threads_of_one_process_may_ask_at_once(serve: Callable[[str], Connection], address: str) -> None:
    serve(HASH)
    served = served_at(address)
    together = threading.Barrier(4)

    def ask(n: int) -> bytes:
        together.wait()
        return served.encode(TEXTS[:n]).tobytes()

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(1, 5)))
    assert found == [HashEncoder().encode(TEXTS[:n]).tobytes() for n in range(1, 5)]
