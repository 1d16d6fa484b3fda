import re
from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from devtools import build_baseline
from ftm_assets.analysis.boilerplate.baseline import find_phrases, is_baseline_phrase, share_in_phrases, shipped_phrases
from ftm_assets.analysis.themes import QuarterTopic, QuarterTopics, find_themes
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets.analysis.words import COMMON_WORDS_FILE, baseline_shares, common_words, name_tokens, terms
from ftm_assets_tests.conftest import REAL_DATA
from ftm_assets_tests.six_firms import call, write_calls

NOBODY: frozenset[str] = frozenset()
PLEASED = "We are very pleased with that."
PAST = [REAL_DATA / f"earnings_calls_{name}.csv.gz" for name in ("dev", "ccbysa")]


def baseline(*firms: Sequence[str], min_share: float = 0.5) -> np.ndarray:
    """Runs that at least half of the firms say by default; nobody has a name."""
    return find_phrases([(NOBODY, sentences) for sentences in firms], min_share)


def share(text: str, *said_by_two: str, names: frozenset[str] = NOBODY) -> float:
    """The share of the text in the runs of what two firms say."""
    return share_in_phrases(text, names, baseline(said_by_two, said_by_two))


# --- runs of words


def test_a_sentence_that_many_firms_say_is_common_as_a_whole() -> None:
    assert share(PLEASED, PLEASED) == 1
    assert share("we ARE very\u00a0pleased -- with THAT!", PLEASED) == 1
    assert share("Freight is late in every port.", PLEASED) == 0


def test_words_in_a_run_of_four_are_common_and_those_beside_it_are_not() -> None:
    assert share("We are very pleased and ship freight to ports.", PLEASED) == 4 / 9
    assert share("So we are very glad.", PLEASED) == 0, "three are not enough"


def test_where_a_sentence_starts_and_ends_counts_as_a_word() -> None:
    assert share("We are very late.", PLEASED) == 3 / 4
    assert share("But we are very late.", PLEASED) == 0
    assert share("I am sure.", "I am sure.") == 1
    assert share("Now I am sure of that.", "I am sure.") == 0


def test_what_has_no_words_is_not_common() -> None:
    assert [share(text, PLEASED, "") for text in ("", "...", "[Laughter]")] == [0, 0, 0]
    assert share_in_phrases(PLEASED, NOBODY, baseline()) == 0


def test_numbers_and_names_are_each_one_word() -> None:
    grew = "We grew by 5 percent this year."
    assert share("We grew by 1,700 percent this year.", grew) == 1
    assert share("We grew by many percent this year.", grew) < 1
    thanks = "Now Ann Lee and we."
    known = find_phrases([(frozenset({"ann", "lee"}), [thanks])] * 2, 0.5)
    assert share_in_phrases(thanks, frozenset({"ann", "lee"}), known) == 1
    assert share_in_phrases("Now Bob and we.", frozenset({"bob"}), known) == 1
    assert share_in_phrases("Now Bob and we.", NOBODY, known) == 0


def test_marks_are_no_words_and_an_apostrophe_is_one_however_it_is_written() -> None:
    assert share("It's [Inaudible] what we\u2019ve said.", "It\u2019s what we've said.") == 1


def test_a_run_is_common_where_enough_firms_say_it_and_at_least_two() -> None:
    firms = [[PLEASED]] * 2 + [["Freight is late."]] * 8
    assert share_in_phrases(PLEASED, NOBODY, baseline(*firms, min_share=0.2)) == 1
    assert share_in_phrases(PLEASED, NOBODY, baseline(*firms, min_share=0.21)) == 0
    assert share_in_phrases(PLEASED, NOBODY, baseline([PLEASED], ["Freight is late."], min_share=0.05)) == 0


def test_a_firm_that_repeats_itself_counts_once() -> None:
    assert len(baseline([PLEASED] * 9, ["Freight is late."], ["Wages rose."])) == 0


def test_runs_are_hashes_in_ascending_order_whatever_the_order_of_the_firms() -> None:
    firms = [[PLEASED, "Freight is late."], ["Freight is late.", PLEASED]]
    found = baseline(*firms)
    assert found.dtype == np.uint64
    assert (np.diff(found) > 0).all()
    assert len(found) == 5 + 2  # Eight words with both marks, and five.
    assert found.tolist() == baseline(*firms[::-1]).tolist()


