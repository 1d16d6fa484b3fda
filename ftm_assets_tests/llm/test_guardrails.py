"""What a text of a language model must be like, on texts whose fault can be seen."""

import pytest

from ftm_assets.analysis.words import name_tokens
from ftm_assets.llm.guardrails import (
    DESCRIPTION,
    SUMMARY,
    TITLE,
    LengthLimits,
    NameBlocklist,
    first_violation,
    one_line,
    short_names,
)

# A firm named Target whose chief is Ms. Rose; both words are also said in lower case.
NAMES = NameBlocklist(
    frozenset({"target", "rose", "ivanov"}), frozenset({"Home Depot"}), frozenset({"target", "rose", "costs"})
)
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
        ("Sales at the HomeDepot stores and at home_depot fell.", "HomeDepot"),
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
    ("company", "short"),
    [
        ("Apple Inc.", {"Apple"}),
        ("General Electric Company", {"General Electric"}),
        ("The Home Depot, Inc.", {"Home Depot"}),
        ("The Coca-Cola Company", {"Coca-Cola"}),
        ("Wells Fargo & Company", {"Wells Fargo"}),
        ("BADGER METER INC", {"BADGER METER"}),
        ("SIMON PROPERTY GROUP INC /DE/", {"SIMON PROPERTY"}),
        ("lululemon athletica inc.", {"lululemon athletica", "lululemon"}),
        ("3M Company", {"3M"}),
        ("!", set()),
        ("", set()),
    ],
)
def test_the_name_of_a_firm_is_looked_for_without_its_legal_form(company: str, short: set[str]) -> None:
    assert short_names(company) == short


@pytest.mark.parametrize(
    ("company", "text", "name"),
    [
        ("eBay Inc.", "Sellers on ebay list more items.", "ebay"),
        ("HP Inc.", "Demand for HP printers fell.", "HP"),
        ("X Corp", "Demand for X fell.", "X"),
        ("iRobot Corporation", "Demand for iRobot vacuums fell.", "iRobot"),
        ("lululemon athletica inc.", "Demand for lululemon leggings fell.", "lululemon"),
        ("Acme Inc.", "Demand for acme tools fell.", "acme"),
        ("Acme Inc.", "Demand for AcmeCorp tools fell.", "Acme"),
        ("Acme Inc.", "Demand for acme_corp tools fell.", "acme"),
        ("Acme Inc.", "Demand for \uff21\uff43\uff4d\uff45 tools fell.", "Acme"),
        ("L'Oréal SA", "Demand for L'Oreal creams fell.", "L'Oreal"),
        ("BADGER METER INC", "Demand for Badger Meter tools fell.", "Badger Meter"),
        ("JPMorgan Chase & Co.", "Deposits at JPMorgan fell.", "JPMorgan"),
        ("3M Company", "Sales of 3M fell.", "3M"),
        ("3M Company", "Sales of $3M and 1.3M tonnes fell.", None),
        ("Acme Inc.", "Demand for acmeology fell.", None),
        ("China Mobile Ltd", "Demand in China fell.", None),
        ("Target Corporation", "Demand fell below target.", None),
        ("Target Corporation", "Target prices fell.", None),
        ("Target Corporation", "Demand at Target fell.", "Target"),
        ("The Gap, Inc.", "Management closed the gap.", None),
        ("The Gap, Inc.", "Demand at Gap fell.", "Gap"),
        ("Best Buy Co., Inc.", "Shoppers look for the best buy.", None),
        ("Best Buy Co., Inc.", "Shoppers leave Best Buy.", "Best Buy"),
        ("", "Demand fell.", None),
    ],
)
def test_a_firm_is_found_however_it_is_written_but_for_words_that_it_says(
    company: str, text: str, name: str | None
) -> None:
    said = ["Demand fell short of the target, and lululemon is the best buy."]
    assert NameBlocklist.for_company(name_tokens((), company), company, said).found_in(text) == name


@pytest.mark.parametrize(
    "person", ["June Lee", "April Lee", "August Lee", "Jordan Lee", "Carolina Lee", "Virginia Lee"]
)
def test_a_date_or_a_place_is_not_taken_for_somebody_of_that_name(person: str) -> None:
    first, _ = person.split()
    names = NameBlocklist.for_company(name_tokens([person], "Acme"), "Acme")
    assert names.found_in(f"Freight costs rose in {first}.") is None
    assert names.found_in(f"Freight costs rose, {person} says.") == "Lee"


def test_of_many_firms_those_people_count_who_were_shown() -> None:
    acme, bolt = (
        NameBlocklist.for_company(name_tokens(["Bo Rich", "Hope Lee"], name), name)
        for name in ("Acme Inc.", "Bolt & Co")
    )
    names = NameBlocklist.for_theme([acme, bolt], ["Freight is dear, Lee says."], {"bolt"})
    assert names.tokens == {"lee"}
    assert names.found_in("Costs of the Rich rose, in Hope of better times.") is None
    assert names.found_in("Costs at acme rose.") == "acme"
    assert names.found_in("Some bolt doors.") is None and names.found_in("Some work at Bolt.") == "Bolt"
    assert NameBlocklist.for_theme([], [], ()) == NameBlocklist()


@pytest.mark.parametrize(
    ("text", "limits", "problem"),
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
        ("Freight costs \u2066rose\u2069 by much.", SUMMARY, "holds markup"),
        ("Freight\ufeff costs rose by much.", SUMMARY, "holds markup"),
        ("Freight co\u00adsts rose by much.", SUMMARY, "holds markup"),
        ("Freight costs rose by much\U000e0041.", SUMMARY, "holds markup"),
        ("Freight \ue000costs rose by much.", SUMMARY, "holds markup"),
        ("Freight &lt;b&gt;costs&lt;/b&gt; rose by much.", SUMMARY, "holds markup"),
        ("\uff1cb\uff1eFreight\uff1c/b\uff1e costs rose by much.", SUMMARY, "holds markup"),
        ("Freight | costs | rose by much.", SUMMARY, "holds markup"),
        ("Freight __costs__ rose by much.", SUMMARY, "holds markup"),
        ("See evil.example.com about freight costs.", SUMMARY, "holds an address"),
        ("See evil.com about freight costs.", SUMMARY, "holds an address"),
        ("Freight costs: javascript:alert(1) rose.", SUMMARY, "holds an address"),
        ("U.S. costs of R&D; e.g. at 2.5x, rose vs. last year by $4.2bn in the U.K.-based unit.", SUMMARY, None),
        ("The data: freight costs rose by much.The cost:income ratio fell.", SUMMARY, None),
        ("I was told: you write short summaries of what companies say.", SUMMARY, "repeats instructions"),
        ("The summaries of what companies say are short.", SUMMARY, None),
    ],
)
def test_the_first_fault_is_told(text: str, limits: LengthLimits, problem: str | None) -> None:
    found = first_violation(text, limits, NAMES, INSTRUCTIONS)
    assert found is None if problem is None else problem in (found or "")


def test_a_text_says_something_that_its_evidence_says() -> None:
    assert first_violation("Freight costs rose by much.", SUMMARY, NAMES, "", {"freight"}) is None
    assert first_violation("Pricing went up by much.", SUMMARY, NAMES, "", {"prices of freight"}) is None
    for evidence in ({"freight"}, {""}, set()):
        assert "says nothing" in (first_violation("Wages went up by much.", SUMMARY, NAMES, "", evidence) or "")
    assert first_violation("Wages went up by much.", SUMMARY, NAMES, "") is None


def test_a_text_is_put_on_one_line() -> None:
    assert one_line(" Freight\n costs\t rose. ") == "Freight costs rose."
