"""Published theme runs: they survive what changes upstream, and know which firms have changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import (
    Themes,
    ThemeSettings,
)
from ftm_assets.storage.read.attrition import Attrition, count_attrition
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.table_stats import analyze
from ftm_assets.storage.stages.base import Provenance
from ftm_assets.storage.write.copy import copy_rows
from ftm_assets.storage.write.stages import link_topics, lock_firm_quarters

# Firms whose stages all rest on one another, with the hash of their summaries.
_COMPLETE = """
    SELECT quarter, company_id, summaries.content_hash
    FROM materializations AS summaries
    JOIN materializations AS topics USING (quarter, company_id)
    JOIN materializations AS sentences USING (quarter, company_id)
    JOIN materializations AS transcripts USING (quarter, company_id)
    WHERE transcripts.stage = 'transcripts'
      AND sentences.stage = 'firm_sentences' AND sentences.input_hash = transcripts.content_hash
      AND topics.stage = 'firm_topics' AND topics.input_hash = sentences.content_hash
      AND summaries.stage = 'topic_summaries' AND summaries.input_hash = topics.content_hash
"""


@dataclass(frozen=True)
class ThemeState:
    """How the published themes of a quarter stand to the summaries that are there now.

    run_number:    of the current run, None if nothing was published
    changed_firms: keys of the firms that came, went or changed since
    """

    run_number: int | None
    changed_firms: tuple[str, ...]

    @property
    def current(self) -> bool:
        """Whether a run is there and rests on exactly the summaries of now."""
        return self.run_number is not None and not self.changed_firms


@dataclass(frozen=True)
class Published:
    """What publishing a theme run did: whether it replaced rows, and what the quarter's sentences came to."""

    changed: bool
    attrition: Attrition


@dataclass(frozen=True)
class ThemeCounts:
    """How far a quarter and its themes are, in firms.

    n_complete: expected firms with nothing to do
    n_changed:  firms that came, went or changed since the themes were made; all complete ones before the first themes
    """

    quarter: str
    n_expected: int
    n_complete: int
    n_changed: int
    published: bool

    @property
    def n_to_do(self) -> int:
        """Expected firms with a stage that is missing or stale."""
        return self.n_expected - self.n_complete

    @property
    def due(self) -> bool:
        """Whether all firms are complete and the themes do not rest on what is there."""
        return not self.n_to_do and not (self.published and not self.n_changed)

    @property
    def current(self) -> bool:
        """Whether themes are published that rest on all expected firms, as they are now."""
        return not self.n_to_do and self.published and not self.n_changed


@dataclass(frozen=True)
class ThemeCoverage:
    """Which expected firms the published themes of a quarter were made from; none, where nothing was published.

    missing: keys of the others
    """

    published: bool
    n_expected: int
    missing: tuple[str, ...]


def current_summaries(connection: Connection, quarter: str) -> dict[int, str]:
    """Company id -> content hash of the summaries, for the firms whose stages all rest on one another."""
    in_order = sa.text(f"{_COMPLETE} AND quarter = :quarter ORDER BY company_id")
    found = connection.execute(in_order, {"quarter": quarter})
    return {row.company_id: row.content_hash for row in found}


def n_expected(connection: Connection, quarter: str) -> int:
    """Firms with a call in the quarter."""
    return connection.execute(
        sa.select(sa.func.count()).select_from(t.FirmQuarter).where(t.FirmQuarter.quarter == quarter)
    ).scalar_one()


def theme_state(connection: Connection, quarter: str, summaries: Mapping[int, str] | None = None) -> ThemeState:
    """Whether the published themes rest on the summaries of now, and if not, which firms differ.

    summaries: what `current_summaries` returns, where it was asked already
    """
    run = current_run(connection, quarter)
    used = _inputs(connection, quarter)
    now = current_summaries(connection, quarter) if summaries is None else summaries
    changed = {firm for firm in used.keys() | now.keys() if used.get(firm) != now.get(firm)}
    keys = connection.scalars(
        sa.select(t.Firm.partition_key).where(t.Firm.company_id.in_(changed)).order_by(t.Firm.partition_key)
    )
    return ThemeState(run.run_number, tuple(keys)) if run else ThemeState(None, ())


