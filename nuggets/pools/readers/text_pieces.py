"""The text of a file in UTF-8, in pieces: compression and encoding are recognised by the first bytes, not by names."""

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from nuggets.errors import InputError, StoreError
from nuggets.pools.readers.stored_file import StoredFile

_PIECE_BYTES = 256 << 10  # small beside the memory limit, large enough to make Python's work per piece negligible
_HEAD_BYTES = 16


class _KeptOpen:
    """A file that stays open when pyarrow drops the stream that reads it: it may be read again from its start."""

    closed = False

    def __init__(self, file: StoredFile) -> None:
        self.read = file.read

    def close(self) -> None:
        """Nothing."""


# Names, first bytes and readers of compressed files.
_COMPRESSIONS: tuple[tuple[str, Callable[[bytes], bool], Callable[[Any], Any]], ...] = (
    ("gzip", lambda head: head.startswith(b"\x1f\x8b"), lambda file: gzip.GzipFile(fileobj=file)),
    ("bzip2", lambda head: head.startswith(b"BZh") and head[4:10] == b"1AY&SY", lambda file: bz2.BZ2File(file)),
    ("xz", lambda head: head.startswith(b"\xfd7zXZ\x00"), lambda file: lzma.LZMAFile(file)),
    (
        "zstd",
        lambda head: head.startswith(b"\x28\xb5\x2f\xfd"),
        lambda file: pa.CompressedInputStream(pa.PythonFile(_KeptOpen(file), mode="r"), "zstd"),
    ),
)
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
# UTF-32-LE comes before UTF-16-LE, because its mark starts like that of UTF-16-LE.
_WIDE_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_pieces(file: StoredFile) -> Iterator[bytes]:
    """The text of a file in pieces of UTF-8, without a byte order mark.

    Bytes of a UTF-8 file come as they are, valid or not. Raises InputError where a file is damaged: its compression,
    or UTF-16 or UTF-32 that can't be decoded.
    """
    pieces = _decompressed(file)
    first = next(pieces, b"")
    encoding = next((name for mark, name in _WIDE_ENCODINGS if first.startswith(mark)), None)
    if encoding:
        yield from _recoded(first, pieces, encoding, file.address)
    else:
        if first := first.removeprefix(codecs.BOM_UTF8):
            yield first
        yield from pieces


def _decompressed(file: StoredFile) -> Iterator[bytes]:
    head = file.head(_HEAD_BYTES)
    name, text = next(
        ((name, opened(file)) for name, is_this, opened in _COMPRESSIONS if is_this(head)), ("no compression", file)
    )
    try:
        while piece := text.read(_PIECE_BYTES):
            yield piece
    except StoreError:  # it is an OSError, too, but not damage
        raise
    except _DAMAGE as error:
        raise InputError(f"'{file.address}' is damaged {name} ({error}). Copy or compress it again") from error


def _recoded(first: bytes, pieces: Iterable[bytes], encoding: str, address: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="surrogatepass")  # half a pair costs only its row
    try:
        yield decoder.decode(first).encode(errors="surrogatepass")
        for piece in pieces:
            if recoded := decoder.decode(piece).encode(errors="surrogatepass"):
                yield recoded
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{address}' is damaged {encoding.upper()} ({error.reason}). Copy or save it again"
        ) from error
