"""The process that owns the one client of this machine, and the language model that other processes use instead.

Limits and circuit breaker hold for the machine, so one process has them and the others reach it over a socket. If it is
killed, the ledger has what it had sent, and the next one does not send what was answered. Decision 60.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection
from pathlib import Path

from ftm_assets.errors import FtmError
from ftm_assets.llm.client import LlmClient, open_client
from ftm_assets.llm.ledger import Ledger
from ftm_assets.llm.protocol import CompletionRequest, CompletionResult, LanguageModel
from ftm_assets.processes.child import die_with
from ftm_assets.processes.ipc import IpcClient
from ftm_assets.settings import Settings, read_settings
from ftm_assets.storage.server.database import Database

_REPORT_S = 1.0
_MAX_LOSSES = 10
_IDENTITY_TIMEOUT_S = 10.0  # Enough for a busy machine; a process that does not wait sends outside the limits.
_MAX_ADDRESS_BYTES = 100  # The kernel has room for 107.


class SharedClientFailed(FtmError):
    """The client process cannot complete requests, for instance while the database is away. The message says why."""


@dataclass(frozen=True)
class Identity:
    """The model that a process uses, and where. Answered by whether the client process uses the same."""

    name: str
    base_url: str


@dataclass(frozen=True)
class CompleteRequests:
    """Requests by index. Answered by `IndexedResult` for each, then by `Done` or `Failed`."""

    requests: Mapping[int, CompletionRequest]


@dataclass(frozen=True)
class RejectReply:
    """A stored reply is unusable. Answered by `Done` or `Failed`."""

    key: str
    reason: str


@dataclass(frozen=True)
class IndexedResult:
    """The result of the request at this index."""

    index: int
    result: CompletionResult


@dataclass(frozen=True)
class Done:
    """The message before it was carried out."""


@dataclass(frozen=True)
class Failed:
    """Why it was not."""

    reason: str


@dataclass
class RemoteLanguageModel:
    """A `LanguageModel` whose client runs in another process. Connects on first use, and again after an interruption.

    name:       of the model
    address:    of the process
    patience_s: how long to wait for a process that is gone
    """

    name: str
    address: str
    patience_s: float = 600.0
    _ipc: IpcClient = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ipc = IpcClient(self.address, "language model's client process", self.patience_s)

    def complete(self, requests: Sequence[CompletionRequest]) -> Iterator[tuple[int, CompletionResult]]:
        """See `LanguageModel`. Requests under way when the process ended are sent again.

        raises: SharedClientFailed, ProcessGone
        """
        missing = dict(enumerate(requests))
        for each in self._call(lambda: CompleteRequests(dict(missing)) if missing else None):
            del missing[each.index]
            yield each.index, each.result

    def reject(self, key: str, reason: str) -> None:
        """See `LanguageModel`. raises: SharedClientFailed, ProcessGone"""
        list(self._call(lambda: RejectReply(key, reason)))

    def _call(self, message: Callable[[], CompleteRequests | RejectReply | None]) -> Iterator[IndexedResult]:
        """Send the message and yield its results; after a lost connection send what the message is then, None: nothing.

        raises: SharedClientFailed, ProcessGone
        """
        n_losses = 0
        while (to_send := message()) is not None:
            try:
                with self._ipc.connection() as connection:
                    connection.send(to_send)
                    while isinstance(answer := connection.recv(), IndexedResult):
                        n_losses = 0
                        yield answer
            except (OSError, EOFError) as error:
                n_losses += 1
                if n_losses >= _MAX_LOSSES:
                    raise SharedClientFailed(f"the language model's client process died {n_losses} times") from error
            else:
                if isinstance(answer, Failed):
                    raise SharedClientFailed(answer.reason)
                return


@dataclass
class SharedOrOwnLanguageModel:
    """A `LanguageModel` for processes that are no lanes. Uses the worker's client process if that has the same model,
    so that the limits hold for the machine, else a client of its own.
    """

    own: LlmClient
    address: str

    @property
    def name(self) -> str:
        """See `LanguageModel`."""
        return self.own.name

    def complete(self, requests: Sequence[CompletionRequest]) -> Iterator[tuple[int, CompletionResult]]:
        """See `LanguageModel`. raises: SharedClientFailed, ProcessGone, and what the ledger raises"""
        return self._chosen().complete(requests)

    def reject(self, key: str, reason: str) -> None:
        """See `LanguageModel`."""
        self._chosen().reject(key, reason)

    def _chosen(self) -> LanguageModel:
        with suppress(OSError, EOFError), Client(self.address) as process:
            process.send(_identity(self.own))
            if process.poll(_IDENTITY_TIMEOUT_S) and process.recv():
                return RemoteLanguageModel(self.name, self.address)
        return self.own


def socket_of(home: Path) -> str | None:
    """Where a worker's client process listens; None if the path is too long for a socket."""
    path = str(home / "language_model")
    return path if len(path.encode()) <= _MAX_ADDRESS_BYTES else None


def find_language_model(settings: Settings, ledger: Ledger) -> LanguageModel | None:
    """The model in the settings, as this process has to reach it; None if they name none. raises: BadPrices"""
    if settings.llm_model and settings.llm_address:
        return RemoteLanguageModel(settings.llm_model, settings.llm_address)
    own, address = open_client(settings, ledger), socket_of(settings.home)
    return SharedOrOwnLanguageModel(own, address) if own is not None and address is not None else own


def model_process(worker: Connection, parent: int, address: str) -> None:
    """Main function of the client process: serve other processes until the worker ends, with a thread for each.

    The limits belong to one machine, so one process holds them. Decision 111.

    Settings and API key are the worker's, from the environment.

    worker: gets `ClientStats` every second, and `Failed` for each error
    """
    die_with(parent)
    os.setsid()  # Ctrl-C in the terminal is for the worker, which lets runs end.
    settings = read_settings()
    client = open_client(settings, Ledger(Database(settings)))
    if client is None:
        return
    Path(address).parent.mkdir(parents=True, exist_ok=True)  # Nothing else may have needed this home yet.
    Path(address).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        server = _Server(client, worker)
        threading.Thread(target=server.accept, args=(listener,), daemon=True).start()
        while True:
            server.report(client.stats)
            time.sleep(_REPORT_S)


class _Server:
    """A thread for each connected process; it mostly waits."""

    def __init__(self, client: LlmClient, worker: Connection) -> None:
        self.client = client
        self.worker = worker
        self.lock = threading.Lock()

    def report(self, message: object) -> None:
        """Send a message to the worker."""
        with self.lock:
            self.worker.send(message)

    def accept(self, listener: socket.socket) -> None:
        """Accept connections for ever."""
        while True:
            connection = Connection(listener.accept()[0].detach())
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: Connection) -> None:
        """Answer a process until it is gone. What it then still waited for is not sent any more."""
        with connection, suppress(OSError, EOFError):
            while True:
                message = connection.recv()
                try:
                    for answer in self._answers(message):
                        connection.send(answer)
                except (OSError, EOFError):
                    raise
                except Exception as error:  # Of any kind that the database's driver raises.
                    failed = Failed(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
                    self.report(failed)
                    connection.send(failed)

    def _answers(self, message: object) -> Iterator[object]:
        match message:
            case Identity():
                yield message == _identity(self.client)
            case RejectReply(key, reason):
                self.client.reject(key, reason)
                yield Done()
            case CompleteRequests(requests):
                indices = list(requests)
                for place, result in self.client.complete(list(requests.values())):
                    yield IndexedResult(indices[place], result)
                yield Done()


def _identity(client: LlmClient) -> Identity:
    return Identity(client.name, client.transport.base_url)
