"""The figures of a report. Text from calls is escaped in labels, because Plotly reads labels as HTML."""

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ftm_assets.analysis.vectors import in_plane
from ftm_assets.storage.read.attrition import Attrition
from ftm_assets.storage.read.queries import ThemeRow

WIDTH = 980
N_LARGEST = 20
LABEL_CHARS = 44
NAME_CHARS = 22
MAP_WIDTH, MAP_HEIGHT, MAP_BUBBLE = 880, 500, 52  # Pixels; the last is the diameter of the largest theme.

_Box = tuple[float, float, float, float]  # Left, lower, right, upper edge.

INK, FAINT, RULE, GROUND = "#23282d", "#7c848c", "#e4e6e8", "#f8f9fa"
UTTERANCE_COLOURS = {"remark": "#31546b", "answer": "#7ea3b8", "question": "#d19a5b", "unknown": "#c4c8cc"}
STABILITY_COLOURS = [(0.0, "#c8643c"), (0.5, "#e3c98f"), (1.0, "#2f6f62")]
NOT_MEASURED = "#a9b4bd"


def attrition_figure(attrition: Attrition) -> go.Figure:
    """How many sentences reach each stage: one bar for each stage, stacked by utterance type."""
    whole = attrition.whole
    steps = {
        "Sentences": ("n_sentences", ""),
        "Modelled": ("n_modelled", f"{whole.modelled_share:.0%} of the sentences"),
        "In topics": ("n_in_topics", f"{whole.topic_share:.0%} of the modelled"),
        "In themes": ("n_in_themes", f"{whole.theme_share:.0%} of the modelled"),
    }
    names = list(steps)
    figure = go.Figure()
    for counts in attrition.by_utterance_type:
        if counts.n_sentences:
            figure.add_bar(
                name=f"{counts.utterance_type}s" if counts.utterance_type != "unknown" else "unknown",
                y=names,
                x=[getattr(counts, count) for count, _ in steps.values()],
                orientation="h",
                marker_color=UTTERANCE_COLOURS[counts.utterance_type],
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
    return _with_layout(figure, 250)


def map_figure(themes: Sequence[ThemeRow], centroids: np.ndarray) -> go.Figure:
    """Themes in the plane of most variance: near ones are alike, the area is firms, the colour is stability."""
    places = _to_pixels(in_plane(centroids)[0])
    largest = max((theme.n_firms for theme in themes), default=1)
    sizes = [MAP_BUBBLE * (theme.n_firms / largest) ** 0.5 for theme in themes]
    figure = go.Figure()
    for measured in (False, True):
        chosen = [i for i, theme in enumerate(themes) if (theme.stability is not None) == measured]
        if not chosen:
            continue
        shown = [themes[i] for i in chosen]
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
                "size": [sizes[i] for i in chosen],
                "opacity": 0.85,
                "line": {"width": 1, "color": "white"},
                **(_by_stability(shown) if measured else {"color": NOT_MEASURED}),
            },
        )
    names = [_truncate(theme.label.split(",")[0], NAME_CHARS) for theme in themes]
    placed = [(place, name) for place, name in zip(place_names(places, sizes, names), names, strict=True) if place]
    figure.add_scatter(
        x=[x for (x, _), _ in placed],
        y=[y for (_, y), _ in placed],
        mode="text",
        text=[escape(name) for _, name in placed],
        textfont={"size": 11, "color": FAINT},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_xaxes(visible=False, range=[0, MAP_WIDTH])
    figure.update_yaxes(visible=False, range=[0, MAP_HEIGHT])
    return _with_layout(figure, MAP_HEIGHT + 16, bottom=8, right=WIDTH - 8 - MAP_WIDTH).update_layout(
        plot_bgcolor=GROUND
    )


def place_names(places: np.ndarray, sizes: Sequence[float], names: Sequence[str]) -> list[tuple[float, float] | None]:
    """The centre of each bubble's name: below it, or else above, right or left, where it covers nothing.

    Earlier names choose first; None for a name without room.

    places: (n, 2) pixels from the lower left    sizes: diameters in pixels
    """
    taken = [_box(x, y, size, size) for (x, y), size in zip(places.tolist(), sizes, strict=True)]
    found: list[tuple[float, float] | None] = []
    for (x, y), size, name in zip(places.tolist(), sizes, names, strict=True):
        width, height = 6.2 * len(name), 12
        up, aside = (size + height) / 2 + 1, (size + width) / 2 + 3
        for dx, dy in ((0, -up), (0, up), (aside, 0), (-aside, 0)):
            box = _box(x + dx, y + dy, width, height)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found.append((x + dx, y + dy))
                break
        else:
            found.append(None)
    return found


def _to_pixels(places: np.ndarray) -> np.ndarray:
    """The places in pixels, centred and as large as the map allows, with the same scale in both directions."""
    if not len(places):
        return places
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.array([MAP_WIDTH, MAP_HEIGHT]) - 2 * MAP_BUBBLE
    span = np.maximum(high - low, 1e-9)
    scale = float((room / span).min())
    return np.asarray((places - (low + high) / 2) * scale + np.array([MAP_WIDTH, MAP_HEIGHT]) / 2)


def _by_stability(themes: Sequence[ThemeRow]) -> dict[str, object]:
    scale = {"title": {"text": "stability", "font": {"size": 12}}, "tickfont": {"size": 11}}
    return {
        "color": [theme.stability for theme in themes],
        "colorscale": STABILITY_COLOURS,
        "cmin": 0,
        "cmax": 1,
        "colorbar": {**scale, "thickness": 10, "outlinewidth": 0, "len": 0.5},
    }


def _box(x: float, y: float, width: float, height: float) -> _Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def largest_figure(themes: Sequence[ThemeRow], max_firm_share: float) -> go.Figure:
    """The themes of most firms, and the share of each one's largest firm; a line marks the largest share allowed."""
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
        marker_color=UTTERANCE_COLOURS["remark"],
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
        marker={"color": UTTERANCE_COLOURS["question"], "size": 9},
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
    names = [f"{escape(_truncate(theme.label, LABEL_CHARS))}  <b>{theme.theme_number}</b>\u2002" for theme in shown]
    figure.update_yaxes(autorange="reversed", tickvals=rows, ticktext=names, showgrid=False, zeroline=False)
    figure.update_xaxes(visible=False, row=1, col=1)
    edge = 1.06 * max([max_firm_share, *(theme.top_firm_share for theme in shown)])
    figure.update_xaxes(tickformat=".0%", range=[0, edge], gridcolor=RULE, zerolinecolor=RULE, row=1, col=2)
    figure.update_annotations(font={"size": 13, "color": FAINT})
    return _with_layout(figure, 90 + 24 * len(shown), top=36)


def html_of(figure: go.Figure, name: str) -> str:
    """The figure as HTML for a page that has Plotly's script; the same figure always gives the same text."""
    part: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"displayModeBar": False, "responsive": False}
    )
    return part


def _with_layout(figure: go.Figure, height: int, top: int = 8, bottom: int = 28, right: int = 8) -> go.Figure:
    return figure.update_layout(
        template="none",
        width=WIDTH,
        height=height,
        margin={"l": 8, "r": right, "t": top, "b": bottom},
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


def _truncate(label: str, n_chars: int) -> str:
    return label if len(label) <= n_chars else label[: n_chars - 1].rstrip(" ,") + "\u2026"
