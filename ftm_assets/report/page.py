"""The page itself: one HTML file that needs nothing else, and is the same for the same rows."""

import json
from collections import Counter

import jinja2
from plotly.offline import get_plotlyjs

from ftm_assets.analysis.vectors import in_plane
from ftm_assets.report.figures import funnel_figure, html_of, largest_figure, map_figure
from ftm_assets.storage.queries import ThemeRow
from ftm_assets.storage.report import QuarterReport

# Below, a theme is another one as soon as the seed is: of a theme and its counterpart a quarter is not shared.
STABLE_FROM = 0.75
N_NAMED = 20


def render(report: QuarterReport) -> str:
    """The report as HTML. Everything that a call has said is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ftm_assets", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, unstable=unstable, pretty=pretty)
    themes = [theme.row for theme in report.themes]
    figures = {
        "funnel": funnel_figure(report.funnel),
        "map": map_figure(themes, report.centroids),
        "largest": largest_figure(themes, report.run.settings.max_firm_share),
    }
    return environment.get_template("report.html").render(
        report=report,
        warnings=warnings_of(report),
        figures={name: html_of(figure, name) for name, figure in figures.items()},
        kept_variance=in_plane(report.centroids)[1],
        stable_from=STABLE_FROM,
        plotly=get_plotlyjs(),
    )


def warnings_of(report: QuarterReport) -> list[str]:
    """What to know before the figures are used, most serious first; none where all is well."""
    quarter, status, run = report.quarter, report.status, report.run
    found = []
    if changed := status.themes.changed_firms:
        found.append(
            f"The themes are stale: {_firms(len(changed))} came, went or changed since ({_named(changed)}). What is "
            f"counted of the sentences of a theme leaves those out. Make the themes anew with: ftm backfill {quarter}"
        )
    if report.missing:
        names = tuple(f"{firm.name} ({firm.partition_key})" for firm in report.missing)
        found.append(
            f"{_firms(len(names))} of {status.n_expected} with a call in {quarter} are missing from the themes: "
            f"{_named(names)}"
        )
    for stage, n_recipes in Counter(recipe.stage for recipe in report.recipes).items():
        if n_recipes > 1:
            found.append(
                f"{stage} was made by {n_recipes} different versions or settings. Make its firms alike with: "
                f"ftm backfill {quarter} --all"
            )
    if below := tuple(theme.row.theme_id for theme in report.themes if unstable(theme.row)):
        found.append(
            f"{len(below)} of {len(report.themes)} themes are not stable (below {STABLE_FROM}): {_named(below)}"
        )
    if run.funnel is None:
        found.append(
            "What became of the sentences when the themes were published is not known; it was counted for this page."
        )
    return found


def unstable(theme: ThemeRow) -> bool:
    """Whether a theme was measured and found not to last."""
    return theme.stability is not None and theme.stability < STABLE_FROM


def percent(share: float) -> str:
    """A share to read; a small one keeps a digit."""
    return f"{share:.1%}" if 0 < share < 0.0995 else f"{share:.0%}"


def pretty(value: object) -> str:
    """A document of versions or settings, to read."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)


def _firms(n: int) -> str:
    return "1 firm" if n == 1 else f"{n:,} firms"


def _named(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more
