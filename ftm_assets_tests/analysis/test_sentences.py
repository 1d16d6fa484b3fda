import csv
import gzip
import random
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from ftm_assets.analysis.boilerplate.rules import boilerplate_reason
from ftm_assets.analysis.sentences import (
    SPLITTER,
    CallDay,
    FirmTurns,
    Sentences,
    SentenceSettings,
    Turn,
    split_text,
    split_turns,
)

REAL_CALLS = Path(__file__).parents[3] / "shared" / "data" / "earnings_calls_small.csv.gz"


def turn(
    text: str,
    transcript_id: int = 7,
    component_order: int = 0,
    type_name: str = "Answer",
    speaker_type: str = "Executives",
) -> Turn:
    return Turn(transcript_id, component_order, type_name, speaker_type, "Ann Lee", text)


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in split_text(text)]


def assert_covered(text: str, spans: list[tuple[int, int]]) -> None:
    """Spans increase, do not overlap, have no outer white space, and leave only white space out."""
    behind = 0
    for start, end in spans:
        assert behind <= start < end <= len(text)
        assert not text[behind:start].strip()
        assert text[start:end] == text[start:end].strip()
        behind = end
    assert not text[behind:].strip()


@pytest.mark.parametrize(
    "sentences",
    [
        "We grew in the U.S. market this quarter.|It fell.",
        "We grew in the U.S.|Our margin rose.",
        "Acme, Inc. Chief Executive Officer Jane Doe is here.|She leads R&D.",
        "We compare this vs. Q3 of last year.|It was up.",
        "Margin was 3.5%.|Revenue was $1.2 billion.|That is up.",
        "We are No. 1 in the category.|We stay there.",
        "This is Q4.|So we expect growth in fiscal 2022.|2023 will be better.",
        "I asked J. Smith.|He runs sales.",
        "Costs, e.g. Freight and labor, went up.|Prices did too.",
        "Well... I think so.|Yes.",
        'He said "We are done."|Then we left.',
        "He called it “transformational.”|We agree.",
        "The call starts at 8:00 a.m. Eastern time.|Please dial in.",
        "We are open until 5 p.m.|Then we close.",
        "Please see our 10-K.|It lists the risks.",
        "Dr. Jones and Ms. Doe are here.|Mr. Lee is not.",
        "The St. Louis plant reopened.|It runs well.",
        "Ford Motor Co. announced a recall.|We did not.",
        "We pass on cost in non-U.S. markets.|We wait.",
        "Thank you for having me.|OK.|I ask about margins.",
        "Some grow and some don't.|But we do.",
        "We use Yahoo! and Booking.com data.|It is good.",
        "Operating income grew 12%.|iPhone set a record.",
        "(It was.)|We saw “it.”)|[Inaudible] we go.",
    ],
)
def test_a_period_ends_a_sentence_only_where_a_reader_would_stop(sentences: str) -> None:
    assert split(sentences.replace("|", " ")) == sentences.split("|")


def test_a_year_with_an_apostrophe_does_not_open_a_quotation() -> None:
    assert split("We liked '21. It was good. Then came '22. The firms' costs rose.") == [
        "We liked '21.",
        "It was good.",
        "Then came '22.",
        "The firms' costs rose.",
    ]


def test_an_unclosed_bracket_or_quote_hides_no_sentence_end() -> None:
    assert split('We said (to you. We "went on. All fell) again. So did I.') == [
        "We said (to you.",
        'We "went on.',
        "All fell) again.",
        "So did I.",
    ]


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\n\n", "\u2029"])
def test_a_line_break_always_ends_a_sentence(line_break: str) -> None:
    assert split(f"our margin{line_break}rose.") == ["our margin", "rose."]


@pytest.mark.parametrize("text", ["", "   ", "\n\u00a0\n"])
def test_text_without_a_word_has_no_sentence(text: str) -> None:
    assert split_text(text) == []
    assert split_turns(1, [turn(text)]) == ()


