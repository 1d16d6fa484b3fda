"""Decisions and the code that they explain find each other."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ftm_assets_tests.conftest import ROOT

DECISIONS = ROOT / "docs" / "decisions.md"
FOLDERS = ("devtools", "benchmarks", "ftm_assets", "ftm_assets_tests", "terraform", "scripts")
FILES = ("Makefile", "dagster.yaml", "docker-compose.yml", "pyproject.toml")
THIS_FILE = Path(__file__).resolve()

HEADING = re.compile(r"^\*\*(\d+)\. ", re.MULTILINE)
GENERAL = re.compile(r"no single line stands for them: ([\d,\s]+)\.")
# `Decision 7`, `decision 7`, `Decisions 39 and 40`, `decisions 7, 8 and 9`.
CITATION = re.compile(r"\b[Dd]ecisions? (\d+(?:(?:, | and )\d+)*)")
FILE = re.compile(r"`([\w./-]+/[\w.-]+\.\w+)`")


@cache
def text() -> str:
    """The decisions."""
    return DECISIONS.read_text("utf-8")


def numbers_in(words: str) -> list[int]:
    """All numbers of these words, in order."""
    return [int(number) for number in re.findall(r"\d+", words)]


def sources() -> Iterator[Path]:
    """Files that may cite a decision."""
    yield from (ROOT / name for name in FILES)
    for folder in FOLDERS:
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.resolve() != THIS_FILE)


@cache
def citations() -> dict[int, list[str]]:
    """Decision -> the files that cite it."""
    found: dict[int, list[str]] = {}
    for path in sources():
        try:
            words = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for citation in CITATION.finditer(words):
            for number in numbers_in(citation.group(1)):
                found.setdefault(number, []).append(str(path.relative_to(ROOT)))
    return found


def unused() -> set[int]:
    """Numbers under which no decision stands."""
    return set(numbers_in(" ".join(re.findall(r"^\*\*\d+(?=\. Not used\.\*\*)", text(), re.MULTILINE))))


def general() -> set[int]:
    """Decisions that no single line of code stands for."""
    found = GENERAL.search(text())
    assert found, "decisions.md says which decisions are general"
    return set(numbers_in(found.group(1)))


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("# Decision 74.", [74]),
        ("see decision 7", [7]),
        ("(Decisions 39 and 40)", [39, 40]),
        ("decisions 7, 8 and 9", [7, 8, 9]),
        ("class Decision:", []),
        ("indecision 3", []),
    ],
)
def test_a_citation_is_the_word_with_one_number_or_several(words: str, numbers: list[int]) -> None:
    assert [n for found in CITATION.finditer(words) for n in numbers_in(found.group(1))] == numbers


def test_decisions_are_numbered_in_order_without_a_gap() -> None:
    numbers = [int(number) for number in HEADING.findall(text())]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_cited_decision_exists() -> None:
    standing = {int(number) for number in HEADING.findall(text())} - unused()
    assert {number: files for number, files in citations().items() if number not in standing} == {}


def test_every_decision_is_cited_or_general() -> None:
    standing = {int(number) for number in HEADING.findall(text())} - unused()
    assert sorted(standing - citations().keys() - general()) == [], "name it at its line of code, or call it general"
    assert general() <= standing


def test_files_that_decisions_name_exist() -> None:
    bases = (ROOT, ROOT / "ftm_assets")
    assert [name for name in FILE.findall(text()) if not any((base / name).is_file() for base in bases)] == []
