"""How messages name a pool."""

from collections.abc import Sequence


def pool_name(addresses: Sequence[str]) -> str:
    """The first address of a pool, and how many others it has."""
    more = len(addresses) - 1
    return f"{addresses[0]} and {more} more" if more else addresses[0]
