"""The two dimensions of the graph: calendar quarters, fixed, and firms, registered as their calls arrive."""

import warnings

import dagster as dg

from ftm_assets.settings import read_settings

FIRM = "firm"
QUARTER = "quarter"

# Decision 2: a list, because Dagster's time windows know no quarters.
quarters = dg.StaticPartitionsDefinition(read_settings().quarter_keys())
firms = dg.DynamicPartitionsDefinition(name=FIRM)
# Decision 1: one run for each firm and quarter.
firm_quarters = dg.MultiPartitionsDefinition({FIRM: firms, QUARTER: quarters})

with warnings.catch_warnings():
    # In beta for years, and the only mapping between a quarter and its firms.
    warnings.simplefilter("ignore", dg.BetaWarning)
    one_quarter = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name=QUARTER)


def firm_quarter_key(firm_key: str, quarter: str) -> str:
    """The partition key of a firm in a quarter, as `PartitionKey` reads it."""
    return dg.MultiPartitionKey({FIRM: firm_key, QUARTER: quarter})
