"""The figures of a report. Whatever a call has brought into a label is escaped: Plotly reads its texts as HTML."""

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ftm_assets.analysis.vectors import in_plane
from ftm_assets.storage.funnel import Funnel
from ftm_assets.storage.queries import ThemeRow

WIDTH = 980
N_LARGEST = 20
LABEL_CHARS = 44
N_NAMED = 20
NAME_CHARS = 18

INK, FAINT, RULE, GROUND = "#23282d", "#7c848c", "#e4e6e8", "#f8f9fa"
VOICE_COLOURS = {"remark": "#31546b", "answer": "#7ea3b8", "question": "#d19a5b", "unknown": "#c4c8cc"}
STABILITY_COLOURS = [(0.0, "#c8643c"), (0.5, "#e3c98f"), (1.0, "#2f6f62")]
NOT_MEASURED = "#a9b4bd"


def funnel_figure(funnel: Funnel) -> go.Figure:
    """How many sentences come how far, one bar a step, each voice a part of it."""
    whole = funnel.whole
    steps = {
        "Sentences": ("n_sentences", ""),
        "Modelled": ("n_modelled", f"{whole.modelled_share:.0%} of the sentences"),
        "In topics": ("n_in_topics", f"{whole.topic_share:.0%} of the modelled"),
        "In themes": ("n_in_themes", f"{whole.theme_share:.0%} of the modelled"),
    }
    names = list(steps)
    figure = go.Figure()
    for counts in funnel.by_voice:
        if counts.n_sentences:
            figure.add_bar(
                name=f"{counts.voice}s" if counts.voice != "unknown" else "unknown",
                y=names,
                x=[getattr(counts, count) for count, _ in steps.values()],
                orientation="h",
                marker_color=VOICE_COLOURS[counts.voice],
                hovertemplate="%{y}: %{x:,} %{fullData.name}<extra></extra>",
            )
    for name, (count, share) in steps.items():
        figure.add_annotation(
            y=name,
            x=getattr(whole, count),
            text=f"<b>{getattr(whole, count):,}</b>  {share}",
            showarrow=False,
            xanchor="left",
            xshift=8,
        )
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_xaxes(visible=False, range=[0, max(1, whole.n_sentences) * 1.22])
    figure.update_yaxes(autorange="reversed", ticksuffix="  ")
    return _plain(figure, 250)


