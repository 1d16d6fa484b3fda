import numpy as np
import pytest

from ftm_assets.analysis.language import foreign_language
from ftm_assets.analysis.sentences import FirmTurns, Sentences, Turn, split_turns

GERMAN = (
    "Guten Morgen, meine Damen und Herren. Die Kosten der Fracht stiegen im dritten Quartal um zw\u00f6lf Prozent. "
    "Die H\u00e4lfte davon konnten wir an unsere Kunden weitergeben."
)
DUTCH = (
    "Goedemorgen dames en heren. De kosten van het vervoer zijn in dit kwartaal met twaalf procent gestegen. Wat we "
    "over hebben is minder dan we hadden verwacht."
)
JAPANESE = "第三四半期の運賃は十二パーセント上昇しました。" * 5
GREEK = "Το κόστος μεταφοράς αυξήθηκε κατά δώδεκα τοις εκατό στο τρίμηνο. " * 3  # noqa: RUF001
ENGLISH = (
    "Freight costs rose by twelve percent in the third quarter, and we could pass on about half of that to customers."
)


@pytest.mark.parametrize(("text", "language"), [(GERMAN, "de"), (DUTCH, "nl"), (JAPANESE, "ja"), (GREEK, "el")])
def test_a_call_in_another_language_is_told_by_its_code(text: str, language: str) -> None:
    assert foreign_language([text]) == language


@pytest.mark.parametrize(
    "text",
    [
        "",
        ENGLISH,
        "Danke sch\u00f6n.",
        "Merci beaucoup, Jean-Luc. Next question, please.",
        "EBITDA 4.2 million, EPS 1.20, backlog 300 units, capex 12, R&D 7, SG&A 9, gross margin 41 percent, orders 5",
        "freight steel demand margin capacity wages shipping orders backlog inventory pricing rates growth output",
        "Corvane Vollmarsen Quennell Larkmoor Wetherby Kuhn Dunmore Tobias Henrik Amara Silas Harlan Cobalt " * 2,
        f"{ENGLISH} Danke, Hans. Vielen Dank und guten Morgen. {ENGLISH}",
    ],
)
def test_short_calls_figures_and_a_few_foreign_words_are_english(text: str) -> None:
    assert foreign_language([text]) is None


def turns(text: str, transcript_id: int = 70, speaker_type: str = "Executives") -> list[Turn]:
    return [Turn(transcript_id, i, "Answer", speaker_type, "Ann", part) for i, part in enumerate([text] * 2)]


def sentences(said: list[Turn]) -> Sentences:
    rows = split_turns(7, said)
    return Sentences.from_turns(
        FirmTurns(7, "Brot AG", (), tuple(said), "hash"), rows, np.zeros((len(rows), 768), np.float32), ("hash", "1")
    )


def test_sentences_of_a_foreign_call_are_kept_flagged_and_not_modelled() -> None:
    found = sentences(turns(GERMAN))
    assert {row.boilerplate for row in found.rows} == {"not English (de)"} and len(found) == 6
    assert len(found.modelled()) == 0 and found.reason == "not English (de)"
    assert found.provenance["reason"] == "not English (de)"


def test_a_call_is_judged_as_a_whole_and_without_its_operator() -> None:
    operator = turns(ENGLISH * 5, speaker_type="Operator")
    assert sentences(turns(GERMAN) + operator).reason == "not English (de)"


def test_other_calls_of_the_firm_are_modelled_all_the_same() -> None:
    found = sentences(turns(GERMAN) + turns(ENGLISH, transcript_id=71))
    assert found.reason is None
    assert {row.transcript_id for row in found.modelled().rows} == {71}
