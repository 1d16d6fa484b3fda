"""Writing: calls on ingest, the partitions of the firm assets, published themes."""
