"""Why a row can't even be looked at: the raw rows' counterpart of a Reject, before it has a number."""

from dataclasses import dataclass

from nuggets.examples import RejectReason

DETAIL_LENGTH = 200  # characters: a line in a report, not the row itself, which may be megabytes


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that could not be decoded or is too large, and what was found."""

    reason: RejectReason
    detail: str


def undecodable(detail: str) -> Fault:
    """A row whose bytes are not what their format promises."""
    return Fault(RejectReason.UNDECODABLE, detail[:DETAIL_LENGTH])


def too_large(max_row_bytes: int) -> Fault:
    """A row that is larger than allowed; how much larger is not known, because reading stops at the limit."""
    return Fault(RejectReason.TOO_LARGE, f"the row has more than max_row_bytes={max_row_bytes} bytes")
