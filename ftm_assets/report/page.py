"""The page: one HTML file that needs no other file. The same rows always give the same page."""

import json
from collections import Counter

import jinja2
from plotly.offline import get_plotlyjs

from ftm_assets.analysis.vectors import in_plane
from ftm_assets.report.figures import N_LARGEST, attrition_figure, html_of, largest_figure, map_figure
from ftm_assets.storage.read.queries import QuarterDetail
from ftm_assets.storage.read.report import QuarterReport
from ftm_assets.storage.read.text_findings import damage_summary, left_out

N_NAMED = 20
SPEAKERS = {
    "all": "all",
    "remark": "executives, prepared remarks",
    "answer": "executives, answers",
    "question": "analysts",
    "unknown": "unknown",
}


# Decision 52: the report is one file, and the same rows give the same bytes.
def render(report: QuarterReport) -> str:
    """The report as HTML. All text from calls is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ftm_assets", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(commas=commas, percent=percent, pretty=pretty)
    themes = [theme.row for theme in report.themes]
    figures = {
        "attrition": attrition_figure(report.attrition),
        "map": map_figure(themes, report.centroids),
        "largest": largest_figure(themes, report.run.settings.max_firm_share),
    }
    return environment.get_template("report.html").render(
        report=report,
        warnings=warnings_of(report),
        figures={name: html_of(figure, name) for name, figure in figures.items()},
        kept_variance=in_plane(report.centroids)[1],
        speakers=SPEAKERS,
        n_largest=N_LARGEST,
        plotly=get_plotlyjs(),
    )


def warnings_of(report: QuarterReport) -> list[str]:
    """What you should know before you use the figures, most serious first; empty if there is nothing."""
    quarter, status, run = report.quarter, report.status, report.run
    found = []
    if changed := status.themes.changed_firms:
        found.append(
            f"The themes are stale: {_firms(len(changed))} came, went or changed since ({_named(changed)}). Counts of "
            f"sentences in themes leave them out. Make the themes again with: ftm backfill {quarter}"
        )
    if report.missing:
        names = tuple(f"{firm.name} ({firm.partition_key})" for firm in report.missing)
        found.append(
            f"{_firms(len(names))} of {status.n_expected} with a call in {quarter} are missing from the themes: "
            f"{_named(names)}"
        )
    for stage, n_configurations in Counter(configuration.stage for configuration in report.configurations).items():
        if n_configurations > 1:
            found.append(
                f"{stage} was made by {n_configurations} different versions or settings. Make its firms the same with: "
                f"ftm backfill {quarter} --all"
            )
    rows = [theme.row for theme in report.themes]
    if below := tuple(row.theme_id for row in rows if run.settings.is_unstable(row.stability)):
        found.append(
            f"{len(below)} of {len(rows)} themes are not stable (below {run.settings.min_stability}): {_named(below)}"
        )
    if not_modelled := tuple(left_out(status.text_findings)):
        found.append(f"Calls that are not modelled: {_named(not_modelled)}")
    if damage := damage_summary(status.text_findings):
        found.append(f"The source has {damage}. Kinds that begin with 'not repaired' are in the texts as they were.")
    found += [f"Look-ahead bias: {model}." for model in status.look_ahead]
    if by_keywords := _by_keywords(status):
        found.append(by_keywords)
    if run.attrition is None:
        found.append(
            "The attrition on the day when the themes were published is not known. This page counts it as of now."
        )
    return found


def _by_keywords(status: QuarterDetail) -> str:
    """How many summaries are made of keywords, if a language model has written the others."""
    topics = [source for source in status.sources if source.what == "topics"]
    n, without = sum(source.n for source in topics), sum(source.n for source in topics if source.source == "keywords")
    if not 0 < without < n:
        return ""
    return (
        f"{without:,} of {n:,} topic summaries are made of keywords, the others by a language model. Replace the "
        f"keyword summaries with: ftm backfill {status.quarter} --upgrade-summaries"
    )


def commas(n: int) -> str:
    """A number with commas."""
    return f"{n:,}"


def percent(share: float) -> str:
    """A share as a percentage; a small one keeps a decimal."""
    return f"{share:.1%}" if 0 < share < 0.0995 else f"{share:.0%}"


def pretty(value: object) -> str:
    """A document of versions or settings, indented."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def _firms(n: int) -> str:
    return "1 firm" if n == 1 else f"{n:,} firms"


def _named(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more
