"""Made-up quarters for tests and benchmarks: python -m devtools.synthetic_quarters fills a database with them."""
