"""How the fake model behaves, and how it can misbehave."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

MODEL = "simulated-1"


class Fault(StrEnum):
    """A way to misbehave."""

    too_many = "429"
    too_many_retry_after = "429 with Retry-After"
    server_error = "500"
    slow = "slow"
    hanging = "hanging"
    cut = "cut connection"
    cut_body = "truncated body"
    cut_reply = "truncated reply"
    wrong_schema = "wrong schema"
    wrong_ids = "wrong ids"
    refusal = "refusal"
    empty = "empty"
    duplicate_keys = "duplicate keys"
    error_body = "200 with an error body"
    moderation = "moderation"
    no_credit = "no credit left"


# What a provider does on a bad day; the others are shown by time alone, or end the day.
MIXED = tuple(fault for fault in Fault if fault not in (Fault.hanging, Fault.moderation, Fault.no_credit))


@dataclass(frozen=True)
class Behaviour:
    """How the server answers.

    faults:        share of the requests that each fault hits, decided by seed, request and how often it came
    latency_s:     until a reply begins; `slow_s` for a slow one
    rpm, tpm:      more requests or tokens than that in `window_s` are answered 429; 0: no limit
    retry_after_s: what a 429 with that header asks for
    key:           the only API key that is accepted; None: any
    model:         the only model that is there
    errors:        in whose form and words errors come
    reasoning_tokens: hidden tokens that each reply takes, unless little `reasoning_effort` is asked for
    billing_factor:   so many times the tokens of a reply are reported and billed
    follows_injected_instructions: whether it does what a sentence of a call tells it; see `replies.injected_reply`
    """

    faults: Mapping[Fault, float] = field(default_factory=dict)
    latency_s: float = 0.0
    slow_s: float = 2.0
    rpm: int = 0
    tpm: int = 0
    window_s: float = 60.0
    retry_after_s: float = 1.0
    key: str | None = None
    model: str = MODEL
    errors: Literal["openai", "xai"] = "openai"
    reasoning_tokens: int = 0
    billing_factor: int = 1
    follows_injected_instructions: bool = False
    seed: int = 42

    def fault_of(self, request: str, number: int) -> Fault | None:
        """What goes wrong with a request that comes for the `number`th time; None: nothing."""
        digest = hashlib.blake2b(f"{self.seed} {request} {number}".encode(), digest_size=8).digest()
        drawn = int.from_bytes(digest, "big") / 2**64
        for fault, share in self.faults.items():
            drawn -= share
            if drawn < 0:
                return fault
        return None


def mixed(share: float) -> dict[Fault, float]:
    """The faults of a bad day, together with this share of the requests."""
    return {fault: share / len(MIXED) for fault in MIXED}
