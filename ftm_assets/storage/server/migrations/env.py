"""Alembic's entry: runs on the connection that `storage.server.database.migrate` hands over."""

from typing import Any

from alembic import context

from ftm_assets.storage.schema.tables import SEARCH_INDEX_PREFIX, Base


def include_name(name: str | None, kind: str, parents: object) -> bool:
    """Ignore the partitions of `sentences` and the search indexes, which belong to the quarters, not to the schema."""
    of_quarters = {"table": "sentences_", "index": SEARCH_INDEX_PREFIX}
    return not (name is not None and kind in of_quarters and name.startswith(of_quarters[kind]))


def include_object(thing: Any, name: str | None, kind: str, reflected: bool, compare_to: object) -> bool:
    """Ignore the keys that Postgres adds where a partition is referred to."""
    return not (kind == "foreign_key_constraint" and thing.referred_table.name.startswith("sentences_"))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    include_name=include_name,
    include_object=include_object,
)
with context.begin_transaction():
    context.run_migrations()