def theme_counts(connection: Connection) -> list[ThemeCounts]:
    """How far each quarter with calls is, in order of quarters; counted in the database, so it may be asked often."""
    rows = connection.execute(
        sa.text(
            f"""
            WITH complete AS ({_COMPLETE}), firms AS (
                SELECT quarter, count(now.content_hash) AS n_complete,
                       count(*) FILTER (WHERE now.content_hash IS DISTINCT FROM used.content_hash) AS n_changed
                FROM complete AS now FULL JOIN theme_inputs AS used USING (quarter, company_id) GROUP BY quarter
            )
            SELECT quarter, count(*), coalesce(max(n_complete), 0), coalesce(max(n_changed), 0),
                   quarter IN (SELECT quarter FROM theme_runs)
            FROM firm_quarters LEFT JOIN firms USING (quarter) GROUP BY quarter ORDER BY quarter
            """  # noqa: S608  (a constant)
        )
    )
    return [ThemeCounts(*row) for row in rows]


def theme_coverage(connection: Connection, quarter: str) -> ThemeCoverage:
    """Which firms with a call in the quarter are in its published themes, whatever became of them since."""
    keys = connection.execute(
        sa.select(t.Firm.partition_key, t.ThemeInput.company_id.is_not(None))
        .join(t.FirmQuarter, t.FirmQuarter.company_id == t.Firm.company_id)
        .outerjoin(
            t.ThemeInput,
            (t.ThemeInput.quarter == t.FirmQuarter.quarter) & (t.ThemeInput.company_id == t.FirmQuarter.company_id),
        )
        .where(t.FirmQuarter.quarter == quarter)
        .order_by(t.Firm.partition_key)
    ).all()
    missing = tuple(key for key, present in keys if not present)
    return ThemeCoverage(current_run(connection, quarter) is not None, len(keys), missing)


def themes_outside(connection: Connection, quarter: str, n_firms: int, max_firm_share: float) -> tuple[str, ...]:
    """Ids of the published themes that have fewer firms, or of whose topics one firm has a larger share; counted anew
    from the topics, whatever the themes say of themselves.
    """
    found = connection.scalars(
        sa.text(
            """
            WITH firms AS (
                SELECT theme_number, company_id, count(*) AS n FROM theme_topics WHERE quarter = :quarter GROUP BY 1, 2
            ), spread AS (
                SELECT theme_number, count(*) AS n_firms, max(n)::float / sum(n) AS share FROM firms GROUP BY 1
            )
            SELECT theme_id FROM themes JOIN spread USING (theme_number)
            WHERE quarter = :quarter AND (spread.n_firms < :n_firms OR share > :share) ORDER BY theme_number
            """
        ),
        {"quarter": quarter, "n_firms": n_firms, "share": max_firm_share},
    )
    return tuple(found)


def theme_settings(connection: Connection, quarter: str) -> ThemeSettings:
    """The settings that the published themes were made with; the defaults where nothing was published."""
    run = current_run(connection, quarter)
    return ThemeSettings() if run is None else ThemeSettings(**run.provenance["settings"])


def publish(connection: Connection, themes: Themes, provenance: Provenance) -> Published:
    """Publish a theme run; where it found the same themes, the rows of the current one stay.

    Themes that it no longer finds are retired: their row stays, with the number of the last run that saw them.
    Topics that were replaced while the themes were made are in them, but not live.

    provenance: see `Provenance.of`; what differs is recorded even when the rows stay
    """
    quarter = themes.quarter
    lock_firm_quarters(connection, quarter)
    last = current_run(connection, quarter)
    same = last is not None and last.content_hash == themes.content_hash
    number = (last.run_number if last else 0) + (not same)
    _record_run(connection, themes, number, provenance)
    if not same:
        _replace_themes(connection, themes, number)
    if not same or _inputs(connection, quarter) != themes.firm_hashes:
        _replace_inputs(connection, themes, number)
        analyze(connection, t.ThemeInput, t.Theme, t.ThemeTopic)
    link_topics(connection, quarter)
    _count_sentences(connection, quarter)
    return Published(not same, _record_attrition(connection, quarter, number))


def delete_themes(connection: Connection, quarter: str) -> None:
    """Delete all theme runs of a quarter and what they found."""
    for table in (t.ThemeTopic, t.Theme, t.ThemeInput, t.ThemeRun):
        connection.execute(sa.delete(table).where(table.__table__.c.quarter == quarter))


def _record_run(connection: Connection, themes: Themes, run_number: int, provenance: Provenance) -> None:
    facts = {
        "input_hash": provenance.input_hash,
        "content_hash": provenance.content_hash,
        "n_firms_expected": themes.n_expected,
        "n_firms": len(themes.firm_hashes),
        "n_topics": themes.n_topics,
        "rejected": dict(themes.rejected),
        "provenance": dict(provenance.details),
        "as_of": themes.as_of,
    }
    run = insert(t.ThemeRun).values(quarter=themes.quarter, run_number=run_number, seconds=provenance.seconds, **facts)
    connection.execute(
        run.on_conflict_do_update(
            index_elements=["quarter", "run_number"],
            set_={**facts, "seconds": provenance.seconds},
            where=sa.or_(*(getattr(t.ThemeRun, name).is_distinct_from(run.excluded[name]) for name in facts)),
        )
    )


