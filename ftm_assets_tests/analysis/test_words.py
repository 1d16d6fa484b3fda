from collections.abc import Collection
from importlib.resources import files

import pytest

from ftm_assets.analysis import words
from ftm_assets.analysis.words import all_terms, common_words, name_tokens, terms


def clean_text(text: str, names: Collection[str] = ()) -> str:
    """The single words among all terms."""
    return " ".join(term for term in all_terms(text, names) if " " not in term)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("We're seeing wage inflation in the U.S. market.", "seeing wage inflation u.s. market"),
        ("The firm's customers don't pay.", "firm customers pay"),
        ("It\u2019s Acme\u2019s plant.", "acme plant"),
        ("Uh, you know, I think labor is, um, tight.", "labor tight"),
        ("R&D rose year-over-year in e-commerce.", "r&d rose year-over-year e-commerce"),
        ("Freight [Inaudible] rose (Operator Instructions).", "freight rose"),
        ("Thank you.", ""),
        ("", ""),
    ],
)
def test_only_words_that_may_name_a_topic_are_left(text: str, words: str) -> None:
    assert clean_text(text) == words


def test_numbers_go_but_not_the_words_they_are_part_of() -> None:
    assert clean_text("In Q4 FY21, 3.5% or $1.2B or 40 bps of 10-K risk.") == "bps risk"
    assert clean_text("A 12-month lease, 5G, b2b and COVID-19 at 5 p.m.") == "month lease 5g b2b covid"


def test_names_go_as_whole_words_in_any_case() -> None:
    assert clean_text("COOK and Cook's plan for cookies, Al.", {"cook", "al"}) == "plan cookies al"
    assert clean_text("Post-Smith plans", {"smith"}) == "plans"


def test_names_are_cut_into_their_parts() -> None:
    names = name_tokens(["Tim Cook", "Ann O'Brien", "José Al", ""], "Acme Holdings, Inc.")
    assert names == {"tim", "cook", "ann", "brien", "josé", "acme", "holdings"}


def test_a_word_of_business_is_not_lost_to_a_name() -> None:
    names = name_tokens(["Jo Price", "Will Power"], "First Bank of Acme")
    assert names == {"acme"}
    assert clean_text("The bank raised the price of power", names) == "bank raised price power"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Wage inflation rose.", ["wage", "inflation", "rose", "wage inflation", "inflation rose"]),
        # What goes still stands between its neighbours.
        ("Wages and freight rose 5% faster.", ["wages", "freight", "rose", "faster", "freight rose"]),
        ("Freight, freight, freight.", ["freight", "freight", "freight"]),
        ("Freight [Inaudible] rose.", ["freight", "rose", "freight rose"]),
        ("It's the firm's R&D.", ["firm", "r&d", "firm r&d"]),
        ("Freight.", ["freight"]),
        ("Thank you, 2021.", []),
        ("", []),
    ],
)
def test_terms_are_words_and_pairs_spoken_side_by_side(text: str, expected: list[str]) -> None:
    assert all_terms(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Interest rates rose and interest expense doubled.",
            "interest rates rose interest expense doubled|interest rates|rates rose|interest expense|expense doubled",
        ),
        ("The mine, the mill and the fire.", "mine mill fire"),
        ("The system, the bottom line and that amount.", "system bottom line amount|bottom line"),
        ("A top customer's bill was found to be ours.", "top customer bill|top customer|customer bill"),
    ],
)
def test_a_word_of_business_is_no_stop_word(text: str, expected: str) -> None:
    words, *pairs = expected.split("|")
    assert sorted(all_terms(text)) == sorted([*words.split(), *pairs])


def test_no_word_is_listed_twice() -> None:
    folder = files("ftm_assets.analysis")
    for file in ("stop_words.txt", "filler_words.txt", "business_words.txt"):
        lines = [line for line in folder.joinpath(file).read_text("utf-8").splitlines() if not line.startswith("#")]
        listed = [word for line in lines for word in line.split()]
        assert len(listed) == len(set(listed))
    assert words._word_list("business_words.txt").isdisjoint(words.STOP_WORDS)


def test_a_name_is_no_term_and_joins_no_pair() -> None:
    assert all_terms("Freight Cook costs", {"cook"}) == ["freight", "costs"]
    assert all_terms("Freight cookies", {"cook"}) == ["freight", "cookies", "freight cookies"]


# --- what nearly every firm says


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Freight costs rose.", ["freight", "rose", "freight costs", "costs rose"]),
        ("Our customers expect growth.", ["customers expect", "expect growth"]),
        ("Higher net income.", ["higher net"]),
        ("Our net income was higher.", []),
    ],
)
def test_terms_leave_out_what_nearly_every_firm_says_and_keep_what_it_says_with_it(
    text: str, expected: list[str]
) -> None:
    assert terms(text) == expected


def test_terms_are_all_terms_without_the_common_ones_in_their_order() -> None:
    text = "We're seeing Ann's wage inflation, 3.5%, in the U.S. market, uh, year-over-year."
    every = all_terms(text, {"ann"})
    assert terms(text, {"ann"}) == [term for term in every if term not in common_words()]
    assert {"seeing", "market", "year-over-year"} == set(every) & common_words()


def test_common_words_are_words_and_pairs_as_terms_are_cut() -> None:
    assert len(common_words()) > 200
    for term in common_words():
        assert term in all_terms(term), term


@pytest.mark.parametrize(
    "subject", "freight wages inflation lease tariffs china weather hurricane oil steel labor hiring".split()
)
def test_what_some_firms_speak_of_is_not_common(subject: str) -> None:
    assert terms(subject) == [subject]
