"""The only reader of the environment: every `FTM_...` variable, with its type and its default."""

import math
import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import sqlalchemy as sa
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ftm_assets.errors import FtmError


class BadSetting(FtmError):
    """An `FTM_...` variable cannot be used as it stands."""


Precision = Literal["auto", "fp32", "bf16", "fp16"]
# The variables that may hold the model's key.
MODEL_KEYS = ("FTM_LLM_API_KEY", "XAI_API_KEY")


# What a worker reads once, at its start: the second only with a language model.
_READ_BY_WORKER = (
    "encoder",
    "device",
    "precision",
    "lanes",
    "lane_runs",
    "lane_memory",
    "grace",
    "event_days",
    "preload",
    "quarters",
    "llm_model",
)
_READ_BY_LLM_CLIENT = (
    "llm_base_url",
    "llm_concurrency",
    "llm_rpm",
    "llm_tpm",
    "llm_timeout",
    "llm_reasoning_effort",
    "llm_patience",
    "llm_run_cap",
    "llm_quarter_cap",
    "llm_prices",
)


class Settings(BaseSettings):
    """What differs from one machine to the next. Only `encoder` and `precision`, and the last digits of vectors on
    another `device`, change a result.
    """

    model_config = SettingsConfigDict(env_prefix="FTM_", frozen=True)

    home: Path = Field(Path(".ftm"), description="where the embedded database, run logs and reports rest")
    database_url: SecretStr | None = Field(
        None, description="postgresql://user:password@host/database; empty: embedded"
    )
    dagster_database_url: SecretStr | None = Field(
        None, description="Dagster's own; empty: `dagster` on the same server"
    )
    quarters: str = Field("2015Q1:2027Q4", description="first and last quarter that the graph shows")
    source: str | None = Field(None, description="transcript source that the UI uses when the launchpad names none")
    encoder: str = Field("all-MiniLM-L6-v2", description="sentence-transformers model: name, path, or module:attribute")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Precision = Field(
        "auto", description="of the encoder: auto, fp32, bf16, fp16; auto: fp32, on NVIDIA's GPUs fp16"
    )

    # Decision 94: a lane that waits costs memory but no CPU.
    lanes: int = Field(
        0, ge=0, description="runs at a time in the worker; 0: cores and two, with a language model 16 more, at most 32"
    )
    lane_runs: int = Field(200, ge=1, description="a lane's process is replaced after so many runs")
    lane_memory: int = Field(
        0, ge=0, description="MB by which a lane may grow, twice that kills it; 0: a part of the machine's"
    )
    grace: float = Field(90.0, ge=0, description="seconds that runs may take to end once the worker is to stop")
    metrics_port: int = Field(9464, ge=0, le=65535, description="loopback port of the worker's metrics; 0: none")
    index_memory: int = Field(
        4096, ge=64, description="MB of the database server that the build of a vector index may take"
    )
    index_workers: int = Field(2, ge=0, description="processes that help to build a vector index; 0: none")
    event_days: int = Field(90, ge=0, description="days after which the worker thins out Dagster's event log; 0: never")
    preload: str = Field("ftm_assets.preload", description="module that lanes are forked with")
    encoder_address: str | None = Field(None, description="socket of the encoder process; the worker sets it for lanes")

    llm_model: str | None = Field(
        None, description="language model that writes summaries; empty: summaries are made of keywords"
    )
    llm_base_url: str = Field("https://api.x.ai/v1", description="base URL of any server that speaks OpenAI's protocol")
    llm_api_key: SecretStr | None = Field(
        None, validate_default=True, description="API key; empty: `XAI_API_KEY` if the server is xAI's"
    )
    llm_concurrency: int = Field(64, ge=1, description="most requests to the model at a time")
    llm_rpm: int = Field(480, ge=0, description="most requests to the model in any minute; 0: no limit")
    llm_tpm: int = Field(2_000_000, ge=0, description="most tokens, in and out, in any minute; 0: no limit")
    llm_timeout: float = Field(60.0, gt=0, description="timeout of a request in seconds")
    llm_reasoning_effort: str | None = Field(
        None, description="`reasoning_effort` sent to the provider, as `low`; empty: default"
    )
    llm_patience: float = Field(120.0, ge=0, description="seconds to wait for a server that is down")
    llm_run_cap: float = Field(
        math.inf, ge=0, description="most dollars per run (one firm, or the themes); inf: no limit"
    )
    llm_quarter_cap: float = Field(20.0, ge=0, description="most dollars per quarter; inf: no limit")
    llm_prices: Path | None = Field(None, description="price list in TOML; empty: the one in the package")
    llm_address: str | None = Field(None, description="socket of the client process; the worker sets it for lanes")

    @field_validator("llm_base_url")
    @classmethod
    def _no_secret(cls, value: str) -> str:
        address = urlsplit(value)
        if address.scheme not in ("http", "https") or not address.hostname or "@" in address.netloc:
            # Not repeated: what it holds may be a key.
            raise ValueError("write it as https://host/v1; a key belongs into FTM_LLM_API_KEY")
        return value.rstrip("/")

    @field_validator("llm_api_key")
    @classmethod
    def _of_xai(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """A key of xAI is for xAI alone: no other server is to see it."""
        if value is not None and value.get_secret_value().strip():
            return SecretStr(value.get_secret_value().strip())
        host = urlsplit(str(info.data.get("llm_base_url", ""))).hostname or ""
        key = os.environ.get("XAI_API_KEY", "").strip() if host == "x.ai" or host.endswith(".x.ai") else ""
        return SecretStr(key) if key else None

    @field_validator("quarters")
    @classmethod
    def _two_quarters(cls, value: str) -> str:
        if not re.fullmatch(r"\d{4}Q[1-4]:\d{4}Q[1-4]", value) or value[:6] > value[7:]:
            raise ValueError(f"{value!r} is not a range of quarters such as 2015Q1:2027Q4")
        return value

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    def of_worker(self) -> dict[str, str]:
        """By variable, what a GPU worker reads once, at its start; no secret is among it."""
        names = _READ_BY_WORKER + (_READ_BY_LLM_CLIENT if self.llm_model else ())
        values = {name: getattr(self, name) for name in names}
        return {f"FTM_{name.upper()}": "" if value is None else str(value) for name, value in values.items()}

    def quarter_keys(self) -> list[str]:
        """Every quarter of the range, in order."""
        first, last = (int(q[:4]) * 4 + int(q[5]) - 1 for q in self.quarters.split(":"))
        return [f"{n // 4}Q{n % 4 + 1}" for n in range(first, last + 1)]


def read_settings() -> Settings:
    """The settings of this process. raises: BadSetting, naming the variable and what is wrong with it"""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        raise BadSetting(f"FTM_{str(first['loc'][0]).upper()}: {said}") from None


def parse_url(url: str) -> sa.URL:
    """The parts of a `postgresql://user:password@host:port/database`. raises: BadSetting, which does not repeat it"""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    # What follows an @ in a password is read as the host, and hosts are shown.
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres") or "@" in (parsed.host or ""):
        raise BadSetting(
            "FTM_DATABASE_URL and FTM_DAGSTER_DATABASE_URL are written as postgresql://user:password@host:port/database"
            ", and of special characters in the password the %XX form; unset them to use the embedded server"
        )
    return parsed


def with_database(url: str, name: str) -> str:
    """The same server's URL with another database; a secret if the URL is. raises: BadSetting"""
    return parse_url(url).set(database=name).render_as_string(hide_password=False)
