"""The prompt `topic_summaries`, and the types of its replies."""

from pydantic import BaseModel, ConfigDict

from ftm_assets.llm.prompts import read_prompt, strict_schema

PROMPT = read_prompt("topic_summaries", 1)


class TopicReply(BaseModel):
    """The summary of one topic."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    topic: int
    title: str
    summary: str
    evidence: list[str]


class TopicReplies(BaseModel):
    """The whole reply."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    summaries: list[TopicReply]


SCHEMA = strict_schema(TopicReplies)
