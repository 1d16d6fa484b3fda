"""The OUTSIDE: transcript sources, the sentence encoder, the language model."""
