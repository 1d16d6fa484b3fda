"""A language model that is none: a server of OpenAI's protocol for tests, benches and the demo without a network."""
