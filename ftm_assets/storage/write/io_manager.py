"""The IO manager: the only writer and reader of partition data, one transaction a partition."""

from time import monotonic
from typing import Any

import dagster as dg
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.sentences import FirmTurns
from ftm_assets.analysis.themes import QuarterTopics, Themes
from ftm_assets.errors import FtmError
from ftm_assets.partition_key import PartitionKey
from ftm_assets.storage import stages
from ftm_assets.storage.read.attrition import Attrition
from ftm_assets.storage.read.quarter_topics import analyze_topic_tables, read_quarter_topics
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.stages.base import FirmQuarter, Provenance, find_firm_quarter
from ftm_assets.storage.stages.transcripts import read_turns
from ftm_assets.storage.write.stages import write
from ftm_assets.storage.write.themes import publish

_Step = tuple[str, str]  # Run id and step key.


class NotStored(FtmError):
    """An asset returns or asks for a type that no table holds."""

    def __init__(self, asset: str, kind: object) -> None:
        types: tuple[type, ...] = (FirmTurns, *(stage.value_type for stage in stages.STAGES), QuarterTopics, Themes)
        known = ", ".join(each.__name__ for each in types)
        super().__init__(f"asset {asset!r}: {kind!r} is not something the tables hold; annotate it with one of {known}")


class PgVectorIOManager(dg.IOManager):
    """Stores what firm and theme assets return; the type of the value says which tables it belongs to.

    A write that fails leaves the old partition whole; a write of equal content touches nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # One is enough: a process executes one step at a time, and the next step replaces one that failed.
        self._begun: tuple[_Step, float] | None = None

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the partition's rows, if they differ."""
        if not isinstance(obj, Themes) and stages.find_stage(type(obj)) is None:
            raise NotStored(context.asset_key.to_user_string(), type(obj))
        seconds = self._seconds_of((context.run_id, context.step_key))
        provenance = Provenance.of(obj, seconds, code=context.asset_spec.code_version)
        with self._database.transaction() as connection:
            if isinstance(obj, Themes):
                published = publish(connection, obj, provenance)
                changed = published.changed
                context.add_output_metadata({"sentences by utterance type": _attrition_table(published.attrition)})
            else:
                changed = write(connection, _firm_quarter(connection, context.partition_key), obj, provenance)
        context.add_output_metadata({"rows": "replaced" if changed else "unchanged"})

    def load_input(self, context: dg.InputContext) -> Any:
        """The part of the upstream asset that the running partition needs, as its annotated type."""
        self._begin(context)
        wanted = context.dagster_type.typing_type
        if wanted is QuarterTopics:
            with self._database.transaction() as connection:
                analyze_topic_tables(connection)
        with self._database.transaction() as connection:
            # Of one moment: were calls replaced between two queries, old rows would pass for made from the new ones.
            connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            if wanted is QuarterTopics:
                return read_quarter_topics(connection, context.partition_key)
            if wanted is FirmTurns:
                return read_turns(connection, _firm_quarter(connection, context.partition_key))
            if stage := stages.find_stage(wanted):
                return stage.read(connection, _firm_quarter(connection, context.partition_key))
        raise NotStored(context.asset_key.to_user_string(), wanted)

    def _begin(self, context: dg.InputContext) -> None:
        """Note when a step began to read. Only its first read counts, and no read outside of a run. Decision 51."""
        try:
            in_run = context.step_context
        except dg.DagsterInvariantViolationError:
            return
        step = (in_run.run_id, in_run.step.key)
        if self._begun is None or self._begun[0] != step:
            self._begun = (step, monotonic())

    def _seconds_of(self, step: _Step) -> float | None:
        """Seconds since the step began to read; None if it has read nothing."""
        return monotonic() - self._begun[1] if self._begun and self._begun[0] == step else None


def _attrition_table(attrition: Attrition) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "utterance_type": row.utterance_type,
                    "sentences": row.n_sentences,
                    "modelled": row.n_modelled,
                    "share of sentences": round(row.modelled_share, 4),
                    "in topics": row.n_in_topics,
                    "topics' share of modelled": round(row.topic_share, 4),
                    "in themes": row.n_in_themes,
                    "themes' share of modelled": round(row.theme_share, 4),
                }
            )
            for row in attrition.rows
        ]
    )


def _firm_quarter(connection: Connection, partition_key: str) -> FirmQuarter:
    key = PartitionKey.parse(partition_key)
    return find_firm_quarter(connection, quarter=key.quarter, firm_key=key.firm)