@pytest.mark.parametrize(
    "text",
    [
        "We paid Mr. J\u00a0B. Smith. He left.",  # Made sentencex panic.
        "Up 😀. “Quite so,” they said… Then \u2018down\u2019. 👩‍👩‍👧 went.",
        "CrÃ©dit Suisse asked. Â\u00a0We answered.\u2003Fine.",
        "A lone \ud800 surrogate. Then more.",
    ],
)
def test_offsets_count_characters_whatever_the_characters(text: str) -> None:
    assert_covered(text, split_text(text))
    assert len(split_text(text)) >= 2


def test_offsets_hold_for_any_mixture_of_characters() -> None:
    chance = random.Random(1)
    alphabet = [
        *"aAI1. .!?…\"“”\u2018\u2019'()[]<>\u00a0\u2028\x85\t\n\r\u200b\u3000😀é—$%-",
        "U.S.",
        "Ms.",
        "OK.",
        "\ud800",
        "don't.",
    ]
    for _ in range(3000):
        text = "".join(chance.choices(alphabet, k=chance.randint(0, 25)))
        spans = split_text(text, max_chars=9)
        assert_covered(text, spans)
        assert all(end - start <= 9 for start, end in spans)


def test_a_long_text_without_punctuation_is_cut_at_white_space() -> None:
    assert split_text("one four three", max_chars=8) == [(0, 8), (9, 14)]
    spans = split_text("word " * 200_000)
    assert max(end - start for start, end in spans) <= 2000
    assert len(spans) == 500


def test_a_word_longer_than_a_sentence_is_cut_where_it_must_be() -> None:
    assert split_text("x" * 5, max_chars=2) == [(0, 2), (2, 4), (4, 5)]
    with pytest.raises(ValueError, match="max_chars is 0"):
        split_text("x", max_chars=0)


def test_a_sentence_names_its_place_in_the_turn() -> None:
    one_turn = turn("  Our margin rose again. \n Costs fell in all regions.", component_order=3)
    first, second = split_turns(12, [one_turn])
    assert (first.sentence_id, second.sentence_id) == ("12_7_0000", "12_7_0001")
    assert (second.transcript_id, second.component_order, second.position) == (7, 3, 1)
    assert one_turn.text[second.start_char : second.end_char] == second.text == "Costs fell in all regions."


def test_positions_count_through_a_transcript_and_start_anew_in_the_next() -> None:
    sentences = split_turns(1, [turn("First. Second.", 7, 1), turn("Third.", 7, 2), turn("B.", 9, 0)])
    assert [(s.transcript_id, s.position, s.text) for s in sentences] == [
        (7, 0, "First."),
        (7, 1, "Second."),
        (7, 2, "Third."),
        (9, 0, "B."),
    ]


def test_turns_keep_the_order_they_are_given_in() -> None:
    sentences = split_turns(1, [turn("B.", 9, 0), turn("Third.", 7, 2), turn("First. Second.", 7, 1), turn("C.", 9, 1)])
    assert [(s.sentence_id, s.text) for s in sentences] == [
        ("1_9_0000", "B."),
        ("1_7_0000", "Third."),
        ("1_7_0001", "First."),
        ("1_7_0002", "Second."),
        ("1_9_0001", "C."),
    ]


def test_operators_say_no_sentences() -> None:
    turns = [
        turn("Welcome.", speaker_type="Operator", type_name="Answer"),
        turn("Next one.", speaker_type="", type_name="Question and Answer Operator Message"),
        turn("We grew.", speaker_type="Executives", type_name="Presentation Operator Message"),
    ]
    assert [s.text for s in split_turns(1, turns)] == ["We grew."]


