"""The encoder process, which owns the device and loads the model once, and the client that lanes use in its place.

A batch never mixes requests: the same texts encoded together with others differ by 3e-7, which is enough to change a
clustering. So a request is cut into batches by its own texts alone, as it is without the process, and the process is
fair between batches: requests take turns, one batch each. The next batch is handed over before the process waits for
the last one, so that its texts are tokenized while a GPU computes.
"""

import ctypes
import hashlib
import os
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import cast

import numpy as np

from ftm_assets.analysis.vectors import DIMENSIONS
from ftm_assets.encoder import Encoder, batches_of, begin, open_encoder
from ftm_assets.errors import FtmError
from ftm_assets.processes.child import die_with
from ftm_assets.processes.ipc import IpcClient
from ftm_assets.settings import Precision

_HEARTBEAT_S = 1.0
_RETRY_LOAD_S = 60.0
_CLIENT_TIMEOUT = struct.pack("ll", 5, 0)  # A struct timeval.
DIGEST_SIZE = 40
# Decision 46.
LOADING = b"loading"


class EncoderFailed(FtmError):
    """The encoder process cannot encode; the message is its reason."""


@dataclass(frozen=True)
class ModelLoaded:
    """The model that is loaded."""

    name: str
    revision: str


@dataclass(frozen=True)
class EncoderFailure:
    """Why a model could not be loaded, or texts not encoded."""

    reason: str


@dataclass(frozen=True)
class CrashHistory:
    """What processes before this one died of, so that this one does not.

    poisoned_requests: digests of requests that are refused, because several processes died over them
    load_failure:      why the model is not loaded for a minute; empty if it may be loaded
    """

    poisoned_requests: frozenset[bytes] = frozenset()
    load_failure: str = ""


@dataclass(frozen=True)
class EncoderProgress:
    """What the process has done since it started."""

    n_texts: int = 0
    encoding_s: float = 0.0
    gpu_bytes: int = 0


