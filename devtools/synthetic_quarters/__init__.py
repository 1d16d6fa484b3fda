"""A quarter of full size that is made up: python -m bench.scale fills a database with it."""
