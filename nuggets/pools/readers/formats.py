"""The format of a file of a pool: by its name, else by its first bytes."""

from dataclasses import dataclass
from typing import Literal

from nuggets.errors import UsageError
from nuggets.pools.readers.json_tokens import SPACE
from nuggets.pools.readers.stored_file import StoredFile
from nuggets.pools.readers.text_pieces import read_pieces

Format = Literal["json", "csv", "parquet", "arrow"]
KNOWN_FORMATS = (
    "JSON (an array, JSON Lines, or one object around the rows), CSV, TSV, each also compressed with gzip, bzip2, xz "
    "or zstd; Parquet; a folder of such files; or a folder saved by Hugging Face datasets (save_to_disk)"
)
ARROW_FILE = b"ARROW1"  # the first bytes of a file with an index; a stream has none
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
_BY_NAME: dict[str, Format] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}


@dataclass(frozen=True, slots=True)
class PoolFile:
    """A file of a pool: its full address (a local one is an absolute path), and its format."""

    address: str
    format: Format


def plain_name(name: str) -> str:
    """A name in lower case, without the ending that says how the file is compressed."""
    lower = name.lower()
    return lower.removesuffix(next((ending for ending in COMPRESSED if lower.endswith(ending)), ""))


def ending_of(name: str) -> str | None:
    """The ending that says which format a file has; None where the name does not say it. Only text is compressed."""
    plain, lower = plain_name(name), name.lower()
    names = ((ending, lower if form in ("parquet", "arrow") else plain) for ending, form in _BY_NAME.items())
    return next((ending for ending, name in names if name.endswith(ending)), None)


def format_of(address: str, endpoint: str | None) -> Format:
    """The format of a file. Raises UsageError if neither its name nor its first bytes say it."""
    ending = ending_of(address)
    if ending is not None:
        return _BY_NAME[ending]
    with StoredFile(address, endpoint) as file:
        head = file.head(6)
        if head.startswith(b"PAR1"):
            return "parquet"
        if head == ARROW_FILE:
            return "arrow"
        if head.startswith(b"PK\x03\x04"):
            raise UsageError(f"'{address}' is a zip archive or a spreadsheet. Unpack it, or save it as CSV")
        first = next((text[:1] for piece in read_pieces(file) if (text := piece.lstrip(SPACE))), b"")
    if first in (b"{", b"["):
        return "json"
    raise UsageError(f"the format of '{address}' is not known. Known formats: {KNOWN_FORMATS}")
