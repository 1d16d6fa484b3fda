"""The key of a firm's partition of a quarter; the only place that knows how Dagster writes it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PartitionKey:
    """A firm in a quarter, `AAPL-60094812|2021Q4`: Dagster joins dimensions in alphabetical order of their names."""

    firm: str
    quarter: str

    @classmethod
    def parse(cls, text: str) -> "PartitionKey":
        """The key that Dagster writes so."""
        firm, _, quarter = text.partition("|")
        return cls(firm, quarter)

    def __str__(self) -> str:
        return f"{self.firm}|{self.quarter}"