def map_figure(themes: Sequence[ThemeRow], centroids: np.ndarray) -> go.Figure:
    """Themes where the plane of most variance has them: near ones are alike, areas are firms, colour is stability."""
    places, _ = in_plane(centroids)
    largest = max((theme.n_firms for theme in themes), default=1)
    figure = go.Figure()
    for measured in (False, True):
        chosen = [i for i, theme in enumerate(themes) if (theme.stability is not None) == measured]
        if not chosen:
            continue
        shown = [themes[i] for i in chosen]
        colour = (
            {
                "color": [theme.stability for theme in shown],
                "colorscale": STABILITY_COLOURS,
                "cmin": 0,
                "cmax": 1,
                "colorbar": {"title": {"text": "stability"}, "thickness": 10, "outlinewidth": 0, "len": 0.6},
            }
            if measured
            else {"color": NOT_MEASURED}
        )
        figure.add_scatter(
            x=places[chosen, 0].tolist(),
            y=places[chosen, 1].tolist(),
            mode="markers+text",
            text=[str(theme.theme_number) for theme in shown],
            textfont={"size": 11, "color": INK},
            hovertext=[_described(theme) for theme in shown],
            hoverinfo="text",
            showlegend=False,
            marker={
                "size": [theme.n_firms for theme in shown],
                "sizemode": "area",
                "sizeref": 2 * largest / 52**2,
                "sizemin": 5,
                "opacity": 0.85,
                "line": {"width": 1, "color": "white"},
                **colour,
            },
        )
    named = range(min(N_NAMED, len(themes)))
    figure.add_scatter(
        x=places[named, 0].tolist(),
        y=places[named, 1].tolist(),
        mode="text",
        # Above and below in turn: themes of about as many firms that lie together do not write over each other.
        text=[f"{'' if i % 2 else '<br><br>'}{_first_words(themes[i])}{'<br><br>' if i % 2 else ''}" for i in named],
        textposition=["top center" if i % 2 else "bottom center" for i in named],
        textfont={"size": 11, "color": FAINT},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_layout(plot_bgcolor=GROUND)
    figure.update_xaxes(showticklabels=False, zeroline=False, showgrid=False)
    low, high = places[:, 1].min(initial=0), places[:, 1].max(initial=0)
    margin = 0.15 * (high - low) or 1
    figure.update_yaxes(
        showticklabels=False, zeroline=False, showgrid=False, scaleanchor="x", range=[low - margin, high + margin]
    )
    return _plain(figure, 520)


def largest_figure(themes: Sequence[ThemeRow], max_firm_share: float) -> go.Figure:
    """The themes of most firms, and beside each what its largest firm holds; a line marks the most that it may hold."""
    shown = themes[:N_LARGEST]
    rows = list(range(len(shown)))
    figure = make_subplots(
        cols=2,
        shared_yaxes=True,
        column_widths=[0.62, 0.38],
        horizontal_spacing=0.05,
        subplot_titles=["Firms", "Share of the largest firm in its topics"],
    )
    figure.add_bar(
        y=rows,
        x=[theme.n_firms for theme in shown],
        orientation="h",
        marker_color=VOICE_COLOURS["remark"],
        text=[theme.n_firms for theme in shown],
        textposition="outside",
        cliponaxis=False,
        hovertext=[_described(theme) for theme in shown],
        hoverinfo="text",
        row=1,
        col=1,
    )
    figure.add_scatter(
        y=rows,
        x=[theme.top_firm_share for theme in shown],
        mode="markers",
        marker={"color": VOICE_COLOURS["question"], "size": 9},
        hovertext=[
            f"largest firm {theme.top_firm_share:.0%}<br>Herfindahl index {theme.concentration:.2f}" for theme in shown
        ],
        hoverinfo="text",
        row=1,
        col=2,
    )
    figure.add_shape(
        type="line",
        x0=max_firm_share,
        x1=max_firm_share,
        y0=0,
        y1=1,
        xref="x2",
        yref="y2 domain",
        line={"color": FAINT, "width": 1, "dash": "dot"},
    )
    figure.update_layout(showlegend=False, bargap=0.4)
    names = [f"{escape(_short(theme.label, LABEL_CHARS))}  <b>{theme.theme_number}</b>\u2002" for theme in shown]
    figure.update_yaxes(autorange="reversed", tickvals=rows, ticktext=names, showgrid=False, zeroline=False)
    figure.update_xaxes(visible=False, row=1, col=1)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero", gridcolor=RULE, zerolinecolor=RULE, row=1, col=2)
    figure.update_annotations(font={"size": 13, "color": FAINT})
    return _plain(figure, 90 + 24 * len(shown), top=36)


def html_of(figure: go.Figure, name: str) -> str:
    """The figure as a part of a page that has Plotly's script; the same figure is always the same text."""
    part: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"displayModeBar": False, "responsive": False}
    )
    return part


def _plain(figure: go.Figure, height: int, top: int = 8) -> go.Figure:
    return figure.update_layout(
        template="none",
        width=WIDTH,
        height=height,
        margin={"l": 8, "r": 8, "t": top, "b": 28},
        font={"family": "Helvetica Neue, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        hoverlabel={"align": "left", "bgcolor": "white", "bordercolor": RULE, "font": {"color": INK}},
        legend={"orientation": "h", "y": -0.02, "x": 0, "traceorder": "normal"},
        yaxis_automargin=True,
    )


def _described(theme: ThemeRow) -> str:
    stability = "not measured" if theme.stability is None else f"{theme.stability:.2f}"
    return (
        f"<b>{escape(theme.label)}</b><br>{theme.theme_id}<br>"
        f"{theme.n_firms} firms, {theme.n_topics} topics<br>stability {stability}"
    )


def _first_words(theme: ThemeRow) -> str:
    return escape(_short(theme.label.split(",")[0], NAME_CHARS))


def _short(label: str, n_chars: int) -> str:
    return label if len(label) <= n_chars else label[: n_chars - 1].rstrip(" ,") + "\u2026"
