import json

import pytest

from bench.faulty_quarter import untrue

REPLIES = [json.dumps({"summaries": [{"title": "Freight", "summary": "Freight rose."}]})]


@pytest.mark.parametrize(
    ("written", "n"),
    [
        (("Freight", "Freight rose.", "model", None), 0),
        ((None, "Freight. Wages.", "keywords", "no credit left"), 0),
        (("Wages", "Wages rose.", "model", None), 1),
        ((None, "Freight. Wages.", "keywords", None), 1),
        (("Freight", "Freight rose.", "keywords", "no credit left"), 1),
    ],
    ids=["by the model", "by keywords", "said by nobody", "without a reason", "by the model, says keywords"],
)
def test_a_source_is_true_if_the_replies_say_so(written: tuple[str | None, str, str, str | None], n: int) -> None:
    assert untrue([written], REPLIES) == n