# --- what is a commonplace


COMMONPLACES = (
    "I think that's the way we look at it.",
    "You know, it's a great question and we're going to continue to do that.",
    "Our business remains strong.",  # No phrase, but no word of its own either.
)
SUBJECTS = (
    "Supply chain bottlenecks delayed our shipments.",
    "Freight rates doubled since spring.",
    "We raised hourly wages in all of our restaurants.",
)


def test_a_sentence_of_phrases_or_of_common_words_alone_is_a_commonplace() -> None:
    assert [is_baseline_phrase(text, NOBODY, 0.5) for text in COMMONPLACES] == [True] * 3
    assert [is_baseline_phrase(text, NOBODY, 0.5) for text in SUBJECTS] == [False] * 3


def test_a_sentence_with_words_of_its_own_is_one_from_the_share_on() -> None:
    text = "With that, I will turn the call over to Winterbottom."
    reached = share_in_phrases(text, NOBODY, shipped_phrases())
    assert 0.5 < reached < 1
    assert is_baseline_phrase(text, NOBODY, reached)
    assert not is_baseline_phrase(text, NOBODY, reached + 0.01)


def test_a_sentence_with_an_amount_is_never_one() -> None:
    text = "We continue to invest in our business"
    assert is_baseline_phrase(f"{text}.", NOBODY, 0.5)
    assert not is_baseline_phrase(f"{text} $5 million.", NOBODY, 0.5)


def test_a_name_is_no_word_of_its_own() -> None:
    text = "I will turn it over to Winterbottom."
    assert is_baseline_phrase(text, name_tokens(["Ann Winterbottom"], ""), 0.99)
    assert not is_baseline_phrase(text, NOBODY, 0.99)


# --- what every firm begins to speak of afterwards


PANDEMIC = (
    "The pandemic closed our stores in March.",
    "COVID-19 has hit us and our customers hard.",
    "Because of the coronavirus, our people work from home.",
    "We saw a decline in revenue due to the lockdowns.",
    "Nobody knows how long social distancing will last.",
)


@pytest.mark.parametrize("text", PANDEMIC)
def test_what_every_firm_speaks_of_only_since_the_baseline_is_no_commonplace(text: str) -> None:
    assert not is_baseline_phrase(text, NOBODY, 0.5)
    assert not {"pandemic", "covid", "coronavirus", "lockdowns", "social distancing"} & common_words()
    assert any(" " not in term for term in terms(text))


def test_counted_in_the_quarter_itself_it_would_be_one() -> None:
    before = [[PLEASED, "Freight is late."]] * 12
    now = [[PLEASED, *PANDEMIC]] * 12
    for text in PANDEMIC:
        assert share_in_phrases(text, NOBODY, baseline(*before)) == 0
        assert share_in_phrases(text, NOBODY, baseline(*now)) == 1


def pandemic_quarter(n_firms: int = 12) -> QuarterTopics:
    """Each firm speaks of the pandemic; besides, of two of four other subjects and of one that is its own."""
    others = ("freight rates doubled", "hourly wages rose", "tariffs hurt imports", "oil wells closed")
    mentions: list[tuple[int, str, int]] = []
    for firm in range(n_firms):
        own = [(others[(firm + i) % 4], 1 + (firm + i) % 4) for i in range(2)]
        own.append((f"own{firm}x matters", 5 + firm))
        mentions += [(firm, text, axis) for text, axis in [(PANDEMIC[0], 0), *own]]
    chance = np.random.default_rng(6)
    places = np.eye(48)[[axis for _, _, axis in mentions]] + chance.normal(scale=0.05, size=(len(mentions), 48))
    vectors = unit_rows(places)
    topics = tuple(QuarterTopic(firm, i, text, (text,), 0.0) for i, (firm, text, _) in enumerate(mentions))
    return QuarterTopics("2020Q1", topics, vectors, vectors, dict.fromkeys(range(n_firms), "hash"), n_firms, 0)


