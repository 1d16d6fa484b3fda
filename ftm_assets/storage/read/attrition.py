"""What becomes of a quarter's sentences on the way to its themes, in all and by utterance type."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.sentences import UtteranceType

UTTERANCE_TYPES: tuple[UtteranceType, ...] = get_args(UtteranceType)
WHOLE = "all"


@dataclass(frozen=True)
class AttritionCounts:
    """How many sentences come how far. Each count holds the next one; shares of none are 0.

    utterance_type: one of UTTERANCE_TYPES, or WHOLE
    """

    utterance_type: str
    n_sentences: int
    n_modelled: int
    n_in_topics: int
    n_in_themes: int

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
        """The whole, then the voices."""
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
    """What has become of the sentences that are there now.

    A sentence is in a theme while its topic is the one that the theme was made from.
    """
    counted = connection.execute(
        sa.text(
            """
            SELECT coalesce(utterance_type, :whole), count(*), count(*) FILTER (WHERE boilerplate IS NULL),
                   count(a.topic_number), count(m.theme_number)
            FROM sentences AS s
            LEFT JOIN topic_sentences AS a ON (a.quarter, a.sentence_id) = (s.quarter, s.sentence_id)
            LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                                         = (a.quarter, a.company_id, a.topic_number)
            WHERE s.quarter = :quarter
            GROUP BY ROLLUP (utterance_type)
            """
        ),
        {"quarter": quarter, "whole": WHOLE},
    )
    found = {row[0]: AttritionCounts(*row) for row in counted}
    nothing = (0,) * (len(fields(AttritionCounts)) - 1)
    whole, *by_utterance_type = (
        found.get(utterance_type, AttritionCounts(utterance_type, *nothing))
        for utterance_type in (WHOLE, *UTTERANCE_TYPES)
    )
    return Attrition(whole, tuple(by_utterance_type))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