@pytest.mark.parametrize(
    ("speaker_type", "role"),
    [
        ("Executives", "executive"),
        ("Analysts", "analyst"),
        ("Unknown", "unknown"),
        ("Attendees", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_role_is_who_speaks(speaker_type: str, role: str) -> None:
    assert split_turns(1, [turn("We grew.", speaker_type=speaker_type)])[0].role == role


@pytest.mark.parametrize(
    ("type_name", "section"),
    [
        ("Presenter Speech", "prepared"),
        ("Question", "qa"),
        ("Answer", "qa"),
        ("Unknown Question and Answer Message", "qa"),
        ("Unknown", "unknown"),
    ],
)
def test_the_section_is_where_in_the_call(type_name: str, section: str) -> None:
    assert split_turns(1, [turn("We grew.", type_name=type_name)])[0].section == section


@pytest.mark.parametrize(
    ("speaker_type", "type_name", "utterance_type"),
    [
        ("Executives", "Presenter Speech", "remark"),
        ("Executives", "Answer", "answer"),
        ("Executives", "Unknown", "unknown"),
        ("Analysts", "Question", "question"),
        ("Analysts", "Presenter Speech", "question"),
        ("Unknown", "Question", "unknown"),
    ],
)
def test_the_voice_is_who_speaks_where(speaker_type: str, type_name: str, utterance_type: str) -> None:
    assert (
        split_turns(1, [turn("We grew.", speaker_type=speaker_type, type_name=type_name)])[0].utterance_type
        == utterance_type
    )


SPOKEN = {
    "remark": ("Executives", "Presenter Speech", "Our margins rose again."),
    "ask": ("Analysts", "Question", "Will your margins rise again?"),
    "answer": ("Executives", "Answer", "They will rise a lot."),
    "thanks": ("Analysts", "Question", "Great, thanks."),
    "somebody": ("Unknown", "Unknown Question and Answer Message", "What about copper then?"),
    "guest asks": ("Shareholders", "Question", "What about copper then?"),
    "guest answers": ("Unknown", "Answer", "Copper will fall a lot."),
    "unsaid": ("Unknown", "Unknown", "Copper will fall a lot."),
    "operator": ("Operator", "Question and Answer Operator Message", "Next question, please."),
}


def exchanges(call: str) -> list[int | None]:
    """The exchange of each turn of a call that is not the operator's, written as the names of its turns."""
    turns = [
        turn(text, component_order=order, speaker_type=speaker_type, type_name=type_name)
        for order, (speaker_type, type_name, text) in enumerate(SPOKEN[name] for name in call.split(", "))
    ]
    return [sentence.exchange for sentence in split_turns(1, turns)]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("remark, operator, ask, answer, answer, operator, ask, answer", [None, 1, 1, 1, 2, 2]),
        ("ask, answer, ask, answer", [1, 1, 2, 2]),
        ("ask, answer, thanks, answer, ask", [1, 1, 1, 1, 2]),
        ("ask, answer, thanks, operator, thanks, answer, ask, answer", [1, 1, 1, None, None, 2, 2]),
        ("ask, ask, answer", [1, 1, 1]),
        ("ask, operator, ask, answer", [1, 2, 2]),
        ("answer, ask, answer, operator, answer", [None, 1, 1, None]),
        ("ask, answer, remark, answer", [1, 1, None, None]),
        ("remark, answer, remark", [None, None, None]),
        ("remark, unsaid", [None, None]),
    ],
)
def test_an_exchange_is_a_question_with_its_answers(call: str, expected: list[int | None]) -> None:
    assert exchanges(call) == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("operator, somebody, answer, somebody, answer", [1, 1, 2, 2]),
        ("ask, somebody, ask, answer", [1, 1, 1, 1]),
        ("guest asks, answer, guest asks, guest answers, ask", [1, 1, 2, 2, 3]),
        ("somebody, somebody, operator, somebody", [1, 1, 2]),
    ],
)
def test_whoever_is_no_executive_asks_unless_it_is_called_an_answer(call: str, expected: list[int | None]) -> None:
    assert exchanges(call) == expected


