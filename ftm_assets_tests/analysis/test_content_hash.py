import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime
from types import MappingProxyType

import numpy as np
import pytest

from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.sentences import Turn

TURN = Turn(7, 0, "Answer", "Executives", "Ann Lee", "Freight costs rose.")
PARTS = """
content_hash("a", True, None, 1, 0.1, date(2021, 11, 1), [("b", 2), Turn(7, 0, "x", "y", "z", "t")], {"k": [1], "a": 2},
             np.arange(6, dtype=np.float32).reshape(2, 3))
"""


@dataclass(frozen=True)
class Pair:
    one: object
    two: object


@dataclass(frozen=True)
class Triple:
    one: object
    two: object
    three: object


def test_equal_content_has_an_equal_hash() -> None:
    first, second = (content_hash("a", [TURN], {"x": 1, "y": 2}, np.ones((2, 2), np.float32)) for _ in range(2))
    assert first == second
    assert len(first) == 32
    assert int(first, 16) >= 0


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_equal_content_has_an_equal_hash_in_another_process(hash_seed: str) -> None:
    here: dict[str, object] = {"content_hash": content_hash, "date": date, "Turn": Turn, "np": np}
    program = f"""
from datetime import date
import numpy as np
from ftm_assets.analysis.content_hash import content_hash
from ftm_assets.analysis.sentences import Turn
print({PARTS.strip()})
"""
    there = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == eval(PARTS.strip(), here)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b"), ("b", "a")),
        (("ab", "c"), ("a", "bc")),
        (("a", "b"), ("a\0b",)),
        (("a",), ("a", "")),
        (("a",), ("a", None)),
        (([1], [2]), ([1, 2],)),
        (([1], [2]), ([[1], [2]],)),
        (([1, [2]],), ([[1], 2],)),
        (([],), ()),
        (([[]],), ([],)),
        ((1,), ("1",)),
        ((1,), (1.0,)),
        ((1,), (True,)),
        ((None,), ("null",)),
        ((None,), (False,)),
        ((date(2021, 11, 1),), ("2021-11-01",)),
        ((date(2021, 11, 1),), (datetime(2021, 11, 1, tzinfo=UTC),)),
        (({"a": 1},), ({"a": 2},)),
        (({"a": 1},), ([("a", 1)],)),
        (({},), ([],)),
        ((Pair(1, 2),), (Pair(2, 1),)),
        (([Pair(1, 2), Triple(3, 4, 5)],), ([Triple(1, 2, 3), Pair(4, 5)],)),
        ((Pair((1,), (2,)),), (Pair((1, 2), ()),)),
    ],
)
def test_order_nesting_and_type_matter(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert content_hash(*one) != content_hash(*other)


@pytest.mark.parametrize(
    "other",
    [
        np.array([[0, 1, 2], [3, 4, 6]], np.float32),
        np.arange(6, dtype=np.float32),
        np.arange(6, dtype=np.float32).reshape(3, 2),
        np.arange(6, dtype=np.float64).reshape(2, 3),
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.arange(6, dtype=">f4").reshape(2, 3),
        [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
    ],
)
def test_arrays_differ_by_values_shape_and_dtype(other: object) -> None:
    assert content_hash(np.arange(6, dtype=np.float32).reshape(2, 3)) != content_hash(other)


def test_the_layout_of_an_array_in_memory_does_not_matter() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert content_hash(np.asfortranarray(rows)) == content_hash(rows)
    assert content_hash(np.arange(12, dtype=np.float32)[::2]) == content_hash(np.arange(0, 12, 2, dtype=np.float32))


def test_the_order_of_keys_does_not_matter_nor_the_kind_of_mapping() -> None:
    by_name = {"a": [1], "b": [2]}
    others = [{"b": [2], "a": [1]}, OrderedDict(by_name), MappingProxyType(by_name)]
    assert {content_hash(other) for other in others} == {content_hash(by_name)}


def test_lists_tuples_and_generators_of_equal_items_are_equal() -> None:
    assert content_hash([1, (2, 3)]) == content_hash((1, [2, 3])) == content_hash(x for x in (1, (2, 3)))


@pytest.mark.parametrize(
    "part",
    [
        object(),
        {"b", "a"},
        frozenset({"b", "a"}),
        b"bytes",
        1j,
        np.float32(1),
        np.int64(1),
        np.array(["a", None], object),
        Pair,
        [1, {"k": {2}}],
        Pair(1, object()),
    ],
)
def test_what_might_change_from_one_process_to_the_next_is_refused(part: object) -> None:
    with pytest.raises(TypeError, match="cannot hash"):
        content_hash("a", part)
