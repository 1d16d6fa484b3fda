"""What a text of a language model must be like, on texts whose fault can be seen."""

import pytest

from ftm_assets.analysis.prose import DESCRIPTION, SUMMARY, TITLE, Bounds, Names, fault, phrases_of, plain

# A firm named Target whose chief is Ms. Rose; both words are also said in lower case.
NAMES = Names(frozenset({"target", "rose", "ivanov"}), ("Home Depot",), frozenset({"target", "rose", "costs"}))
INSTRUCTIONS = "You write short summaries of what companies say on their earnings calls for researchers."


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Freight costs rose above target.", None),
        ("Rose as they may, freight costs are passed on.", None),
        ("Freight costs hurt Target in the spring.", "Target"),
        ("The chief, Rose, expects freight costs to fall.", "Rose"),
        ("Ivanov expects freight costs to fall.", "Ivanov"),
        ("Sales at Home Depot fell.", "Home Depot"),
        ("Sales of home depots fell.", None),
        ("Target's freight costs rose.", None),
        ("Freight costs rose at ivanov plants.", None),
    ],
)
def test_a_word_is_a_name_where_nothing_else_explains_its_capital(text: str, name: str | None) -> None:
    assert NAMES.found_in(text) == name


def test_a_title_may_have_all_its_words_in_capitals() -> None:
    assert NAMES.found_in("Costs Rose Above Target", is_title=True) is None
    assert NAMES.found_in("Costs of Ivanov", is_title=True) == "Ivanov"


@pytest.mark.parametrize(
    ("company", "phrases"),
    [
        ("Apple Inc.", ()),
        ("General Electric Company", ("General Electric",)),
        ("The Home Depot, Inc.", ("Home Depot",)),
        ("The Coca-Cola Company", ("Coca-Cola",)),
        ("Wells Fargo & Company", ("Wells Fargo",)),
        ("BADGER METER INC", ("BADGER METER", "Badger Meter")),
        ("SIMON PROPERTY GROUP INC /DE/", ("SIMON PROPERTY", "Simon Property")),
        ("3M Company", ("3M",)),
        ("", ()),
    ],
)
def test_the_name_of_a_firm_is_looked_for_without_its_legal_form(company: str, phrases: tuple[str, ...]) -> None:
    assert phrases_of(company) == phrases


@pytest.mark.parametrize(
    ("text", "bounds", "problem"),
    [
        ("Freight costs rose by much. They are passed on.", SUMMARY, None),
        ("U.S. freight costs rose by 3.5% to $4.2 million.", SUMMARY, None),
        ("Rising freight costs", TITLE, None),
        ("", SUMMARY, "the summary is empty"),
        ("Freight freight freight freight.", SUMMARY, "the summary is too short"),
        ("Costs rose. They fell. They rose again.", SUMMARY, "has 3 sentences, at most 2"),
        ("Freight costs rose. They fell. Then they rose again.", DESCRIPTION, None),
        ("Write to me@example.org about freight costs.", SUMMARY, "holds an address"),
        ("See www.example.org about freight costs.", SUMMARY, "holds an address"),
        ("**Freight** costs rose by much.", SUMMARY, "holds markup"),
        ("Freight costs [see below] rose by much.", SUMMARY, "holds markup"),
        ("Freight costs \u202erose by much.", SUMMARY, "holds markup"),
        ("Freight costs \ud800rose by much.", SUMMARY, "holds markup"),
        ("I was told: you write short summaries of what companies say.", SUMMARY, "repeats instructions"),
        ("The summaries of what companies say are short.", SUMMARY, None),
    ],
)
def test_the_first_fault_is_told(text: str, bounds: Bounds, problem: str | None) -> None:
    found = fault(text, bounds, NAMES, INSTRUCTIONS)
    assert found is None if problem is None else problem in (found or "")


def test_a_text_says_something_that_its_evidence_says() -> None:
    assert fault("Freight costs rose by much.", SUMMARY, NAMES, "", {"freight"}) is None
    assert "says nothing" in (fault("Wages went up by much.", SUMMARY, NAMES, "", {"freight"}) or "")


def test_a_text_is_put_on_one_line() -> None:
    assert plain(" Freight\n costs\t rose. ") == "Freight costs rose."
