"""What the language model's ledger says about a quarter: what was paid, what is stored, and look-ahead bias."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.schema.rows import rows_as

_KEYS_PER_QUERY = 10_000


@dataclass(frozen=True)
class Spending:
    """What a quarter has paid for requests with one prompt to one model.

    n_requests:      that are or may be paid, those of no use included
    n_price_unknown: those of them to a model that is not in the price list
    dollars:         of the others; a lost reply counts with its upper bound
    """

    model: str
    prompt: str
    n_requests: int
    n_of_no_use: int
    n_price_unknown: int
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    dollars: float


@dataclass(frozen=True)
class PromptUsage:
    """What the answered requests with one prompt to one model took."""

    prompt: str
    n_requests: int
    n_chars: int
    tokens_in: int
    tokens_out: int

    @property
    def chars_per_token(self) -> float:
        """Characters for each token in."""
        return self.n_chars / self.tokens_in


@dataclass(frozen=True)
class LookAhead:
    """Look-ahead bias: a model wrote about a quarter, and its training data may reach beyond the first call.

    training_cutoff: None if it is unknown
    """

    model: str
    training_cutoff: date | None
    first_call: date

    def __str__(self) -> str:
        if self.training_cutoff is None:
            trained = f"the training cutoff of {self.model} is unknown"
        else:
            trained = f"{self.model} was trained on texts until {self.training_cutoff:%Y-%m-%d}"
        return f"{trained}, the first call is of {self.first_call:%Y-%m-%d}: its texts may reflect later events"


def spending(connection: Connection, quarter: str) -> list[Spending]:
    """What the quarter has paid, by model and prompt."""
    rows = connection.execute(
        sa.text(
            """
            SELECT model, prompt, count(*) AS n_requests, count(*) FILTER (WHERE state <> 'answered') AS n_of_no_use,
                   count(*) FILTER (WHERE dollars IS NULL) AS n_price_unknown,
                   coalesce(sum(tokens_in), 0) AS tokens_in, coalesce(sum(tokens_cached), 0) AS tokens_cached,
                   coalesce(sum(tokens_out), 0) AS tokens_out, coalesce(sum(dollars), 0) AS dollars
            FROM llm_calls WHERE quarter = :quarter AND state <> 'failed'
            GROUP BY model, prompt ORDER BY model, prompt
            """
        ),
        {"quarter": quarter},
    )
    return rows_as(Spending, rows)


def keys_in_state(connection: Connection, keys: Sequence[str], *states: str) -> set[str]:
    """Keys of the requests with a row in one of these states; `answered` and `refused` are not sent again."""
    found: set[str] = set()
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        found |= set(
            connection.scalars(
                sa.text("SELECT DISTINCT key FROM llm_calls WHERE state = ANY(:states) AND key = ANY(:keys)"),
                {"keys": list(keys[start : start + _KEYS_PER_QUERY]), "states": list(states)},
            )
        )
    return found


def usage_by_prompt(connection: Connection, model: str, prompts: Collection[str]) -> dict[str, PromptUsage]:
    """Prompt -> what its requests to the model took, in all quarters. Prompts without a reply are left out."""
    rows = connection.execute(
        sa.text(
            """
            -- A sum of bigint is numeric, which Python reads as Decimal.
            SELECT prompt, count(*) AS n_requests, sum(chars)::bigint AS n_chars, sum(tokens_in) AS tokens_in,
                   sum(tokens_out) AS tokens_out
            FROM llm_calls, LATERAL (
                SELECT sum(length(message ->> 'content')) AS chars
                FROM jsonb_array_elements(request -> 'messages') AS message
            ) AS sizes
            -- More than two messages: a repair, which holds a bad reply.
            WHERE model = :model AND prompt = ANY(:prompts) AND jsonb_array_length(request -> 'messages') = 2
              AND state = 'answered' AND tokens_in > 0
            GROUP BY prompt
            """
        ),
        {"model": model, "prompts": list(prompts)},
    )
    return {usage.prompt: usage for usage in rows_as(PromptUsage, rows)}


def look_ahead(connection: Connection, quarter: str) -> list[LookAhead]:
    """Models that wrote texts of the quarter, but for those trained before its first call."""
    rows = connection.execute(
        sa.text(
            """
            WITH used AS (
                SELECT model FROM topic_summaries WHERE quarter = :quarter AND model IS NOT NULL
                UNION SELECT description_model FROM current_themes
                WHERE quarter = :quarter AND description_model IS NOT NULL
            ), calls AS (
                SELECT min(call_date) AS first_call FROM calls WHERE quarter = :quarter AND superseded_by IS NULL
            )
            SELECT used.model, max(training_cutoff) AS training_cutoff, first_call
            FROM used JOIN llm_calls ON used.model = model_answered CROSS JOIN calls
            GROUP BY used.model, first_call HAVING max(training_cutoff) > first_call OR max(training_cutoff) IS NULL
            ORDER BY used.model
            """
        ),
        {"quarter": quarter},
    )
    return rows_as(LookAhead, rows)


def look_ahead_of(connection: Connection, keys: Collection[str], first_call: date | None) -> list[LookAhead]:
    """Like `look_ahead`, for the replies with these keys and a first call on that day."""
    if first_call is None:
        return []
    rows = connection.execute(
        sa.text(
            """
            SELECT model_answered AS model, max(training_cutoff) AS training_cutoff FROM llm_calls
            WHERE key = ANY(:keys) AND model_answered IS NOT NULL
            GROUP BY model_answered HAVING max(training_cutoff) > :first_call OR max(training_cutoff) IS NULL
            ORDER BY model_answered
            """
        ),
        {"keys": list(keys), "first_call": first_call},
    )
    return [LookAhead(row.model, row.training_cutoff, first_call) for row in rows]


def first_call(connection: Connection, quarter: str) -> date | None:
    """The day of the first modelled call of a quarter, None if it has none."""
    found: date | None = connection.scalar(
        sa.select(sa.func.min(t.Call.call_date)).where(t.Call.quarter == quarter, t.Call.superseded_by.is_(None))
    )
    return found
