"""Metadata of materializations: column schemas, previews, and one type of result for all assets."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from ftm_assets.llm.protocol import UsageCost
from ftm_assets.storage.read.llm_spending import LookAhead
from ftm_assets.storage.schema import tables

if TYPE_CHECKING:
    Materialized = dg.MaterializeResult[Any]
else:
    # Dagster mistakes a parametrized MaterializeResult for a tuple if the asset has checks.
    Materialized = dg.MaterializeResult

Metadata = dict[str, Any]

OWNERS = ["team:quant-text"]
CELL_CHARS = 160


def column_schema(table: type[tables.Base]) -> dg.TableSchema:
    """The columns of a table as Dagster shows them in the asset catalog."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                str(column.type).lower(),
                description=column.doc,
                constraints=dg.TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in table.__table__.columns
        ]
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """A preview for the materialization's page."""
    lines = [header, ["---"] * len(header), *rows]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines))


def _cell(value: object) -> str:
    text = str(value).replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 3] + "..."


def cost_metadata(cost: UsageCost) -> Metadata:
    """What a language model was sent and what that cost; empty if nothing was sent or reused."""
    if not cost.n_sent + cost.n_reused:
        return {}
    return drop_none(
        {
            "requests": cost.n_sent,
            "replies reused": cost.n_reused,
            "tokens in": cost.tokens_in,
            "tokens in, cached": cost.tokens_cached,
            "tokens out": cost.tokens_out,
            # If no reply had a known price, neither has the sum.
            "dollars": round(cost.dollars, 6) if cost.n_sent == 0 or cost.n_price_unknown < cost.n_sent else None,
            "requests of unknown price": cost.n_price_unknown or None,
        }
    )


def look_ahead_metadata(found: Sequence[LookAhead]) -> Metadata:
    """A warning about look-ahead bias; empty if there is none."""
    return {"look-ahead bias": "; ".join(map(str, found))} if found else {}


def drop_none(metadata: Metadata) -> Metadata:
    """The entries that have a value."""
    return {name: value for name, value in metadata.items() if value is not None}