def test_exchanges_are_counted_anew_in_each_call() -> None:
    ask, answer = (
        turn(SPOKEN[name][2], 7, i, speaker_type=SPOKEN[name][0]) for i, name in enumerate(("ask", "answer"))
    )
    elsewhere = [replace(each, transcript_id=9) for each in (ask, answer)]
    sentences = split_turns(1, [elsewhere[0], ask, answer, elsewhere[1], replace(ask, component_order=2)])
    assert [(s.transcript_id, s.exchange) for s in sentences] == [(9, 1), (7, 1), (7, 1), (9, 1), (7, 2)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Hi, good morning, everyone.", "greeting"),
        ("Good afternoon, and welcome to the Acme third quarter earnings conference call.", "greeting"),
        ("Great. Thank you so much for taking my questions, Ann.", "thanks"),
        ("I appreciate the color.", "thanks"),
        ("That\u2019s very helpful, thank you.", "thanks"),
        ("Congrats on a great quarter.", "congratulations"),
        ("With that, I'll turn the call over to Ann.", "hand-over"),
        ("Let me hand it back over to Ann for her closing remarks.", "hand-over"),
        ("Operator, we are ready for questions.", "hand-over"),
        ("With me today are Ann Lee, our Chief Executive Officer, and Bo Ray, CFO.", "introduction"),
        ("Today's remarks contain forward-looking statements.", "forward-looking"),
        ("Actual results may differ materially from what we expect.", "forward-looking"),
        ("We undertake no obligation to update these statements.", "forward-looking"),
        ("Reconciliations to GAAP measures are in our press release.", "non-GAAP"),
        ("During this call, we will discuss non-GAAP financial measures.", "non-GAAP"),
        ("A replay will be available on our website.", "webcast"),
        ("This call is being recorded.", "webcast"),
        ("Got it.", "too short"),
        ("Yes [Operator Instructions] (inaudible).", "too short"),
        ("--", "too short"),
    ],
)
def test_what_every_firm_says_is_boilerplate(text: str, reason: str) -> None:
    assert boilerplate_reason(text, 4) == reason


@pytest.mark.parametrize(
    "text",
    [
        "Thanks to strong pricing, margins grew in every region.",
        "Thank you, and could you talk about freight costs?",
        "Good morning, I wanted to ask about margins.",
        "Hi, just a question on wage inflation.",
        "Welcome to the era of electric vehicles.",
        "We will pass it on to customers in lower prices.",
        "We had to turn over inventory faster.",
        "Our non-GAAP gross margin expanded again this quarter.",
        "We are forward-looking in how we hire.",
        "The press release of our largest rival moved the market.",
        "It may have a material effect on the results of our rivals.",
        "Before I turn the call over to Ann, backlog is at a record.",
    ],
)
def test_courteous_words_do_not_make_boilerplate_of_a_statement(text: str) -> None:
    assert boilerplate_reason(text, 4) is None


@pytest.mark.parametrize("amount", ["$5", "3.5%", "40 basis points", "2 million", "1.2 billion", "€3", "50 bps"])
def test_a_sentence_with_an_amount_is_never_boilerplate(amount: str) -> None:
    assert boilerplate_reason(f"Up {amount}.", 4) is None
    assert boilerplate_reason(f"Thank you, it was {amount}.", 4) is None


def test_the_fewest_words_are_a_setting() -> None:
    assert boilerplate_reason("Our margins rose.", min_words=4) == "too short"
    assert boilerplate_reason("Our margins rose.", min_words=3) is None
    assert split_turns(1, [turn("Our margins rose.")], SentenceSettings(min_words=3))[0].boilerplate is None


def test_settings_outside_their_bounds_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_words"):
        SentenceSettings(min_words=0)


def test_modelled_sentences_keep_their_vectors() -> None:
    rows = split_turns(1, [turn("Thank you. Our margins rose again.")])
    sentences = Sentences(rows, np.array([[1, 0], [0, 1]], np.float32))
    assert [row.text for row in sentences.rows] == ["Thank you.", "Our margins rose again."]
    assert len(sentences) == 2
    assert [row.text for row in sentences.modelled().rows] == ["Our margins rose again."]
    assert sentences.modelled().embeddings.tolist() == [[0, 1]]


def test_no_sentences_are_sentences_too() -> None:
    assert len(Sentences((), np.zeros((0, 3), np.float32)).modelled()) == 0


@pytest.mark.parametrize(
    "embeddings", [np.zeros((2, 3), np.float32), np.zeros(3, np.float32), np.zeros((1, 3), np.float64)]
)
def test_vectors_that_do_not_fit_are_refused(embeddings: np.ndarray) -> None:
    with pytest.raises(ValueError, match="embeddings are"):
        Sentences(split_turns(1, [turn("We grew.")]), embeddings)


def firm_turns(*turns: Turn, reason: str | None = None) -> FirmTurns:
    return FirmTurns(1, "Acme Holdings, Inc.", (CallDay(7, date(2021, 11, 1)),), turns, "hash of the calls", reason)