@dataclass
class RemoteEncoder:
    """An `Encoder` whose model is in the encoder process. Connects when it is used, and again after an interruption.

    address:   of the process
    timeout_s: how long to wait for a process that is gone
    """

    address: str
    timeout_s: float = 600.0
    _ipc: IpcClient = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ipc = IpcClient(self.address, "encoder process", self.timeout_s)

    @property
    def name(self) -> str:
        """The model's name, as it is recorded. raises: EncoderFailed, ProcessGone"""
        return cast(ModelLoaded, self._ask(None)).name

    @property
    def revision(self) -> str:
        """What tells two versions of the model apart. raises: EncoderFailed, ProcessGone"""
        return cast(ModelLoaded, self._ask(None)).revision

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`. raises: EncoderFailed, ProcessGone"""
        if not texts:
            return np.zeros((0, DIMENSIONS), np.float32)
        return cast(np.ndarray, self._ask(list(texts)))

    def _ask(self, request: list[str] | None) -> object:
        """The answer. A request whose answer was lost is repeated: encoding the same again changes nothing, and the
        process refuses a request once several processes have died over it.
        """
        while True:
            try:
                with self._ipc.connection() as connection:
                    connection.send(request)
                    answer = connection.recv()
            except (OSError, EOFError):
                continue
            if isinstance(answer, EncoderFailure):
                raise EncoderFailed(answer.reason)
            return answer


def encoder_process(
    worker: Connection,
    in_progress: "ctypes.Array[ctypes.c_char]",
    parent: int,
    address: str,
    model: str,
    device: str,
    precision: Precision,
    history: CrashHistory,
) -> None:
    """Main function of the encoder process: load the model, then serve until the worker has gone.

    worker:      gets `ModelLoaded` for each load, `EncoderFailure` for each failure, `EncoderProgress` every second
    in_progress: shared with the worker: what the process died over, should it die; `LOADING` or a request's digest
                 (Decision 46.)
    """
    die_with(parent)
    os.setsid()  # Ctrl-C in the terminal is for the worker, which lets runs end.
    Path(address).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        server = _Server(lambda: open_encoder(model, device, precision), worker, in_progress, history)
        server.load()
        server.serve(listener)


@dataclass
class _Request:
    client: Connection
    digest: bytes
    texts: list[str]
    vectors: np.ndarray
    remaining: deque[np.ndarray]
    is_answered: bool = False


@dataclass
class _Begun:
    """A batch that the device has; `result` waits for its vectors."""

    request: _Request
    rows: np.ndarray
    result: Callable[[], np.ndarray]


class _Server:
    """One batch of each request in turn. A model that could not be loaded is tried again by the next request."""

    encoder: Encoder

    def __init__(
        self,
        open_: Callable[[], Encoder],
        worker: Connection,
        in_progress: "ctypes.Array[ctypes.c_char]",
        history: CrashHistory,
    ) -> None:
        self.open = open_
        self.worker = worker
        self.in_progress = in_progress
        self.history = history
        self.load_from = time.monotonic() + (_RETRY_LOAD_S if history.load_failure else 0.0)
        self.loaded: ModelLoaded | None = None
        self.clients: list[Connection] = []
        self.requests: deque[_Request] = deque()
        self.begun: _Begun | None = None
        self.progress = EncoderProgress()

    def load(self) -> ModelLoaded | EncoderFailure:
        if self.loaded is None:
            if time.monotonic() < self.load_from:
                return EncoderFailure(self.history.load_failure)
            self.in_progress.value = LOADING
            try:
                self.encoder = self.open()
                self.loaded = ModelLoaded(self.encoder.name, self.encoder.revision)
            except Exception as error:  # A plug-in's encoder may raise anything.
                failure = EncoderFailure(f"{type(error).__name__}: {error}")
                self.worker.send(failure)
                return failure
            finally:
                self.in_progress.value = b""
            self.worker.send(self.loaded)
        return self.loaded

    def serve(self, listener: socket.socket) -> None:
        reported_at = 0.0
        while True:
            for ready in wait([listener, *self.clients], timeout=0 if self.requests or self.begun else _HEARTBEAT_S):
                if ready is listener:
                    client = listener.accept()[0]
                    # A client that stops in the middle of a message must not keep all others waiting.
                    for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                        client.setsockopt(socket.SOL_SOCKET, direction, _CLIENT_TIMEOUT)
                    self.clients.append(Connection(client.detach()))
                else:
                    self._receive(cast(Connection, ready))
            self._take_turn()
            if time.monotonic() - reported_at > _HEARTBEAT_S:
                self.worker.send(self.progress)
                reported_at = time.monotonic()

    def _receive(self, client: Connection) -> None:
        try:
            texts: list[str] | None = client.recv()
        except (OSError, EOFError):
            self._disconnect(client)
            return
        loaded = self.load()
        if texts is None or isinstance(loaded, EncoderFailure):
            self._answer(client, loaded)
            return
        digest = hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()[:DIGEST_SIZE].encode()
        if digest in self.history.poisoned_requests:
            reason = f"the encoder process died each time it encoded these {len(texts)} texts"
            self._answer(client, EncoderFailure(reason))
            return
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        request = _Request(client, digest, texts, vectors, deque())
        with self._answering_for(request):
            request.remaining.extend(batches_of(self.encoder, texts))
            if sum(map(len, request.remaining)) != len(texts):
                raise ValueError("the encoder's batches do not hold each text once")
            self.requests.append(request)

    def _take_turn(self) -> None:
        """Hand the next batch over, and only then wait for the one before it."""
        last, self.begun = self.begun, None
        if self.requests:
            request = self.requests.popleft()
            rows = request.remaining.popleft()
            with self._answering_for(request):
                self.begun = _Begun(request, rows, begin(self.encoder, [request.texts[row] for row in rows]))
                if request.remaining:
                    self.requests.append(request)
        if last is None or last.request.is_answered or last.request.client not in self.clients:
            return
        request = last.request
        with self._answering_for(request):
            request.vectors[last.rows] = last.result()
            n_texts = self.progress.n_texts + len(last.rows)
            self.progress = replace(self.progress, n_texts=n_texts, gpu_bytes=_gpu_bytes())
            if not request.remaining and (self.begun is None or self.begun.request is not request):
                self._answer(request.client, request.vectors)

    @contextmanager
    def _answering_for(self, request: _Request) -> Iterator[None]:
        """Time the work for a request. An error, of whatever kind, fails this request alone."""
        started = time.perf_counter()
        self.in_progress.value = request.digest
        try:
            yield
        except Exception as error:
            reason = f"{type(error).__name__} while {len(request.texts)} texts were encoded: {error}"
            failure = EncoderFailure(reason)
            self.worker.send(failure)
            self._end_if_broken()
            self._drop(request.client)
            request.is_answered = True
            self._answer(request.client, failure)
        finally:
            self.in_progress.value = b""
            took = time.perf_counter() - started
            self.progress = replace(self.progress, encoding_s=self.progress.encoding_s + took)

    def _end_if_broken(self) -> None:
        """End the process if it cannot encode anything any more, as after an illegal access to the GPU's memory.

        Clients then ask the next process; this one died over the model, not over their texts.
        """
        self.in_progress.value = LOADING
        try:
            self.encoder.encode(["All is well."])
        except Exception:
            os._exit(1)
        self.in_progress.value = b""

    def _answer(self, client: Connection, answer: object) -> None:
        try:
            client.send(answer)
        except OSError:
            self._disconnect(client)

    def _disconnect(self, client: Connection) -> None:
        client.close()
        self.clients.remove(client)
        self._drop(client)

    def _drop(self, client: Connection) -> None:
        self.requests = deque(request for request in self.requests if request.client is not client)
        if self.begun is not None and self.begun.request.client is client:
            self.begun = None


def _gpu_bytes() -> int:
    torch = sys.modules.get("torch")
    return int(torch.cuda.memory_reserved()) if torch is not None and torch.cuda.is_available() else 0
