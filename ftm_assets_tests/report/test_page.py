import tomllib
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest
import sqlalchemy as sa

from ftm_assets.report.figures import MAP_BUBBLE, attrition_figure, html_of, largest_figure, map_figure, place_names
from ftm_assets.report.page import percent, render, warnings_of
from ftm_assets.storage.read.attrition import Attrition, AttritionCounts
from ftm_assets.storage.read.queries import ThemeRow
from ftm_assets.storage.read.report import QuarterReport, read_report
from ftm_assets.storage.server.database import Database
from ftm_assets_tests.conftest import ROOT
from ftm_assets_tests.storage.builders import TEXTS, THEME_SETTINGS, firm, firms, put, put_themes, sentences_of
from ftm_assets_tests.storage.builders import themes_of as found_now
from ftm_assets_tests.storage.sql import QUARTER

# No tag of a document, so that ingest leaves it.
EVIL = "Freight <svg onload=alert('x')> & \"costs\" rose a lot."


class Page(HTMLParser):
    """What a browser would take from a page: tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._said: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self._said += data.split()

    @property
    def text(self) -> str:
        """All words, with one space between them."""
        return " ".join(self._said)


def read(database: Database) -> QuarterReport:
    with database.transaction() as connection:
        return read_report(connection, QUARTER)


def published(database: Database, texts: Sequence[str] = TEXTS) -> QuarterReport:
    """Two firms that say the same, and their themes."""
    firms(database, 7, 8, texts=texts)
    put_themes(database, found_now(database))
    return read(database)


def stable(database: Database, *stabilities: float | None) -> QuarterReport:
    """The report with the themes as stable as that, in order of their numbers."""
    with database.transaction() as connection:
        for number, stability in enumerate(stabilities, 1):
            connection.execute(
                sa.text("UPDATE themes SET stability = :stability WHERE theme_number = :number"),
                {"stability": stability, "number": number},
            )
    return read(database)


# --- the page


def test_a_page_holds_the_figures_of_its_quarter(database: Database) -> None:
    text = Page(render(published(database))).text
    assert "Themes of 2021Q4" in text
    assert "2 themes" in text and "2 of 2 firms with a call" in text and "12 sentences" in text
    assert "4 of 4 topics in themes" in text and "83% of the modelled sentences in themes" in text
    assert "executives, prepared remarks 12 12 100% 10 83% 10 83%" in text
    assert "theme_2021Q4_001 freight freight 2 2 50% 50% not measured" in text
    assert "Acme Inc., executive (remark), 7_70_0000" in text
    assert "cross_firm_themes 2" in text and "not measured" in text
    assert "hash@1" in text and '"match_threshold": 0.8' in text


def test_a_page_needs_no_network_and_has_its_script_once(database: Database) -> None:
    html = render(published(database))
    page = Page(html)
    assert not [tag for tag, attributes in page.tags if {"src", "href", "data", "action"} & attributes.keys()]
    assert "@import" not in html.partition("<script>")[0] and "url(" not in html.partition("<script>")[0]
    assert html.count("plotly.js v") == 1
    assert [attributes["id"] for tag, attributes in page.tags if attributes.get("class") == "plotly-graph-div"] == [
        "attrition",
        "map",
        "largest",
    ]


def test_what_a_call_has_said_is_text_and_never_markup(database: Database) -> None:
    calm, evil = published(database), published(database, (EVIL, EVIL, EVIL, *TEXTS[3:]))
    assert EVIL in {said.text for theme in evil.themes for said in theme.examples}
    before, after = (
        [tag for tag, _ in Page(render(report)).tags if tag in ("script", "svg")] for report in (calm, evil)
    )
    assert before == after
    assert EVIL in Page(render(evil)).text


def test_a_label_of_markup_is_text_in_the_figures_too(database: Database) -> None:
    report = published(database)
    row = replace(report.themes[0].row, label="</script><b>freight</b>", keywords=("<i>",))
    html = render(replace(report, themes=(replace(report.themes[0], row=row), report.themes[1])))
    assert "</script><b>freight" not in html and "<i>" not in html
    figures = [map_figure([row], report.centroids[:1]), largest_figure([row], 0.4)]
    for figure in figures:
        assert "&lt;b&gt;" in str(figure.to_dict()) and "<b>freight</b>" not in str(figure.to_dict())


def test_the_same_rows_are_the_same_page(database: Database) -> None:
    report = published(database)
    assert render(report) == render(read(database))


def test_a_quarter_without_any_theme_has_a_page_that_says_why(database: Database) -> None:
    firms(database, 7, 8)
    put_themes(database, found_now(database, THEME_SETTINGS.model_copy(update={"min_firms": 3})))
    text = Page(render(read(database))).text
    assert "No group of topics became a theme" in text
    assert "4 of 4 topics are in no theme" in text and "fewer than 3 firms 2" in text


@pytest.mark.parametrize(
    ("stability", "shown"),
    [(None, "not measured"), (0.49, "0.49 unstable"), (0.5, "0.50"), (1.0, "1.00")],
)
def test_a_theme_that_does_not_last_is_marked(database: Database, stability: float | None, shown: str) -> None:
    published(database)
    text = Page(render(stable(database, stability))).text
    assert f"theme_2021Q4_001 freight freight 2 2 50% 50% {shown} " in text


# --- what to know before


def test_of_a_quarter_that_is_as_it_should_be_there_is_nothing_to_warn(database: Database) -> None:
    published(database)
    assert warnings_of(stable(database, 0.9, 0.8)) == []


def test_stale_themes_missing_firms_several_recipes_and_unstable_themes_are_told(database: Database) -> None:
    firms(database, 7, 8)
    firm(database, 9)
    put_themes(database, found_now(database))
    firm(database, 7, texts=("Freight costs fell, to correct the record.",))
    where = firm(database, 10)
    put(database, where, sentences_of(database, where), code="2")

    stale, missing, configurations, unstable = warnings_of(stable(database, 0.3, None))

    assert "1 firm came, went or changed since (ACME-INC-7)" in stale and "ftm backfill 2021Q4" in stale
    assert "2 firms of 4 with a call in 2021Q4 are missing" in missing
    assert "Crane Works (CRANE-WORKS-9), Dune Group (DUNE-GROUP-10)" in missing
    assert "firm_sentences was made by 2 different versions or settings" in configurations
    assert "1 of 2 themes are not stable (below 0.5): theme_2021Q4_001" in unstable


def test_a_run_that_has_kept_no_funnel_says_so(database: Database) -> None:
    report = published(database)
    assert (
        "is not known. This page counts it as of now"
        in warnings_of(replace(report, run=replace(report.run, attrition=None)))[0]
    )


def test_a_small_share_keeps_a_digit() -> None:
    assert [percent(share) for share in (0, 0.004, 0.0996, 0.5, 1)] == ["0%", "0.4%", "10%", "50%", "100%"]


# --- figures


def theme(number: int = 1, n_firms: int = 3, stability: float | None = None) -> ThemeRow:
    return ThemeRow(
        QUARTER, f"theme_{number}", number, "freight, costs", ("freight",), n_firms, 4, 9, 0.5, 0.4, stability
    )


def test_the_funnel_shows_each_voice_that_spoke_at_each_step() -> None:
    remark, question = AttritionCounts("remark", 8, 6, 4, 2), AttritionCounts("question", 2, 2, 1, 1)
    nobody = AttritionCounts("unknown", 0, 0, 0, 0)
    figure = attrition_figure(Attrition(AttritionCounts("all", 10, 8, 5, 3), (remark, question, nobody)))
    assert [(bar.name, list(bar.x)) for bar in figure.data] == [
        ("remarks", [8, 6, 4, 2]),
        ("questions", [2, 2, 1, 1]),
    ]
    assert [note.text for note in figure.layout.annotations] == [
        "<b>10</b>  ",
        "<b>8</b>  80% of the sentences",
        "<b>5</b>  62% of the modelled",
        "<b>3</b>  38% of the modelled",
    ]


def test_the_map_shows_firms_by_area_and_stability_by_colour() -> None:
    themes = [theme(1, 9, 0.8), theme(2, 4), theme(3, 1, 0.2)]
    figure = map_figure(themes, np.eye(3, 768, dtype=np.float32))
    unmeasured, measured, names = figure.data
    assert names.text == ("freight",) * 3
    assert (unmeasured.text, list(unmeasured.marker.size)) == (("2",), [MAP_BUBBLE * 2 / 3])
    assert (measured.text, list(measured.marker.size)) == (("1", "3"), [MAP_BUBBLE, MAP_BUBBLE / 3])
    assert list(measured.marker.color) == [0.8, 0.2]
    assert "9 firms, 4 topics<br>stability 0.80" in measured.hovertext[0]


def test_names_on_the_map_cover_neither_bubbles_nor_each_other() -> None:
    row = np.array([[100, 100], [130, 100], [160, 100]], float)
    assert place_names(row, [30, 30, 30], ["costs"] * 3) == [(100, 78), (130, 122), (160, 78)]
    assert place_names(np.full((5, 2), 100.0), [30] * 5, ["costs"] * 5)[4] is None, "there are four sides"


@pytest.mark.parametrize("n_themes", [0, 1, 2, 25])
def test_figures_of_any_number_of_themes_can_be_drawn(n_themes: int) -> None:
    themes = [theme(number) for number in range(1, n_themes + 1)]
    centroids = np.eye(n_themes, 768, dtype=np.float32)
    figures: list[go.Figure] = [map_figure(themes, centroids), largest_figure(themes, 0.4)]
    assert all("Plotly.newPlot" in html_of(figure, "any") for figure in figures)
    assert len(figures[1].data[0].x) == min(20, n_themes)


def test_what_is_no_code_is_shipped_too() -> None:
    package = ROOT / "ftm_assets"
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ftm_assets"]
    matched = {path for pattern in shipped for path in package.glob(pattern)}
    there = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there == matched
