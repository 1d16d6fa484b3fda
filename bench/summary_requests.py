"""What one topic costs by how many a request asks about: python -m bench.summary_requests QUARTER

Of a quarter in the database. Nothing is sent: prompts are those that would be, replies those
of the simulated model, tokens those of the packaged encoder's tokenizer, which is no provider's.

- topics, most: in the largest request; a reply that is lost, cut or of another form is lost for all of them
- in, out: tokens a topic; instructions: share of the tokens in that says what to do
- minutes: for 90,000 topics at the default limits of requests and tokens, whichever is reached first
"""

import argparse
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ftm_assets.analysis.topic_summaries import TopicEvidence
from ftm_assets.llm.prompts import compact
from ftm_assets.llm.prompts.topic_summaries import PROMPT, SCHEMA
from ftm_assets.llm.topic_summaries import SummarySettings, topic_tasks
from ftm_assets.settings import read_settings
from ftm_assets.simulated.replies import count_tokens, reply_to
from ftm_assets.storage.read.prompt_inputs import evidence_by_firm
from ftm_assets.storage.server.database import Database

SIZES = (1, 2, 4, 6, 8, 10, 12, 15, 20, 30)
N_TOPICS = 90_000


@dataclass(frozen=True)
class Cost:
    """What a quarter takes with requests of at most `size` topics."""

    size: int
    n_topics: int
    n_requests: int
    largest: int
    tokens_in: int
    tokens_out: int
    tokens_instructions: int

    @property
    def tokens_a_topic(self) -> float:
        """In and out."""
        return (self.tokens_in + self.tokens_out) / self.n_topics

    def minutes(self, rpm: int, tpm: int) -> float:
        """For N_TOPICS at these limits."""
        requests = N_TOPICS * self.n_requests / self.n_topics
        return max(requests / rpm if rpm else 0.0, N_TOPICS * self.tokens_a_topic / tpm if tpm else 0.0)


def cost(firms: list[tuple[TopicEvidence, ...]], size: int) -> Cost:
    """Count the tokens of every request and of what the simulated model would reply."""
    asked = [each for firm in firms for each in topic_tasks(firm, settings=SummarySettings(topics_per_request=size))]
    messages = [each.request().messages for each in asked]
    replies = [
        compact(reply_to([{"role": m.role, "content": m.content} for m in of_request], SCHEMA))
        for of_request in messages
    ]
    return Cost(
        size=size,
        n_topics=sum(len(each.topics) for each in asked),
        n_requests=len(asked),
        largest=max(len(each.topics) for each in asked),
        tokens_in=count_tokens([message.content for of_request in messages for message in of_request]),
        tokens_out=count_tokens(replies),
        tokens_instructions=len(asked) * count_tokens([PROMPT.system, PROMPT.user]),
    )


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description="Tokens a topic by topics a request.")
    parser.add_argument("quarter")
    quarter: str = parser.parse_args().quarter
    settings = read_settings()
    with Database(settings).transaction() as connection:
        firms = list(evidence_by_firm(connection, quarter))
    if not firms:
        raise SystemExit(f"no topics in {quarter}; make them with: ftm backfill {quarter}")
    table = Table(title=f"{quarter}: {len(firms)} firms", title_justify="left")
    for heading in ("at most", "requests", "topics, most", "in", "out", "instructions", "minutes"):
        table.add_column(heading, justify="right")
    for size in SIZES:
        found = cost(firms, size)
        table.add_row(
            f"{size}",
            f"{found.n_requests:,}",
            f"{found.largest}",
            f"{found.tokens_in / found.n_topics:.0f}",
            f"{found.tokens_out / found.n_topics:.0f}",
            f"{found.tokens_instructions / found.tokens_in:.0%}",
            f"{found.minutes(settings.llm_rpm, settings.llm_tpm):.0f}",
        )
    console = Console(width=120)
    console.print(table)
    words = sum(len(text) for firm in firms for topic in firm for text in topic.sentences)
    tokens = count_tokens([text for firm in firms for topic in firm for text in topic.sentences])
    console.print(f"{sum(map(len, firms)):,} topics; {words / tokens:.2f} characters a token in the sentences alone")


if __name__ == "__main__":
    main()
