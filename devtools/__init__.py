"""Tools for whoever works on the project, in a clone: a fake language model, made-up quarters, processes for tests."""
