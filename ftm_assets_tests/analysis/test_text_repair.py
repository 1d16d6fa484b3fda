import csv
import gzip
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from ftm_assets.analysis.text_repair import (
    CONTROLS,
    ENTITIES,
    INVISIBLE,
    LIGATURES,
    LINES,
    LOST,
    MOJIBAKE,
    QUESTION_MARKS,
    TAGS,
    UNREPAIRED_MOJIBAKE,
    repair_name,
    repair_text,
)
from ftm_assets_tests.conftest import SAMPLE

REAL_CALLS = Path(__file__).parents[3] / "shared" / "data" / "earnings_calls_dev.csv.gz"
SPEECH = (
    "Freight costs rose by twelve percent in the quarter, and we could pass on about half of that to customers. "
    "The rest weighs on the margin of our bakeries, which will need two more quarters until the new contracts "
    "begin. Demand for frozen bread stayed strong in every region but the north."
)


def mojibake(text: str) -> str:
    return text.encode().decode("cp1252")


@pytest.mark.parametrize(
    ("damaged", "sound", "kind"),
    [
        ("Bread &amp; butter, &quot;fresh&quot;", 'Bread & butter, "fresh"', ENTITIES),
        ("We&amp;#8217;re glad, it&#x27;s done.", "We\u2019re glad, it's done.", ENTITIES),
        ("costs&nbsp;rose", "costs rose", ENTITIES),
        ("Costs <b>rose</b> <span class='x'>a lot</span>.", "Costs rose a lot.", TAGS),
        ("<p>Costs rose.</p><p>Rates fell.<br/>So it goes.</p>", "Costs rose.\nRates fell.\nSo it goes.", TAGS),
        ("Costs<!-- note --> rose.<script>let a = 1 < 2;</script>", "Costs rose.", TAGS),
        (mojibake("We\u2019re glad: caf\u00e9s in K\u00f6ln"), "We\u2019re glad: caf\u00e9s in K\u00f6ln", MOJIBAKE),
        (mojibake(mojibake("Z\u00fcrich\u2019s bakeries")), "Z\u00fcrich\u2019s bakeries", MOJIBAKE),
        ("fro\x00zen br\x08ead\x7f", "frozen bread", CONTROLS),
        ("\x1b[1mfrozen\x1b[0m bread", "frozen bread", CONTROLS),
        ("We\x92re glad", "We\u2019re glad", MOJIBAKE),
        ("fro\xadzen \u200bbread\ufeff", "frozen bread", INVISIBLE),
        ("the bak\xad\neries", "the bakeries", INVISIBLE),
        ("a \ufb01rst pro\ufb01t, e\ufb03cient sta\ufb00", "a first profit, efficient staff", LIGATURES),
    ],
)
def test_certain_damage_is_undone_and_named(damaged: str, sound: str, kind: str) -> None:
    assert repair_text(damaged) == (sound, (kind,))
    assert repair_text(sound) == (sound, ())


@pytest.mark.parametrize(
    "sound",
    [
        "",
        "AT&T and R&D; Q&A at 5 < 6 > 4.",
        "Revenue &c; was &up; by 3%.",
        "\u201cCurly\u201d \u2018quotes\u2019 \u2014 and dashes \u2013 stay\u2026",
        "Caf\u00e9s in K\u00f6ln, \u00c5rhus, S\u00e3o Paulo and \u0141\u00f3d cost \u20ac5, \u00a34 or \u00a5600.",
        # Full-width letters, a superscript, a fraction, a space that does not break.
        "\uff21\uff22 and x\u00b2 and \u00bd stay, and so does a\u00a0space.",
        "<Q>: How much? <A>: A lot [laughter] <unintelligible>.",
        "First paragraph about freight costs.\n\nSecond paragraph about wages, longer than the first.\r\nThird.",
        "Our aims:\n- more bread\n- less sugar\n2. fewer shops\n3) new ovens",
        "Outlook\nRevenue will rise\nmargins will follow",
        "Why? Because? See example.com/watch?v=2 and then?",
        "pre- and post-tax",
    ],
)
def test_sound_text_stays_as_it_is(sound: str) -> None:
    assert repair_text(sound) == (sound, ())


@pytest.mark.parametrize("width", [45, 60, 72, 90, 120])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", " \n", "\n\n"])
def test_wrapped_lines_are_joined(width: int, line_break: str) -> None:
    wrapped = line_break.join(textwrap.wrap(SPEECH, width))
    assert repair_text(wrapped) == (SPEECH, (LINES,))


def test_paragraphs_of_a_wrapped_text_stay_paragraphs() -> None:
    paragraphs = ["Good morning.", SPEECH, "Wages rose as well.", SPEECH]
    for between in ("\n", "\n\n"):
        wrapped = between.join("\n".join(textwrap.wrap(paragraph, 66)) for paragraph in paragraphs)
        assert repair_text(wrapped) == (between.join(paragraphs), (LINES,))