def _record_attrition(connection: Connection, quarter: str, run_number: int) -> Attrition:
    """Note what the quarter's sentences have come to, as the rows of the run now say."""
    attrition = count_attrition(connection, quarter)
    counted = sa.literal(attrition.to_json(), t.ThemeRun.__table__.c.attrition.type)
    connection.execute(
        sa.update(t.ThemeRun)
        .where(t.ThemeRun.quarter == quarter, t.ThemeRun.run_number == run_number)
        .where(t.ThemeRun.attrition.is_distinct_from(counted))
        .values(attrition=counted)
    )
    return attrition


def _replace_themes(connection: Connection, themes: Themes, run_number: int) -> None:
    quarter = themes.quarter
    connection.execute(sa.delete(t.ThemeTopic).where(t.ThemeTopic.quarter == quarter))
    connection.execute(
        sa.delete(t.Theme).where(
            t.Theme.quarter == quarter, t.Theme.theme_number.in_([theme.theme_number for theme in themes.themes])
        )
    )
    copy_rows(
        connection,
        t.Theme.__table__,  # type: ignore[arg-type]
        (
            "quarter run_number theme_number label keywords n_firms n_topics top_firm_share concentration stability "
            "centroid title description description_source description_model description_embedding"
        ).split(),
        (
            (
                *(quarter, run_number, theme.theme_number, theme.label, list(theme.keywords)),
                *(theme.n_firms, theme.n_topics, theme.top_firm_share, theme.concentration, theme.stability, centroid),
                *described,
            )
            for theme, centroid, described in zip(themes.themes, themes.centroids, _described(themes), strict=True)
        ),
    )
    copy_rows(
        connection,
        t.ThemeTopic.__table__,  # type: ignore[arg-type]
        "quarter company_id topic_number topic_label theme_number similarity".split(),
        ((quarter, m.company_id, m.topic_number, m.topic_label, m.theme_number, m.similarity) for m in themes.members),
    )


def _count_sentences(connection: Connection, quarter: str) -> None:
    """Note how many sentences the topics of each theme have now."""
    connection.execute(
        sa.text(
            """
            UPDATE themes SET n_sentences = counted.n FROM (
                SELECT theme_number, coalesce(sum(topics.n_sentences), 0) AS n
                FROM theme_topics AS m
                LEFT JOIN topics ON (topics.quarter, topics.company_id, topics.topic_number)
                                  = (m.quarter, m.company_id, m.live_topic_number)
                WHERE m.quarter = :quarter GROUP BY theme_number
            ) AS counted
            WHERE (themes.quarter, themes.theme_number) = (:quarter, counted.theme_number)
              AND themes.n_sentences IS DISTINCT FROM counted.n
            """
        ),
        {"quarter": quarter},
    )


def _described(themes: Themes) -> Iterable[tuple[object, ...]]:
    """Title, description, source, model and vector of each theme; nothing of themes that nobody has described."""
    if not themes.descriptions:
        return repeat((None,) * 5, len(themes.themes))
    return (
        (d.title, d.text, d.source, d.model, vector if d.source == "model" else None)
        for d, vector in zip(themes.descriptions, themes.description_embeddings, strict=True)
    )


def _replace_inputs(connection: Connection, themes: Themes, run_number: int) -> None:
    connection.execute(sa.delete(t.ThemeInput).where(t.ThemeInput.quarter == themes.quarter))
    copy_rows(
        connection,
        t.ThemeInput.__table__,  # type: ignore[arg-type]
        ["quarter", "company_id", "run_number", "content_hash"],
        ((themes.quarter, firm, run_number, content) for firm, content in themes.firm_hashes.items()),
    )


def _inputs(connection: Connection, quarter: str) -> dict[int, str]:
    """Company id -> content hash of the summaries that the current run was built from."""
    found = connection.execute(
        sa.select(t.ThemeInput.company_id, t.ThemeInput.content_hash).where(t.ThemeInput.quarter == quarter)
    )
    return {row.company_id: row.content_hash for row in found}


def current_run(connection: Connection, quarter: str) -> sa.Row[Any] | None:
    """The row of the published run, None where nothing was published."""
    newest_first = t.ThemeRun.run_number.desc()
    return connection.execute(
        sa.select(t.ThemeRun).where(t.ThemeRun.quarter == quarter).order_by(newest_first).limit(1)
    ).first()