def test_what_every_firm_speaks_of_is_a_theme_of_all_firms() -> None:
    found = find_themes(pandemic_quarter())
    [pandemic] = [theme for theme in found.themes if "pandemic" in theme.keywords]
    assert (pandemic.n_firms, pandemic.n_topics) == (12, 12)
    assert pandemic == found.themes[0], "the largest"
    assert "pandemic" in pandemic.label
    assert pandemic.stability == 1
    members = [m.topic_label for m in found.members if m.theme_number == pandemic.theme_number]
    assert members == [PANDEMIC[0]] * 12


def test_who_else_reports_changes_no_flag_of_a_firm() -> None:
    texts = (*COMMONPLACES, *SUBJECTS, *PANDEMIC)
    alone = [is_baseline_phrase(text, NOBODY, 0.5) for text in texts]
    for firm in range(20):
        assert [is_baseline_phrase(text, frozenset({f"firm{firm}"}), 0.5) for text in texts] == alone
    assert [is_baseline_phrase(text, NOBODY, 0.5) for text in texts] == alone
    with pytest.raises(ValueError, match="read-only"):
        shipped_phrases()[0] = 1


# --- what the package ships


def test_the_shipped_runs_are_hashes_in_ascending_order_and_hold_no_text() -> None:
    runs = shipped_phrases()
    assert runs.dtype == np.uint64
    assert len(runs) > 1000
    assert (runs[1:] > runs[:-1]).all()
    assert not re.search(rb"[A-Za-z']{2,} [A-Za-z']{2,} [A-Za-z']", runs.tobytes())


def test_the_shipped_words_are_sorted_words_and_pairs() -> None:
    lines = files("ftm_assets.analysis.boilerplate").joinpath(COMMON_WORDS_FILE).read_text().splitlines()
    terms_of = [line.split("\t")[0] for line in lines]
    assert terms_of == sorted(set(terms_of))
    assert max(len(term.split()) for term in terms_of) == 2, "runs of more words would be pieces of the calls"
    assert min(baseline_shares().values()) >= 0.1
    assert max(baseline_shares().values()) <= 1


def test_common_are_words_of_most_firms_and_pairs_of_half_of_them() -> None:
    shares = baseline_shares()
    assert {"quarter", "business", "growth"} <= common_words() < shares.keys()
    assert all(shares[term] >= (0.5 if " " in term else 0.7) for term in common_words())
    assert not any(shares[term] >= 0.7 for term in shares.keys() - common_words())


def test_the_baseline_counts_firms_that_said_enough_up_to_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_baseline, "MIN_SENTENCES", 2)
    rows = [
        *call(7, 70, "2020-02-29", [PLEASED]),
        *call(7, 71, "2020-02-28", ["Freight is late."]),
        *call(8, 80, "2020-02-03", ["Freight is late.", PLEASED]),
        *call(8, 81, "2020-03-01", ["The pandemic closed our stores."]),
        *call(9, 90, "2020-02-03", ["Who says but one sentence is left out."]),
        *call(10, 100, "2020-03-01", [PLEASED] * 9),
    ]
    found = build_baseline.firms_until([write_calls(tmp_path / "calls.csv", rows)], date(2020, 2, 29))
    assert [sorted(sentences) for _, sentences in found] == [["Freight is late.", PLEASED]] * 2
    assert [{"acme"} <= names for names, _ in found] == [True, False]


def test_words_of_the_baseline_are_those_of_some_firms_with_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_baseline, "WORD_SHARE", 0.75)
    firms = [["Ports ship freight."], ["Ports ship wheat."], ["Freight waits. Ports wait."], ["Rain."]]
    assert build_baseline.common_words([(NOBODY, sentences) for sentences in firms]) == [("ports", 0.75)]


@pytest.mark.slow
@pytest.mark.skipif(not all(file.exists() for file in PAST), reason=f"the calls of the baseline are not in {REAL_DATA}")
def test_the_shipped_baseline_is_what_the_calls_of_the_past_give() -> None:
    firms = build_baseline.firms_until(PAST)
    assert np.array_equal(find_phrases(firms, build_baseline.RUN_SHARE), shipped_phrases())
    assert {term: round(share, 2) for term, share in build_baseline.common_words(firms)} == baseline_shares()
