"""Checks of single values that configuration and components share. Pure."""

from nuggets.errors import UsageError


def check_range(
    name: str,
    value: float,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> None:
    """Raise UsageError unless a number lies within its bounds: from `ge` or above `gt`, up to `le` or below `lt`."""
    low, high = gt if ge is None else ge, lt if le is None else le
    is_inside = (low is None or value >= low) and (high is None or value <= high) and value not in (gt, lt)
    if not is_inside:
        raise UsageError(out_of_range(name, value, ge=ge, gt=gt, le=le, lt=lt))


def out_of_range(
    name: str,
    value: float,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> str:
    """The message for a number outside its bounds."""
    low, high = gt if ge is None else ge, lt if le is None else le
    allowed = f"{low} to {high}" if high is not None else f"{low} or more"
    excluded = "".join(f", without {bound}" for bound in (gt, lt) if bound is not None)
    percent = f" ({value:g} % is {value / 100:g})" if high == 1 and 1 < value <= 100 else ""
    return f"{name}={value} is out of range: allowed is {allowed}{excluded}{percent}"
