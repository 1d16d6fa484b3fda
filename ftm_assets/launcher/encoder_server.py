"""The encoder process, which owns the device and loads the model once, and the encoder that lanes use in its stead.

A batch never mixes requests: the same texts encoded beside others differ by 3e-7, which is enough to turn a clustering
over. So a request is cut into batches by its own texts alone, as it is without the process, and the process is fair
between batches: each request that waits has one encoded in turn. The next batch is handed over before the last one is
waited for, so that its texts are made tokens while a GPU computes.
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
from dataclasses import dataclass, field
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

_SAY_S = 1.0
_LOAD_AGAIN_S = 60.0
_CLIENT_TIMEOUT = struct.pack("ll", 5, 0)  # A struct timeval.
DIGEST_SIZE = 40
# Decision 46.
LOADING = b"loading"


class EncoderFailed(FtmError):
    """The encoder process cannot encode; it says why."""


@dataclass(frozen=True)
class Loaded:
    """The model that is loaded."""

    name: str
    revision: str


@dataclass(frozen=True)
class Failed:
    """Why a model could not be loaded, or texts not encoded."""

    why: str


@dataclass(frozen=True)
class Past:
    """What processes before this one have died of, so that this one does not.

    deadly:     digests of requests that are refused, because several processes died over them
    unloadable: why the model is not loaded for a minute, empty if nothing speaks against it
    """

    deadly: frozenset[bytes] = frozenset()
    unloadable: str = ""


@dataclass(frozen=True)
class Progress:
    """What the process has done since it began."""

    n_texts: int = 0
    encoding_s: float = 0.0
    gpu_bytes: int = 0


@dataclass
class RemoteEncoder:
    """An `Encoder` whose model is in the encoder process. Connects when it is used, and again after an interruption.

    address:    of the process
    patience_s: how long a process that is gone is waited for
    """

    address: str
    patience_s: float = 600.0
    _ipc: IpcClient = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ipc = IpcClient(self.address, "encoder process", self.patience_s)

    @property
    def name(self) -> str:
        """The model's name, as it is recorded. raises: EncoderFailed, ProcessGone"""
        return cast(Loaded, self._ask(None)).name

    @property
    def revision(self) -> str:
        """What tells two versions of the model apart. raises: EncoderFailed, ProcessGone"""
        return cast(Loaded, self._ask(None)).revision

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`. raises: EncoderFailed, ProcessGone"""
        if not texts:
            return np.zeros((0, DIMENSIONS), np.float32)
        return cast(np.ndarray, self._ask(list(texts)))

    def _ask(self, request: list[str] | None) -> object:
        """The answer. A request whose answer was lost is repeated: encoding the same again changes nothing, and the
        process refuses it once several of its kind have died over it.
        """
        while True:
            try:
                with self._ipc.connection() as connection:
                    connection.send(request)
                    answer = connection.recv()
            except (OSError, EOFError):
                continue
            if isinstance(answer, Failed):
                raise EncoderFailed(answer.why)
            return answer


def encoder_process(
    worker: Connection,
    over: "ctypes.Array[ctypes.c_char]",
    parent: int,
    address: str,
    model: str,
    device: str,
    precision: Precision,
    past: Past,
) -> None:
    """Main function of the encoder process: load the model, then serve until the worker has gone.

    worker: is told `Loaded` for each load, `Failed` for each failure, and `Progress` every second
    over:   shared with the worker: what it would have died over, should it die; `LOADING` or a request's digest
    """
    die_with(parent)
    os.setsid()  # Ctrl-C in the terminal is for the worker, which lets runs end.
    Path(address).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        server = _Server(lambda: open_encoder(model, device, precision), worker, over, past)
        server.load()
        server.serve(listener)


@dataclass
class _Request:
    client: Connection
    digest: bytes
    texts: list[str]
    vectors: np.ndarray
    left: deque[np.ndarray]
    is_answered: bool = False


@dataclass
class _Begun:
    """A batch that the device has; `coming` waits for its vectors."""

    request: _Request
    rows: np.ndarray
    coming: Callable[[], np.ndarray]


class _Server:
    """One batch of each request in turn. A model that could not be loaded is tried again by the next request."""

    encoder: Encoder

    def __init__(
        self, open_: Callable[[], Encoder], worker: Connection, over: "ctypes.Array[ctypes.c_char]", past: Past
    ) -> None:
        self.open = open_
        self.worker = worker
        self.over = over
        self.past = past
        self.load_from = time.monotonic() + (_LOAD_AGAIN_S if past.unloadable else 0.0)
        self.loaded: Loaded | None = None
        self.clients: list[Connection] = []
        self.requests: deque[_Request] = deque()
        self.begun: _Begun | None = None
        self.progress = Progress()

    def load(self) -> Loaded | Failed:
        if self.loaded is None:
            if time.monotonic() < self.load_from:
                return Failed(self.past.unloadable)
            self.over.value = LOADING
            try:
                self.encoder = self.open()
                self.loaded = Loaded(self.encoder.name, self.encoder.revision)
            except Exception as error:  # Of whatever kind somebody else's encoder raises.
                self.worker.send(failed := Failed(f"{type(error).__name__}: {error}"))
                return failed
            finally:
                self.over.value = b""
            self.worker.send(self.loaded)
        return self.loaded

    def serve(self, listener: socket.socket) -> None:
        said_at = 0.0
        while True:
            for ready in wait([listener, *self.clients], timeout=0 if self.requests or self.begun else _SAY_S):
                if ready is listener:
                    client = listener.accept()[0]
                    # One that stands still in the middle of a message must not keep all others waiting.
                    for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                        client.setsockopt(socket.SOL_SOCKET, direction, _CLIENT_TIMEOUT)
                    self.clients.append(Connection(client.detach()))
                else:
                    self._receive(cast(Connection, ready))
            self._take_turn()
            if time.monotonic() - said_at > _SAY_S:
                self.worker.send(self.progress)
                said_at = time.monotonic()

    def _receive(self, client: Connection) -> None:
        try:
            texts: list[str] | None = client.recv()
        except (OSError, EOFError):
            self._forget(client)
            return
        loaded = self.load()
        if texts is None or isinstance(loaded, Failed):
            self._answer(client, loaded)
            return
        digest = hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()[:DIGEST_SIZE].encode()
        if digest in self.past.deadly:
            self._answer(client, Failed(f"the encoder process died each time it encoded these {len(texts)} texts"))
            return
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        request = _Request(client, digest, texts, vectors, deque())
        with self._answering_for(request):
            request.left.extend(batches_of(self.encoder, texts))
            if sum(map(len, request.left)) != len(texts):
                raise ValueError("the encoder's batches do not hold each text once")
            self.requests.append(request)

    def _take_turn(self) -> None:
        """Hand the next batch over, and only then wait for the one before it."""
        last, self.begun = self.begun, None
        if self.requests:
            request = self.requests.popleft()
            rows = request.left.popleft()
            with self._answering_for(request):
                self.begun = _Begun(request, rows, begin(self.encoder, [request.texts[row] for row in rows]))
                if request.left:
                    self.requests.append(request)
        if last is None or last.request.is_answered or last.request.client not in self.clients:
            return
        request = last.request
        with self._answering_for(request):
            request.vectors[last.rows] = last.coming()
            done = self.progress
            self.progress = Progress(done.n_texts + len(last.rows), done.encoding_s, _gpu_bytes())
            if not request.left and (self.begun is None or self.begun.request is not request):
                self._answer(request.client, request.vectors)

    @contextmanager
    def _answering_for(self, request: _Request) -> Iterator[None]:
        """Time what is done for a request. What goes wrong with it, of whatever kind, concerns it alone."""
        started = time.perf_counter()
        self.over.value = request.digest
        try:
            yield
        except Exception as error:
            failed = Failed(f"{type(error).__name__} while {len(request.texts)} texts were encoded: {error}")
            self.worker.send(failed)
            self._end_if_broken()
            self._drop(request.client)
            request.is_answered = True
            self._answer(request.client, failed)
        finally:
            self.over.value = b""
            took = time.perf_counter() - started
            self.progress = Progress(self.progress.n_texts, self.progress.encoding_s + took, self.progress.gpu_bytes)

    def _end_if_broken(self) -> None:
        """End the process if it cannot encode anything any more, as after an illegal access to the GPU's memory.

        Whoever asked asks the next process; what it died over is the model, not their texts.
        """
        self.over.value = LOADING
        try:
            self.encoder.encode(["All is well."])
        except Exception:
            os._exit(1)
        self.over.value = b""

    def _answer(self, client: Connection, answer: object) -> None:
        try:
            client.send(answer)
        except OSError:
            self._forget(client)

    def _forget(self, client: Connection) -> None:
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
