"""The IO manager: the only writer and reader of partition data, one transaction a partition."""

from typing import Any

import dagster as dg
import sqlalchemy as sa

from ftm_assets.analysis.sentences import FirmTurns, Sentences
from ftm_assets.analysis.summaries import Summaries
from ftm_assets.analysis.themes import QuarterTopics, Themes
from ftm_assets.analysis.topics import Topics
from ftm_assets.errors import FtmError
from ftm_assets.storage import stages
from ftm_assets.storage.database import Database
from ftm_assets.storage.themes import publish, read_quarter_topics

_FIRM_READERS = {
    FirmTurns: stages.read_turns,
    Sentences: stages.read_sentences,
    Topics: stages.read_topics,
}


class NotStored(FtmError):
    """An asset returns or asks for a type that no table holds."""

    def __init__(self, asset: str, kind: object) -> None:
        known = ", ".join(k.__name__ for k in (*_FIRM_READERS, Summaries, QuarterTopics, Themes))
        super().__init__(f"asset {asset!r}: {kind!r} is not something the tables hold; annotate it with one of {known}")


class PgVectorIOManager(dg.IOManager):
    """Stores what firm and theme assets return; the type of the value says which tables it belongs to.

    A write that fails leaves the old partition whole; a write of equal content touches nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the partition's rows, if they differ."""
        versions = {"code": context.asset_spec.code_version}
        with self._database.transaction() as connection:
            if isinstance(obj, Themes):
                changed = publish(connection, obj, versions)
            elif isinstance(obj, Sentences | Topics | Summaries):
                where = stages.find_firm_quarter(connection, *_firm_partition(context.partition_key))
                changed = stages.write(connection, where, obj, versions)
            else:
                raise NotStored(context.asset_key.to_user_string(), type(obj))
        context.add_output_metadata({"rows": "replaced" if changed else "unchanged"})

    def load_input(self, context: dg.InputContext) -> Any:
        """The part of the upstream asset that the running partition needs, as its annotated type."""
        wanted = context.dagster_type.typing_type
        with self._database.transaction() as connection:
            # Of one moment: were calls replaced between two queries, old rows would pass for made from the new ones.
            connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            if wanted is QuarterTopics:
                return read_quarter_topics(connection, context.partition_key)
            if wanted in _FIRM_READERS:
                where = stages.find_firm_quarter(connection, *_firm_partition(context.partition_key))
                return _FIRM_READERS[wanted](connection, where)
        raise NotStored(context.asset_key.to_user_string(), wanted)


def _firm_partition(partition_key: str) -> tuple[str, str]:
    """Quarter and firm key of `AAPL-60094812|2021Q4`; Dagster joins dimensions in alphabetical order."""
    firm, _, quarter = partition_key.partition("|")
    return quarter, firm