def test_names_are_those_of_the_firm_and_of_everyone_who_speaks() -> None:
    firm = firm_turns(turn("We grew."), replace(turn("Hello."), person="Bo O'Neil"), replace(turn("Hi."), person=""))
    assert firm.names == {"acme", "holdings", "ann", "lee", "neil"}


def test_sentences_know_where_they_come_from() -> None:
    firm = firm_turns(turn("Our margins rose again."))
    rows = split_turns(1, firm.turns)
    sentences = Sentences.from_turns(
        firm, rows, np.ones((1, 2), np.float32), ("model", "1"), SentenceSettings(min_words=3)
    )
    assert (sentences.rows, sentences.names, sentences.calls) == (rows, firm.names, firm.calls)
    assert (sentences.encoder, sentences.input_hash, sentences.reason) == (("model", "1"), "hash of the calls", None)
    assert sentences.provenance == {
        "splitter": SPLITTER,
        "encoder": ["model", "1"],
        "settings": {"min_words": 3, "max_commonplace": 0.8, "max_platitude": 0.55, "max_chars": 2000},
        "reason": None,
    }


def test_without_sentences_there_is_a_reason() -> None:
    nothing = np.zeros((0, 2), np.float32)
    assert Sentences.from_turns(firm_turns(reason="no call"), (), nothing, ("model", "1")).reason == "no call"
    silent = Sentences.from_turns(firm_turns(turn("Next.", speaker_type="Operator")), (), nothing, ("model", "1"))
    assert silent.reason == "its calls hold no sentence but the operator's"
    assert silent.provenance["reason"] == silent.reason
    unknown = Sentences.from_turns(replace(firm_turns(), calls=()), (), nothing, ("model", "1"))
    assert unknown.reason == "none of its calls is modelled"


def test_the_hash_of_sentences_covers_all_that_the_next_stage_reads() -> None:
    rows = split_turns(1, [turn("Our margins rose again.")])
    sentences = Sentences(rows, np.ones((1, 2), np.float32), frozenset({"ann", "lee"}), ("model", "1"))
    others = [
        replace(sentences, rows=split_turns(1, [turn("Our margins fell again.")])),
        replace(sentences, rows=(replace(rows[0], boilerplate="greeting"),)),
        replace(sentences, rows=(replace(rows[0], exchange=1),)),
        replace(sentences, embeddings=np.array([[1, 0]], np.float32)),
        replace(sentences, names=frozenset({"ann"})),
        replace(sentences, encoder=("model", "2")),
    ]
    assert len({sentences.content_hash, *(other.content_hash for other in others)}) == 7


def test_the_hash_of_sentences_ignores_how_they_were_made() -> None:
    rows = split_turns(1, [turn("Our margins rose again.")])
    sentences = Sentences(rows, np.ones((1, 2), np.float32), frozenset({"ann", "lee"}))
    again = replace(sentences, names=frozenset(["lee", "ann"]), input_hash="x", provenance={"splitter": "another"})
    assert again.content_hash == sentences.content_hash


def test_the_splitter_is_recorded_with_its_version() -> None:
    library, number = SPLITTER.split()
    assert (library, number) == ("sentencex", version("sentencex"))


@pytest.mark.skipif(not REAL_CALLS.exists(), reason=f"real calls are not at {REAL_CALLS}")
def test_every_word_of_real_calls_is_in_exactly_one_sentence() -> None:
    with gzip.open(REAL_CALLS, "rt", newline="", encoding="utf-8") as file:
        turns = [
            Turn(
                int(row["transcriptid"]),
                int(row["componentorder"]),
                row["transcriptcomponenttypename"],
                row["speakertypename"],
                row["transcriptpersonname"],
                row["componenttext"],
            )
            for row in csv.DictReader(file)
        ]
    for each in turns:
        assert_covered(each.text, split_text(each.text))

    sentences = split_turns(1, turns)
    text_of = {(each.transcript_id, each.component_order): each.text for each in turns}
    assert len({sentence.sentence_id for sentence in sentences}) == len(sentences) > 3000
    assert all(
        text_of[s.transcript_id, s.component_order][s.start_char : s.end_char] == s.text and len(s.text) <= 2000
        for s in sentences
    )
    modelled = sum(sentence.boilerplate is None for sentence in sentences)
    assert 0.7 < modelled / len(sentences) < 0.95
