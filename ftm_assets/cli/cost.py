"""The `ftm cost` command: what summaries of a quarter would take and cost, before anything is sent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from ftm_assets.cli.display import Format, FormatOption, console, headings, money, show
from ftm_assets.llm import theme_descriptions
from ftm_assets.llm import topic_summaries as model_summaries
from ftm_assets.llm.cost_estimate import Estimate, Planned, Rates, estimate
from ftm_assets.llm.guardrails import NameBlocklist
from ftm_assets.llm.prices import Price, PriceUnknown, read_prices
from ftm_assets.settings import Settings, read_settings
from ftm_assets.storage.read import llm_spending as spending
from ftm_assets.storage.read.prompt_inputs import evidence_of_quarter, published_themes
from ftm_assets.storage.read.resolve import find_quarter
from ftm_assets.storage.read.theme_state import theme_counts
from ftm_assets.storage.server.database import Database

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


@dataclass(frozen=True)
class Cost:
    """What a quarter's requests would take from a model, and cost.

    chosen:     whether it is the one that is configured
    n_stored:   requests whose reply is there, and costs nothing
    counted_by: how characters became tokens
    dollars:    None if the price is unknown
    training_cutoff: until when the model has read, None if that is not stated
    """

    model: str
    chosen: bool
    n_requests: int
    n_stored: int
    tokens_in: int
    tokens_out: int
    dollars: float | None
    counted_by: str
    training_cutoff: date | None
    price_checked: date | None


def cost(
    quarter: Annotated[str, typer.Argument(help="Calendar quarter of the calls, such as 2021Q4.")],
    form: FormatOption = Format.table,
) -> None:
    """What a language model would take for a quarter's summaries: requests, tokens, dollars. Sends nothing.

    The prompts are the real ones, from the topics that are there; tokens are counted by their characters, as requests
    of before to the same model have taken them. Repairs of bad replies are not in it.
    """
    database = Database(read_settings())
    settings = database.settings
    prices = read_prices(settings.llm_prices)
    with database.transaction() as connection:
        quarter = find_quarter(connection, quarter)
        topics, themes = planned_topics(connection, quarter), planned_themes(connection, quarter)
        models = compared(settings.llm_model, prices)
        rows = [cost_of(connection, name, [*topics, *themes], settings, prices) for name in models]
        paid = spending.spending(connection, quarter)
        [counts] = [each for each in theme_counts(connection) if each.quarter == quarter]
    title = f"{quarter}: {sum(p.n_items for p in topics):,} topics in {len(topics):,} requests, {len(themes):,} themes"
    columns = headings(
        Cost,
        "model",
        "chosen",
        "n_requests",
        "n_stored",
        "tokens_in",
        "tokens_out",
        "dollars",
        "counted_by",
        "training_cutoff",
        "price_checked",
    )
    show(rows, columns, form, title)
    if form is not Format.table:
        return
    if counts.n_to_do:
        console.print(f"{counts.n_to_do} of {counts.n_expected} firms are not complete; topics they lack are not in it")
    if not themes:
        console.print("no themes are published yet, so that their descriptions are not in it")
    spent, n_unknown = sum(each.dollars for each in paid), sum(each.n_price_unknown for each in paid)
    unknown = f" and {n_unknown:,} requests of unknown price" if n_unknown else ""
    console.print(f"spent for {quarter} so far: ${money(spent)}{unknown}; caps: {caps(settings)}")
    for warning in filter(None, (passes_a_cap(row, spent, settings) for row in rows if row.chosen)):
        console.print(warning, soft_wrap=True)
    if not settings.llm_model:
        console.print("no language model is configured (FTM_LLM_MODEL): summaries are made of keywords, for nothing")


def compared(chosen: str | None, prices: Mapping[str, Price]) -> list[str]:
    """The chosen model, then those of the price list that cost something."""
    priced = [name for name, price in prices.items() if price.tokens_in or price.tokens_out]
    return list(dict.fromkeys([*filter(None, [chosen]), *priced]))


def planned_topics(connection: "Connection", quarter: str) -> list[Planned]:
    """A request for each batch of topics, as the asset topic_summaries would send it."""
    return [
        Planned.of(inquiry)
        for firm in evidence_of_quarter(connection, quarter)
        for inquiry in model_summaries.inquiries(firm, NameBlocklist(), quarter)
    ]


def planned_themes(connection: "Connection", quarter: str) -> list[Planned]:
    """A request for each published theme, with the summaries of now."""
    keywords, members, texts = published_themes(connection, quarter)
    inquiries = theme_descriptions.inquiries(quarter, keywords, members, texts, {})
    return [Planned.of(inquiry) for inquiry in inquiries]


def cost_of(
    connection: "Connection",
    model: str,
    planned: Sequence[Planned],
    settings: Settings,
    prices: Mapping[str, Price],
) -> Cost:
    """What these requests would take from a model, without the replies that are there.

    One that was refused is not sent again; what is asked in its place is counted with it.
    """
    refused = spending.stored(connection, [each.question.key(model) for each in planned], "refused")
    pieces = (piece for each in planned if each.question.key(model) in refused for piece in each.after_refusal())
    planned = [*planned, *pieces]
    stored = spending.stored(connection, [each.question.key(model) for each in planned], "answered", "refused")
    seen = spending.densities(connection, model, {each.question.prompt for each in planned})
    rates = {
        prompt: Rates(d.n_chars / d.tokens_in, d.tokens_out / d.tokens_in, d.n_requests) for prompt, d in seen.items()
    }
    found = estimate(planned, model, frozenset(stored), rates)
    price = prices.get(model)
    return Cost(
        model=model,
        chosen=model == settings.llm_model,
        n_requests=found.n_requests,
        n_stored=found.n_stored,
        tokens_in=found.tokens_in,
        tokens_out=found.tokens_out,
        dollars=price_of(found, price),
        counted_by=told(rates),
        training_cutoff=price.training_cutoff if price else None,
        price_checked=price.checked if price else None,
    )


def price_of(found: Estimate, price: Price | None) -> float | None:
    """Dollars, as if the provider had nothing in its cache; None if the price is unknown."""
    return None if price is None else price.dollars(found.tokens_in, 0, found.tokens_out)


def told(rates: Mapping[str, Rates]) -> str:
    """How characters became tokens."""
    n = sum(rate.n_seen for rate in rates.values())
    if not n:
        return f"{Rates().chars_a_token:g} characters a token, assumed"
    mean = sum(rate.chars_a_token * rate.n_seen for rate in rates.values()) / n
    return f"{mean:.2f} characters a token, as {n:,} requests took"


def passes_a_cap(cost: Cost, spent: float, settings: Settings) -> str:
    """What the caps will not let happen, empty if they are in nobody's way; a run's own cap is not looked at."""
    cap = settings.llm_quarter_cap
    if cost.dollars is None:
        capped = not math.isinf(min(cap, settings.llm_run_cap))
        return f"nothing is sent: {PriceUnknown(cost.model)}" if capped and cost.n_requests else ""
    if spent + cost.dollars <= cap:
        return ""
    return (
        f"that is more than the quarter's cap: ${money(spent)} spent and ${money(cost.dollars)} to come, ${money(cap)} "
        "allowed (FTM_LLM_QUARTER_CAP); what comes after is made of keywords"
    )


def caps(settings: Settings) -> str:
    """The caps of a run and a quarter, as they are set."""
    named = (("run", settings.llm_run_cap), ("quarter", settings.llm_quarter_cap))
    return ", ".join(f"{'none' if math.isinf(cap) else f'${cap:,.2f}'} a {what}" for what, cap in named)
