"""Made-up quarters for tests and benchmarks: python -m devtools.synthetic_quarters fills a database with them.

`firms` and `fill` make quarters that resemble real ones, through the functions that the assets use. `uniform` makes
plain ones whose neighbours are known, for tests of search. Decision 117: one maker for both failed those tests.
"""
