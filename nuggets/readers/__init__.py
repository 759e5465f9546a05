"""Pools in the formats people keep them in, read row by row: used as an example, or rejected with a reason."""

from nuggets.readers.pool import read_pool
from nuggets.readers.sources import PoolSource, check_unchanged, find_source, fingerprint

__all__ = ["PoolSource", "check_unchanged", "find_source", "fingerprint", "read_pool"]
