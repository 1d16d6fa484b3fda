"""What the ledger of the language model tells of a quarter: what was paid, what is there, how much a prompt takes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.storage.schema import tables as t

_KEYS_AT_A_TIME = 10_000


@dataclass(frozen=True)
class Spending:
    """What a quarter has paid a language model for, by the model and the prompt.

    n_requests:      that may have been paid, those of no use included
    n_price_unknown: of a model that the price list does not hold
    dollars:         of the others; of requests whose reply was lost an upper bound
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
class Density:
    """What the requests of a prompt to a model took, as far as they were answered."""

    prompt: str
    n_requests: int
    n_chars: int
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class LookAhead:
    """A model that wrote about a quarter and may have read what came after the first of its calls.

    training_cutoff: None if nobody has said until when it has read
    """

    model: str
    training_cutoff: date | None
    first_call: date

    def __str__(self) -> str:
        if self.training_cutoff is None:
            return (
                f"until when {self.model} has read is unknown, the first call is of {self.first_call:%Y-%m-%d}: "
                "what it writes may know what came later"
            )
        return (
            f"{self.model} was trained on texts until {self.training_cutoff:%Y-%m-%d}, the first call is of "
            f"{self.first_call:%Y-%m-%d}: what it writes may know what came later"
        )


def spending(connection: Connection, quarter: str) -> list[Spending]:
    """What the quarter has paid for, by model and prompt."""
    rows = connection.execute(
        sa.text(
            """
            SELECT model, prompt, count(*), count(*) FILTER (WHERE state <> 'answered'),
                   count(*) FILTER (WHERE dollars IS NULL), coalesce(sum(tokens_in), 0),
                   coalesce(sum(tokens_cached), 0), coalesce(sum(tokens_out), 0), coalesce(sum(dollars), 0)
            FROM llm_calls WHERE quarter = :quarter AND state <> 'failed'
            GROUP BY model, prompt ORDER BY model, prompt
            """
        ),
        {"quarter": quarter},
    )
    return [Spending(*row) for row in rows]


def stored(connection: Connection, keys: Sequence[str], *states: str) -> set[str]:
    """Those of the questions that have a row in one of these states; `answered` and `refused` are not sent again."""
    found: set[str] = set()
    for start in range(0, len(keys), _KEYS_AT_A_TIME):
        found |= set(
            connection.scalars(
                sa.text("SELECT DISTINCT key FROM llm_calls WHERE state = ANY(:states) AND key = ANY(:keys)"),
                {"keys": list(keys[start : start + _KEYS_AT_A_TIME]), "states": list(states)},
            )
        )
    return found


def densities(connection: Connection, model: str, prompts: Collection[str]) -> dict[str, Density]:
    """Prompt -> what its requests to the model took, whatever quarter paid; prompts never answered are left out."""
    rows = connection.execute(
        sa.text(
            """
            -- A sum of bigint is numeric, which is no number to compute with here.
            SELECT prompt, count(*), sum(chars)::bigint, sum(tokens_in), sum(tokens_out)
            FROM llm_calls, LATERAL (
                SELECT sum(length(message ->> 'content')) AS chars
                FROM jsonb_array_elements(request -> 'messages') AS message
            ) AS sizes
            -- A repair has a bad reply in it.
            WHERE model = :model AND prompt = ANY(:prompts) AND jsonb_array_length(request -> 'messages') = 2
              AND state = 'answered' AND tokens_in > 0
            GROUP BY prompt
            """
        ),
        {"model": model, "prompts": list(prompts)},
    )
    return {row[0]: Density(*row) for row in rows}


def look_ahead(connection: Connection, quarter: str) -> list[LookAhead]:
    """Models whose texts of the quarter are there, but for those that have read nothing from its first call on."""
    rows = connection.execute(
        sa.text(
            """
            WITH used AS (
                SELECT model FROM topic_summaries WHERE quarter = :quarter AND model IS NOT NULL
                UNION SELECT description_model FROM themes
                WHERE quarter = :quarter AND description_model IS NOT NULL
                  AND run_number = (SELECT max(run_number) FROM theme_runs WHERE quarter = :quarter)
            ), calls AS (
                SELECT min(call_date) AS first_call FROM calls WHERE quarter = :quarter AND superseded_by IS NULL
            )
            SELECT used.model, max(training_cutoff), first_call
            FROM used JOIN llm_calls ON used.model = model_answered CROSS JOIN calls
            GROUP BY used.model, first_call HAVING max(training_cutoff) > first_call OR max(training_cutoff) IS NULL
            ORDER BY used.model
            """
        ),
        {"quarter": quarter},
    )
    return [LookAhead(*row) for row in rows]


def look_ahead_of(connection: Connection, keys: Collection[str], first_call: date | None) -> list[LookAhead]:
    """As `look_ahead`, of the replies with these keys and a first call of that day."""
    if first_call is None:
        return []
    rows = connection.execute(
        sa.text(
            """
            SELECT model_answered, max(training_cutoff) FROM llm_calls
            WHERE key = ANY(:keys) AND model_answered IS NOT NULL
            GROUP BY model_answered HAVING max(training_cutoff) > :first_call OR max(training_cutoff) IS NULL
            ORDER BY model_answered
            """
        ),
        {"keys": list(keys), "first_call": first_call},
    )
    return [LookAhead(row[0], row[1], first_call) for row in rows]


def first_call(connection: Connection, quarter: str) -> date | None:
    """The day of the first modelled call of a quarter, None if it has none."""
    found: date | None = connection.scalar(
        sa.select(sa.func.min(t.Call.call_date)).where(t.Call.quarter == quarter, t.Call.superseded_by.is_(None))
    )
    return found
