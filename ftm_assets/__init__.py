"""From earnings calls to sentences, per-firm topics, topic summaries and cross-firm themes."""
