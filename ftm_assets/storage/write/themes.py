"""Publishing themes: a run survives what changes upstream, and its themes keep their numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from ftm_assets.analysis.themes import Themes
from ftm_assets.storage.read.attrition import Attrition, count_attrition
from ftm_assets.storage.read.theme_state import current_run, theme_inputs
from ftm_assets.storage.schema import tables as t
from ftm_assets.storage.server.table_stats import analyze
from ftm_assets.storage.stages.base import Provenance
from ftm_assets.storage.write.copy import copy_rows
from ftm_assets.storage.write.stages import link_topics, lock_firm_quarters


@dataclass(frozen=True)
class Published:
    """What publishing a theme run did: whether it replaced rows, and what the quarter's sentences came to."""

    changed: bool
    attrition: Attrition


def publish(connection: Connection, themes: Themes, provenance: Provenance) -> Published:
    """Publish a theme run. If it found the same themes as the current run, the rows of that run stay.

    Themes that it no longer finds are retired: their row stays, with the number of the last run that found them.
    Topics that were replaced while the themes were made are in them, but not live.

    provenance: see `Provenance.of`; what differs is recorded even when the rows stay
    """
    quarter = themes.quarter
    lock_firm_quarters(connection, quarter)
    last = current_run(connection, quarter)
    last_number = last.run_number if last else 0
    changed = last is None or last.content_hash != themes.content_hash
    number = last_number + 1 if changed else last_number
    _record_run(connection, themes, number, provenance)
    if changed:
        _replace_themes(connection, themes, number)
    if changed or theme_inputs(connection, quarter) != themes.firm_hashes:
        _replace_inputs(connection, themes, number)
        analyze(connection, t.ThemeInput, t.Theme, t.ThemeTopic)
    link_topics(connection, quarter)
    _count_sentences(connection, quarter)  # Decision 107.
    return Published(changed, _record_attrition(connection, quarter, number))


def delete_themes(connection: Connection, quarter: str) -> None:
    """Delete all theme runs of a quarter and what they found."""
    for table in (t.ThemeTopic, t.Theme, t.ThemeInput, t.ThemeRun):
        connection.execute(sa.delete(table).where(table.__table__.c.quarter == quarter))


def _record_run(connection: Connection, themes: Themes, run_number: int, provenance: Provenance) -> None:
    facts = {
        "input_hash": themes.input_hash,
        "content_hash": themes.content_hash,
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
    """Record what became of the quarter's sentences, counted from the rows of the run."""
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
    # Themes that are not among them stay, retired. Decisions 16 and 17.
    numbers = [theme.theme_number for theme in themes.themes]
    connection.execute(sa.delete(t.ThemeTopic).where(t.ThemeTopic.quarter == quarter))
    connection.execute(sa.delete(t.Theme).where(t.Theme.quarter == quarter, t.Theme.theme_number.in_(numbers)))
    _copy(connection, t.Theme, list(_theme_rows(themes, run_number)))
    _copy(
        connection,
        t.ThemeTopic,
        [
            {
                "quarter": quarter,
                "company_id": topic.company_id,
                "topic_number": topic.topic_number,
                "topic_label": topic.topic_label,
                "theme_number": topic.theme_number,
                "similarity": topic.similarity,
            }
            for topic in themes.members
        ],
    )


def _theme_rows(themes: Themes, run_number: int) -> Iterator[Mapping[str, object]]:
    descriptions = {each.theme_number: each for each in themes.descriptions}
    vectors = dict(zip(descriptions, themes.description_embeddings, strict=True))
    for theme, centroid in zip(themes.themes, themes.centroids, strict=True):
        described = descriptions.get(theme.theme_number)
        by_model = described is not None and described.source == "model"
        yield {
            "quarter": themes.quarter,
            "run_number": run_number,
            "theme_number": theme.theme_number,
            "label": theme.label,
            "keywords": list(theme.keywords),
            "n_firms": theme.n_firms,
            "n_topics": theme.n_topics,
            "top_firm_share": theme.top_firm_share,
            "concentration": theme.concentration,
            "stability": theme.stability,
            "centroid": centroid,
            "title": described and described.title,
            "description": described and described.text,
            "description_source": described and described.source,
            "description_model": described and described.model,
            # Keywords have no vector of their own.
            "description_embedding": vectors[theme.theme_number] if by_model else None,
        }


def _count_sentences(connection: Connection, quarter: str) -> None:
    """Record how many sentences the topics of each theme have now."""
    connection.execute(
        sa.text(
            """
            UPDATE themes SET n_sentences = counted.n FROM (
                SELECT now.theme_number, coalesce(sum(topics.n_sentences), 0) AS n
                FROM current_themes AS now LEFT JOIN topic_context AS topics USING (quarter, theme_number)
                WHERE quarter = :quarter GROUP BY now.theme_number
            ) AS counted
            WHERE (themes.quarter, themes.theme_number) = (:quarter, counted.theme_number)
              AND themes.n_sentences IS DISTINCT FROM counted.n
            """
        ),
        {"quarter": quarter},
    )


def _replace_inputs(connection: Connection, themes: Themes, run_number: int) -> None:
    quarter = themes.quarter
    connection.execute(sa.delete(t.ThemeInput).where(t.ThemeInput.quarter == quarter))
    _copy(
        connection,
        t.ThemeInput,
        [
            {"quarter": quarter, "company_id": company_id, "run_number": run_number, "content_hash": content_hash}
            for company_id, content_hash in themes.firm_hashes.items()
        ],
    )


def _copy(connection: Connection, table: type[t.Base], rows: Sequence[Mapping[str, object]]) -> None:
    """Append rows, each value to the column of its name."""
    if rows:
        columns = tuple(rows[0])
        values = ([row[column] for column in columns] for row in rows)
        copy_rows(connection, table.__table__, columns, values)  # type: ignore[arg-type]
