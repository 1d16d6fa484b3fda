"""The `ftm cost` command: what a quarter's summaries would cost, before anything is sent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from ftm_assets.cli.display import Format, FormatOption, console, headings, money, show
from ftm_assets.llm.cost_estimate import PlannedRequest, estimate
from ftm_assets.llm.guardrails import NameBlocklist
from ftm_assets.llm.prices import Price, PriceUnknown, read_prices
from ftm_assets.llm.protocol import CHARS_PER_TOKEN
from ftm_assets.llm.theme_descriptions import theme_tasks
from ftm_assets.llm.topic_summaries import topic_tasks
from ftm_assets.settings import Settings, read_settings
from ftm_assets.storage.read.llm_spending import PromptUsage, keys_in_state, spending, usage_by_prompt
from ftm_assets.storage.read.prompt_inputs import evidence_by_firm, published_themes
from ftm_assets.storage.read.resolve import find_quarter
from ftm_assets.storage.read.theme_state import theme_counts
from ftm_assets.storage.server.database import Database

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


@dataclass(frozen=True)
class CostEstimate:
    """What a quarter's requests would take from a model, and cost.

    chosen:          this model is the configured one
    n_stored:        requests whose reply is stored, and costs nothing
    dollars:         None if the price is unknown
    counted_by:      how characters were converted to tokens
    training_cutoff: end of the model's training data, None if it is unknown
    price_checked:   day on which the price was looked up
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
    """Estimate what a language model would cost for a quarter's summaries: requests, tokens, dollars. Sends nothing.

    Uses the real prompts, from the topics that exist. Tokens are estimated from the number of characters: with the
    ratio seen in earlier requests to the same model, or 4 characters per token if there are none yet. Repairs of bad
    replies are not included.
    """
    database = Database(read_settings())
    settings = database.settings
    prices = read_prices(settings.llm_prices)
    with database.transaction() as connection:
        quarter = find_quarter(connection, quarter)
        topics, themes = planned_topics(connection, quarter), planned_themes(connection, quarter)
        models = compared_models(settings.llm_model, prices)
        rows = [estimate_cost(connection, name, [*topics, *themes], settings, prices) for name in models]
        paid = spending(connection, quarter)
        [counts] = [each for each in theme_counts(connection) if each.quarter == quarter]
    title = f"{quarter}: {sum(p.n_items for p in topics):,} topics in {len(topics):,} requests, {len(themes):,} themes"
    columns = headings(
        CostEstimate,
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
        console.print(
            f"{counts.n_to_do} of {counts.n_expected} firms are not complete; topics they lack are not included"
        )
    if not themes:
        console.print("no themes are published yet, so their descriptions are not included")
    spent, n_unknown = sum(each.dollars for each in paid), sum(each.n_price_unknown for each in paid)
    unknown = f" and {n_unknown:,} requests of unknown price" if n_unknown else ""
    console.print(f"spent for {quarter} so far: ${money(spent)}{unknown}; caps: {caps(settings)}")
    for warning in filter(None, (cap_warning(row, spent, settings) for row in rows if row.chosen)):
        console.print(warning, soft_wrap=True)
    if not settings.llm_model:
        console.print("no language model is configured (FTM_LLM_MODEL): summaries are made of keywords, at no cost")


def compared_models(chosen: str | None, prices: Mapping[str, Price]) -> list[str]:
    """The chosen model, then those of the price list that are not free."""
    priced = [name for name, price in prices.items() if price.tokens_in or price.tokens_out]
    return list(dict.fromkeys([*filter(None, [chosen]), *priced]))


def planned_topics(connection: "Connection", quarter: str) -> list[PlannedRequest]:
    """A request for each batch of topics, as the asset topic_summaries would send it."""
    return [
        PlannedRequest.from_task(task)
        for firm in evidence_by_firm(connection, quarter)
        for task in topic_tasks(firm, NameBlocklist(), quarter)
    ]


def planned_themes(connection: "Connection", quarter: str) -> list[PlannedRequest]:
    """A request for each published theme, with the current summaries."""
    keywords, members, texts = published_themes(connection, quarter)
    return [PlannedRequest.from_task(task) for task in theme_tasks(quarter, keywords, members, texts, {})]


def estimate_cost(
    connection: "Connection",
    model: str,
    planned: Sequence[PlannedRequest],
    settings: Settings,
    prices: Mapping[str, Price],
) -> CostEstimate:
    """What these requests would cost with a model; stored replies cost nothing.

    A request that was refused is not sent again. The requests that take its place are counted.
    """
    keys = [each.request.key(model) for each in planned]
    refused = keys_in_state(connection, keys, "refused")
    pieces = [
        piece for key, each in zip(keys, planned, strict=True) if key in refused for piece in each.after_refusal()
    ]
    keys += [piece.request.key(model) for piece in pieces]
    stored = keys_in_state(connection, keys, "answered", "refused")
    usage = usage_by_prompt(connection, model, {each.request.prompt for each in planned})
    found = estimate([*planned, *pieces], model, frozenset(stored), usage)
    price = prices.get(model)
    return CostEstimate(
        model=model,
        chosen=model == settings.llm_model,
        n_requests=found.n_requests,
        n_stored=found.n_stored,
        tokens_in=found.tokens_in,
        tokens_out=found.tokens_out,
        # As if the provider had nothing in its cache.
        dollars=price.dollars(found.tokens_in, 0, found.tokens_out) if price else None,
        counted_by=describe_token_ratio(usage),
        training_cutoff=price.training_cutoff if price else None,
        price_checked=price.checked if price else None,
    )


def describe_token_ratio(usage: Mapping[str, PromptUsage]) -> str:
    """How characters were converted to tokens."""
    n = sum(each.n_requests for each in usage.values())
    if not n:
        return f"{CHARS_PER_TOKEN:g} characters a token, assumed"
    mean = sum(each.chars_per_token * each.n_requests for each in usage.values()) / n
    return f"{mean:.2f} characters a token, as {n:,} requests took"


def cap_warning(cost: CostEstimate, spent: float, settings: Settings) -> str:
    """What the quarter's cap will prevent, empty if nothing. A run's cap is not considered."""
    cap = settings.llm_quarter_cap
    if cost.dollars is None:
        capped = not math.isinf(min(cap, settings.llm_run_cap))
        return f"nothing is sent: {PriceUnknown(cost.model)}" if capped and cost.n_requests else ""
    if spent + cost.dollars <= cap:
        return ""
    return (
        f"that is more than the quarter's cap: ${money(spent)} spent and ${money(cost.dollars)} to come, ${money(cap)} "
        "allowed (FTM_LLM_QUARTER_CAP); summaries above the cap are made of keywords"
    )


def caps(settings: Settings) -> str:
    """The caps of a run and a quarter as text."""
    named = (("run", settings.llm_run_cap), ("quarter", settings.llm_quarter_cap))
    return ", ".join(f"{'none' if math.isinf(cap) else f'${cap:,.2f}'} a {what}" for what, cap in named)
