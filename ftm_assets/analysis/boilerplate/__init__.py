"""Sentences that say nothing about the firm: by rule, by a dated baseline of phrases, by likeness to seed sentences.

`measure_boilerplate` and `_flag` in `analysis/sentences.py` combine the three.
"""
