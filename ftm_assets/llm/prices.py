"""What language models cost, from a list that says when somebody checked it."""

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
        super().__init__(f"{path}: {problem}; write it as ftm_assets/llm/prices.toml is, or unset FTM_LLM_PRICES")


class PriceUnknown(FtmError):
    """A model is not in the price list, and dollars are capped."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"the price of {model} is unknown, so that no cap can be kept: list it in a file that FTM_LLM_PRICES "
            "names, or set FTM_LLM_QUARTER_CAP=inf and FTM_LLM_RUN_CAP=inf"
        )


class Price(BaseModel):
    """Dollars per million tokens, and until when the model has read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_in: float = Field(ge=0, alias="in")
    tokens_cached: float | None = Field(None, ge=0, alias="cached")
    tokens_out: float = Field(ge=0, alias="out")
    training_cutoff: date | None = None
    checked: date
    source: str = ""

    def dollars(self, tokens_in: int, tokens_cached: int, tokens_out: int) -> float:
        """What a request costs. tokens_cached: those of `tokens_in` that the provider had already"""
        cached = self.tokens_in if self.tokens_cached is None else self.tokens_cached
        paid = (tokens_in - tokens_cached) * self.tokens_in + tokens_cached * cached + tokens_out * self.tokens_out
        return paid / _MILLION


def read_prices(path: Path | None = None) -> Mapping[str, Price]:
    """Model -> price, from a list of one's own or the package's. raises: BadPrices"""
    shipped = files("ftm_assets.llm") / "prices.toml"
    try:
        text = path.read_text(encoding="utf-8") if path else shipped.read_text(encoding="utf-8")
        listed = tomllib.loads(text)
        return {model: Price.model_validate(facts) for model, facts in listed.items()}
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadPrices(path or Path(str(shipped)), f"{error.title} {where}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise BadPrices(path or Path(str(shipped)), str(error)) from error
