"""The prompt `theme_descriptions`, and the type of its replies."""

from pydantic import BaseModel, ConfigDict

from ftm_assets.llm.prompts import read_prompt, strict_schema

PROMPT = read_prompt("theme_descriptions", 1)


class ThemeReply(BaseModel):
    """The description of one theme."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    title: str
    description: str


SCHEMA = strict_schema(ThemeReply)
