"""Prices of language models, from a list that says when each was checked."""

import tomllib
from collections.abc import Mapping
from datetime import date
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftm_assets.errors import FtmError

_MILLION = 1e6


class BadPrices(FtmError):
    """The price list cannot be used."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}; write it like ftm_assets/llm/prices.toml, or unset FTM_LLM_PRICES")


class PriceUnknown(FtmError):
    """A model is not in the price list, and dollars are capped."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"the price of {model} is unknown, so no cap can be kept: list it in a file and name that file in "
            "FTM_LLM_PRICES, or set FTM_LLM_QUARTER_CAP=inf and FTM_LLM_RUN_CAP=inf"
        )


class Price(BaseModel):
    """Dollars per million tokens, and the end of the model's training data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_in: float = Field(ge=0, alias="in")
    tokens_cached: float | None = Field(None, ge=0, alias="cached")
    tokens_out: float = Field(ge=0, alias="out")
    training_cutoff: date | None = None
    checked: date
    source: str = ""

    def dollars(self, tokens_in: int, tokens_cached: int, tokens_out: int) -> float:
        """What a request costs. tokens_cached: those of `tokens_in` that the provider had in its cache"""
        cached = self.tokens_in if self.tokens_cached is None else self.tokens_cached
        paid = (tokens_in - tokens_cached) * self.tokens_in + tokens_cached * cached + tokens_out * self.tokens_out
        return paid / _MILLION


def read_prices(path: Path | None = None) -> Mapping[str, Price]:
    """Model -> price, from your own list or the package's. raises: BadPrices"""
    shipped = files("ftm_assets.llm") / "prices.toml"
    try:
        text = path.read_text(encoding="utf-8") if path else shipped.read_text(encoding="utf-8")
        prices = tomllib.loads(text)
        return {model: Price.model_validate(facts) for model, facts in prices.items()}
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadPrices(path or Path(str(shipped)), f"{error.title} {where}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise BadPrices(path or Path(str(shipped)), str(error)) from error
