"""Measurements that guard a promise of speed or quality: python -m benchmarks lists them."""
