"""A server of OpenAI's protocol without a model behind it, for tests, benchmarks and the demo without a network."""
