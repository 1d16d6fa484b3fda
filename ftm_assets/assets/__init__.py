"""WHAT exists: one file per asset, with its checks, jobs and sensors."""
