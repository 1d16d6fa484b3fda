"""The process that owns the client of the language model, and the model that lanes use in its stead.

Limits, breaker and pool hold for the box, so one process has them, and lanes ask it. What it had sent when it was
killed is in the ledger; what was answered is not asked again by the next one.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection
from pathlib import Path

from ftm_assets.errors import FtmError
from ftm_assets.llm.language_model import OpenAILanguageModel, open_language_model
from ftm_assets.llm.ledger import Ledger
from ftm_assets.llm.postgres_ledger import PostgresLedger
from ftm_assets.llm.protocol import Answer, LanguageModel, NoAnswer, Question
from ftm_assets.processes.child import die_with
from ftm_assets.processes.ipc import IpcClient
from ftm_assets.settings import Settings, read_settings
from ftm_assets.storage.server.database import Database

_SAY_S = 1.0
_MAX_LOSSES = 10
_ANSWER_S = 10.0  # Of a busy machine; who does not wait asks beside the limits.
_LONGEST_ADDRESS = 100  # The kernel has room for 107 bytes.


class ModelFailed(FtmError):
    """The model's client process cannot ask, as when the database is away; it says why."""


@dataclass(frozen=True)
class WhoAreYou:
    """Answered by `Asked`."""


@dataclass(frozen=True)
class Asked:
    """The model that the process asks, and where."""

    name: str
    base_url: str


@dataclass(frozen=True)
class Ask:
    """Ask these; answered by `Came` for each, then by `Done` or `Failed`."""

    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Reject:
    """A reply is of no use; answered by `Done` or `Failed`."""

    key: str
    why: str


@dataclass(frozen=True)
class Came:
    """What came of the question at this place."""

    place: int
    answer: Answer | NoAnswer


@dataclass(frozen=True)
class Done:
    """All that was wanted is done."""


@dataclass(frozen=True)
class Failed:
    """Why it is not."""

    why: str


@dataclass
class ServedLanguageModel:
    """A `LanguageModel` whose client is in another process. Connects when it is used, and again after an interruption.

    name:       of the model
    address:    of the process
    patience_s: how long a process that is gone is waited for
    """

    name: str
    address: str
    patience_s: float = 600.0
    _ipc: IpcClient = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ipc = IpcClient(self.address, "language model's client process", self.patience_s)

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | NoAnswer]]:
        """See `LanguageModel`. What was under way when the process ended is asked again. raises: ModelFailed,
        ProcessGone
        """
        left = dict(enumerate(questions))
        n_losses = 0
        while left:
            places = list(left)
            try:
                with self._ipc.connection() as connection:
                    connection.send(Ask(tuple(left[place] for place in places)))
                    while isinstance(message := connection.recv(), Came):
                        place, n_losses = places[message.place], 0
                        del left[place]
                        yield place, message.answer
                _check(message)
            except (OSError, EOFError) as error:
                n_losses += 1
                if n_losses >= _MAX_LOSSES:
                    raise _died(n_losses) from error

    def reject(self, key: str, why: str) -> None:
        """See `LanguageModel`. raises: ModelFailed, ProcessGone"""
        for loss in range(1, _MAX_LOSSES + 1):
            try:
                with self._ipc.connection() as connection:
                    connection.send(Reject(key, why))
                    message = connection.recv()
            except (OSError, EOFError) as error:
                if loss == _MAX_LOSSES:
                    raise _died(loss) from error
            else:
                _check(message)
                return


@dataclass
class NearestLanguageModel:
    """A `LanguageModel` of a process that is no lane: it asks the worker's client process if that asks the same model,
    so that the limits hold for the box, else it has a client of its own.
    """

    own: OpenAILanguageModel
    address: str

    @property
    def name(self) -> str:
        """See `LanguageModel`."""
        return self.own.name

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | NoAnswer]]:
        """See `LanguageModel`. raises: ModelFailed, ProcessGone, and what the ledger raises"""
        return self._nearest().ask(questions)

    def reject(self, key: str, why: str) -> None:
        """See `LanguageModel`."""
        self._nearest().reject(key, why)

    def _nearest(self) -> LanguageModel:
        mine = Asked(self.own.name, self.own.chat.base_url)
        with suppress(OSError, EOFError), Client(self.address) as process:
            process.send(WhoAreYou())
            if process.poll(_ANSWER_S) and process.recv() == mine:
                return ServedLanguageModel(self.name, self.address)
        return self.own


# Decision 111: limits belong to one box, so one process holds them.
def socket_of(home: Path) -> str | None:
    """Where a worker's client process listens; None if the path is too long for a socket."""
    path = str(home / "language_model")
    return path if len(path.encode()) <= _LONGEST_ADDRESS else None


# Decision 60.
def find_language_model(settings: Settings, ledger: Ledger) -> LanguageModel | None:
    """The model that the settings name, as this process is to ask it; None if they name none. raises: BadPrices"""
    if settings.llm_model and settings.llm_address:
        return ServedLanguageModel(settings.llm_model, settings.llm_address)
    own, address = open_language_model(settings, ledger), socket_of(settings.home)
    return NearestLanguageModel(own, address) if own is not None and address is not None else own


def _died(n_times: int) -> ModelFailed:
    return ModelFailed(f"the language model's client process died {n_times} times")


def _check(message: object) -> None:
    if isinstance(message, Failed):
        raise ModelFailed(message.why)


def model_process(worker: Connection, parent: int, address: str) -> None:
    """Main function of the process: ask what lanes want to know until the worker has gone, a thread for each lane.

    Settings and key are those of the worker, from the environment.

    worker: is told `Progress` every second, and `Failed` for what goes wrong
    """
    die_with(parent)
    os.setsid()  # Ctrl-C in the terminal is for the worker, which lets runs end.
    settings = read_settings()
    model = open_language_model(settings, PostgresLedger(Database(settings)))
    if model is None:
        return
    Path(address).parent.mkdir(parents=True, exist_ok=True)  # Of a home that nothing else has needed yet.
    Path(address).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        server = _Server(model, worker)
        threading.Thread(target=server.welcome, args=(listener,), daemon=True).start()
        while True:
            server.say(model.progress)
            time.sleep(_SAY_S)


class _Server:
    """A thread for each lane: it has nothing to do but wait."""

    def __init__(self, model: OpenAILanguageModel, worker: Connection) -> None:
        self.model = model
        self.worker = worker
        self.lock = threading.Lock()

    def say(self, message: object) -> None:
        """Tell the worker."""
        with self.lock:
            self.worker.send(message)

    def welcome(self, listener: socket.socket) -> None:
        """Let lanes in for ever."""
        while True:
            client = Connection(listener.accept()[0].detach())
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: Connection) -> None:
        """Do what a lane wants until it has gone; what it then still wanted is not sent any more."""
        with client, suppress(OSError, EOFError):
            while True:
                wanted = client.recv()
                try:
                    if isinstance(wanted, Reject):
                        self.model.reject(wanted.key, wanted.why)
                    elif isinstance(wanted, WhoAreYou):
                        client.send(Asked(self.model.name, self.model.chat.base_url))
                        continue
                    elif isinstance(wanted, Ask):
                        for place, answer in self.model.ask(wanted.questions):
                            client.send(Came(place, answer))
                except (OSError, EOFError):
                    raise
                except Exception as error:  # Of whatever kind the database's driver raises.
                    failed = Failed(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
                    self.say(failed)
                    client.send(failed)
                else:
                    client.send(Done())
