from ftm_assets.partition_key import PartitionKey
from ftm_assets.partitions import firm_quarter_key


def test_a_key_names_the_firm_and_then_the_quarter() -> None:
    assert PartitionKey.parse("AAPL-60094812|2021Q4") == PartitionKey(firm="AAPL-60094812", quarter="2021Q4")


def test_a_key_is_read_as_dagster_writes_it() -> None:
    written = firm_quarter_key("AAPL-60094812", "2021Q4")
    assert str(PartitionKey.parse(written)) == written == "AAPL-60094812|2021Q4"
