"""How good topics and themes are, ours beside a plain BERTopic script on the same sentences and vectors."""
