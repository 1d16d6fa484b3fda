from pathlib import Path

import pytest

from devtools.fake_openai.behaviour import MODEL
from ftm_assets.llm.prices import BadPrices, Price, read_prices


def test_the_list_of_the_package_says_when_each_price_was_checked_and_where() -> None:
    prices = read_prices()
    assert len(prices) > 3 and all(price.checked and price.source for price in prices.values())
    assert prices[MODEL].dollars(10**6, 0, 10**6) == 0.0


def test_cached_tokens_have_a_price_of_their_own_or_that_of_the_others() -> None:
    facts = {"in": 2.0, "out": 8.0, "checked": "2026-11-28"}
    assert Price.model_validate({**facts, "cached": 0.5}).dollars(3_000_000, 1_000_000, 500_000) == 4.0 + 0.5 + 4.0
    assert Price.model_validate(facts).dollars(3_000_000, 1_000_000, 0) == 6.0


def test_a_list_of_ones_own_takes_the_place_of_the_packages(tmp_path: Path) -> None:
    listed = tmp_path / "prices.toml"
    listed.write_text('["my-model"]\nin = 1\nout = 2\nchecked = 2026-11-28\ntraining_cutoff = 2024-05-31\n')
    assert read_prices(listed).keys() == {"my-model"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('["m"]\nin = 1\nout = 2\n', "checked: Field required"),
        ('["m"]\nin = -1\nout = 2\nchecked = 2026-11-28\n', "in: Input should be greater than or equal to 0"),
        ('["m"]\nin = 1\nout = 2\nchecked = 2026-11-28\nouput = 3\n', "ouput: Extra inputs are not permitted"),
        ("in = ", "Invalid value"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    listed = tmp_path / "prices.toml"
    listed.write_text(text)
    with pytest.raises(BadPrices, match=f"prices.toml: .*{problem}"):
        read_prices(listed)
    with pytest.raises(BadPrices, match=r"nowhere\.toml"):
        read_prices(tmp_path / "nowhere.toml")
