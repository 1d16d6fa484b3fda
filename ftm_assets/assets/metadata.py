"""What a materialization tells beside its rows: column schemas, previews, and one shape of result for all assets."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from ftm_assets.llm.protocol import Bill
from ftm_assets.storage.read.llm_spending import LookAhead
from ftm_assets.storage.schema import tables

if TYPE_CHECKING:
    Materialized = dg.MaterializeResult[Any]
else:
    # Dagster takes a parametrized MaterializeResult for a tuple as soon as the asset carries checks.
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


def bill_metadata(bill: Bill) -> Metadata:
    """What a language model was asked and what that took; nothing where none was asked."""
    if not bill.n_sent + bill.n_reused:
        return {}
    return known(
        {
            "requests": bill.n_sent,
            "replies reused": bill.n_reused,
            "tokens in": bill.tokens_in,
            "tokens in, cached": bill.tokens_cached,
            "tokens out": bill.tokens_out,
            # Where no reply had a price, nobody knows.
            "dollars": round(bill.dollars, 6) if bill.n_sent == 0 or bill.n_price_unknown < bill.n_sent else None,
            "requests of unknown price": bill.n_price_unknown or None,
        }
    )


def look_ahead_metadata(knowing: Sequence[LookAhead]) -> Metadata:
    """What a language model may have known of the future; nothing where none was asked or nobody knows."""
    return {"look-ahead bias": "; ".join(map(str, knowing))} if knowing else {}


def known(metadata: Metadata) -> Metadata:
    """The entries that have a value; an absent reason is not shown as `None`."""
    return {name: value for name, value in metadata.items() if value is not None}