def test_a_line_without_a_full_stop_is_joined_only_where_it_is_full() -> None:
    head, rest = "The year in short", "\n".join(textwrap.wrap(SPEECH, 66))
    assert repair_text(f"{head}\n{rest}")[0] == f"{head}\n{SPEECH}"


def test_a_blank_line_ends_a_paragraph_even_behind_a_full_line() -> None:
    one = "Freight costs rose by twelve percent in the quarter and then"
    two = "came down again in the spring, when the harbor was opened to all."
    assert repair_text(f"{one}\n{two}\n\nWages rose.") == (f"{one} {two}\n\nWages rose.", (LINES,))


def test_a_list_in_a_wrapped_text_stays_a_list() -> None:
    lines = textwrap.wrap(SPEECH, 66)[:3]
    assert repair_text("\n".join([*lines, "- more bread", "- less sugar"]))[0] == (
        " ".join(lines) + "\n- more bread\n- less sugar"
    )


def test_lines_of_one_width_that_end_their_sentences_are_paragraphs() -> None:
    sound = "\n".join(["The plant of town made its goal, and more than that, too."] * 5)
    sound += "\nOur plant in the north has made what it could, and so may"
    assert repair_text(f"{sound}\nbe sold.") == (f"{sound}\nbe sold.", ())


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("frozen bread of all the baker-\nies of our group", "bakeries"),
        ("all contracts of the group that are long-\nterm ones now", "long-term"),
        ("all contracts of the group that follow the S&P-\n500 index", "S&P-500"),
    ],
)
def test_a_word_broken_by_a_hyphen_is_whole_again(broken: str, whole: str) -> None:
    text, kinds = repair_text(f"We have looked at the costs of all our\n{broken}")
    assert whole in text.split() and "\n" not in text and kinds == (LINES,)


@pytest.mark.parametrize(
    ("damaged", "kind"),
    [
        ("Nestl\ufffd sells more.", LOST),
        ("We don?t know what it?s worth.", QUESTION_MARKS),
        ("We don\u00e2\u20act know what it\u00e2\u20acs worth.", UNREPAIRED_MOJIBAKE),
    ],
)
def test_what_nobody_can_repair_is_named_and_left(damaged: str, kind: str) -> None:
    assert repair_text(damaged) == (damaged, (kind,))


@pytest.mark.parametrize(
    "damaged",
    [
        "&amp;amp;lt;p&amp;amp;gt;Costs&amp;nbsp;rose&lt;/p&gt;",
        mojibake("\u201cBread &amp; butter\u2014<i>fresh</i>") + "\x00\xad",
        "\n".join(textwrap.wrap(f"{SPEECH} {SPEECH}", 70)),
        "<p>" + "<br>\n".join(textwrap.wrap(SPEECH, 70)) + "</p>",
    ],
)
def test_repairing_twice_equals_repairing_once(damaged: str) -> None:
    once, kinds = repair_text(damaged)
    assert kinds and repair_text(once) == (once, ())


def test_several_kinds_are_all_named() -> None:
    assert repair_text("<p>Bread &amp; but\xadter</p>") == ("Bread & butter", (ENTITIES, TAGS, INVISIBLE))


def test_a_name_is_repaired_but_for_its_lines() -> None:
    assert repair_name("Bread &amp; Sons") == ("Bread & Sons", (ENTITIES,))


def test_nothing_of_the_sample_is_repaired() -> None:
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1000
    for row in rows:
        for column in ("componenttext", "companyname", "transcriptpersonname", "headline"):
            assert repair_text(row[column]) == (row[column], ())


@pytest.mark.skipif(not REAL_CALLS.exists(), reason="real calls are not part of the project")
def test_of_real_calls_only_damage_is_repaired() -> None:
    kinds: Counter[str] = Counter()
    with gzip.open(REAL_CALLS, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            kinds.update(repair_text(row["componenttext"])[1])
    # Of 18,232 turns four have a name of which the UTF-8 was read as Latin-1, such as Credit Suisse's.
    assert kinds == {MOJIBAKE: 4}


@pytest.mark.parametrize(
    "part", ["<p ", "&", "a-\n", "<!--", "<script>", "\xad\n", "\n \t", "\u00c3", "x" * 70 + "\nx "]
)
def test_a_long_text_of_one_mark_is_read_to_its_end(part: str) -> None:
    assert repair_text(part * 2_000)[0].count("x") == 2_000 * part.count("x")


def test_the_libraries_are_not_imported_for_sound_text() -> None:
    code = (
        "import sys, ftm_assets.analysis.sentences as s, ftm_assets.analysis.text_repair as r;"
        "r.repair_text('Sound text.'); print([m for m in ('ftfy', 'py3langid') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
