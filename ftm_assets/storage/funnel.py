"""What becomes of a quarter's sentences on the way to its themes, in all and by voice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ftm_assets.analysis.sentences import Voice

VOICES: tuple[Voice, ...] = get_args(Voice)
WHOLE = "all"


@dataclass(frozen=True)
class FunnelCounts:
    """How many sentences come how far. Each count holds the next one; shares of none are 0.

    voice: one of VOICES, or WHOLE
    """

    voice: str
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
class Funnel:
    """The counts of a quarter: `by_voice` in order of VOICES, which add up to `whole`."""

    whole: FunnelCounts
    by_voice: tuple[FunnelCounts, ...]

    @property
    def rows(self) -> tuple[FunnelCounts, ...]:
        """The whole, then the voices."""
        return (self.whole, *self.by_voice)

    def to_json(self) -> dict[str, Any]:
        """Voice -> its counts, as `theme_runs.funnel` keeps them."""
        return {row.voice: {name: n for name, n in asdict(row).items() if name != "voice"} for row in self.rows}

    @classmethod
    def from_json(cls, stored: Mapping[str, Mapping[str, int]]) -> "Funnel":
        """What `to_json` was made from."""
        rows = {voice: FunnelCounts(voice=voice, **stored[voice]) for voice in (WHOLE, *VOICES)}
        return cls(rows.pop(WHOLE), tuple(rows.values()))


def count_funnel(connection: Connection, quarter: str) -> Funnel:
    """What has become of the sentences that are there now.

    A sentence is in a theme while its topic is the one that the theme was made from.
    """
    counted = connection.execute(
        sa.text(
            """
            SELECT coalesce(voice, :whole), count(*), count(*) FILTER (WHERE boilerplate IS NULL),
                   count(a.topic_number), count(m.theme_number)
            FROM sentences AS s
            LEFT JOIN topic_sentences AS a ON (a.quarter, a.sentence_id) = (s.quarter, s.sentence_id)
            LEFT JOIN theme_topics AS m ON (m.quarter, m.company_id, m.live_topic_number)
                                         = (a.quarter, a.company_id, a.topic_number)
            WHERE s.quarter = :quarter
            GROUP BY ROLLUP (voice)
            """
        ),
        {"quarter": quarter, "whole": WHOLE},
    )
    found = {row[0]: FunnelCounts(*row) for row in counted}
    nothing = (0,) * (len(fields(FunnelCounts)) - 1)
    whole, *by_voice = (found.get(voice, FunnelCounts(voice, *nothing)) for voice in (WHOLE, *VOICES))
    return Funnel(whole, tuple(by_voice))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
