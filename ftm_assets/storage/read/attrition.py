"""What becomes of a quarter's sentences on the way to its themes, in all and by utterance type."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.sentences import UtteranceType
from ftm_assets.storage.schema.rows import rows_as

UTTERANCE_TYPES: tuple[UtteranceType, ...] = get_args(UtteranceType)
WHOLE = "all"


@dataclass(frozen=True)
class AttritionCounts:
    """How many sentences reach each stage. Each count includes the next one; a share of nothing is 0.

    utterance_type: one of UTTERANCE_TYPES, or WHOLE
    """

    utterance_type: str
    n_sentences: int = 0
    n_modelled: int = 0
    n_in_topics: int = 0
    n_in_themes: int = 0

    @property
    def modelled_share(self) -> float:
        """Part of the sentences that is modelled."""
        return _share(self.n_modelled, self.n_sentences)

    @property
    def topic_share(self) -> float:
        """Part of the modelled sentences that is in a topic."""
        return _share(self.n_in_topics, self.n_modelled)

    @property
    def theme_share(self) -> float:
        """Part of the modelled sentences that is in a topic of a theme."""
        return _share(self.n_in_themes, self.n_modelled)


@dataclass(frozen=True)
class Attrition:
    """The counts of a quarter: `by_utterance_type` in order of UTTERANCE_TYPES, which add up to `whole`."""

    whole: AttritionCounts
    by_utterance_type: tuple[AttritionCounts, ...]

    @property
    def rows(self) -> tuple[AttritionCounts, ...]:
        """The whole, then each utterance type."""
        return (self.whole, *self.by_utterance_type)

    def to_json(self) -> dict[str, Any]:
        """Utterance type -> its counts, as `theme_runs.attrition` keeps them."""
        return {
            row.utterance_type: {name: n for name, n in asdict(row).items() if name != "utterance_type"}
            for row in self.rows
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Mapping[str, int]]) -> "Attrition":
        """What `to_json` was made from."""
        rows = {
            utterance_type: AttritionCounts(utterance_type=utterance_type, **stored[utterance_type])
            for utterance_type in (WHOLE, *UTTERANCE_TYPES)
        }
        return cls(rows.pop(WHOLE), tuple(rows.values()))


def count_attrition(connection: Connection, quarter: str) -> Attrition:
    """What became of the sentences that are there now.

    A sentence is in a theme as long as its topic is the one that the theme was made from.
    """
    # The only query that counts it, so that report, status and metadata agree. Decision 50.
    counted = connection.execute(
        sa.text(
            """
            SELECT coalesce(utterance_type, :whole) AS utterance_type, count(*) AS n_sentences,
                   count(*) FILTER (WHERE boilerplate IS NULL) AS n_modelled,
                   count(topic_number) AS n_in_topics, count(theme_number) AS n_in_themes
            FROM sentence_context WHERE quarter = :quarter GROUP BY ROLLUP (utterance_type)
            """
        ),
        {"quarter": quarter, "whole": WHOLE},
    )
    found = {counts.utterance_type: counts for counts in rows_as(AttritionCounts, counted)}
    whole, *by_utterance_type = (
        found.get(utterance_type, AttritionCounts(utterance_type)) for utterance_type in (WHOLE, *UTTERANCE_TYPES)
    )
    return Attrition(whole, tuple(by_utterance_type))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
