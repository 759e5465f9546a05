"""Bytes of a pool's files, wherever they lie: uncompressed, in pieces, fingerprinted."""

import codecs
import contextlib
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from nuggets.errors import InputError
from nuggets.readers.stored_file import StoredFile

GZIP_ERRORS = (gzip.BadGzipFile, zlib.error, EOFError)
_PIECE_BYTES = 256 << 10  # small enough for memory, large enough that Python's work per piece doesn't show
_HASH_BYTES = 1 << 20


@contextlib.contextmanager
def open_text(address: str) -> Iterator[Any]:
    """A file of encoded text, readable as bytes; a .gz is uncompressed on the way."""
    with StoredFile(address) as file:
        if address.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as uncompressed:
                yield uncompressed
        else:
            yield file


def read_pieces(address: str) -> Iterator[bytes]:
    """The text of a file in pieces, without a leading UTF-8 BOM. Raises InputError where a .gz is damaged."""
    try:
        with open_text(address) as file:
            piece = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8) or file.read(_PIECE_BYTES)
            while piece:
                yield piece
                piece = file.read(_PIECE_BYTES)
    except GZIP_ERRORS as error:
        raise InputError(f"'{address}' is damaged gzip ({error}). Copy or compress it again") from error


def sha256_of(addresses: Iterable[str]) -> str:
    """SHA-256, in hex, over the stored bytes of some files, one after the other."""
    digest = hashlib.sha256()
    for address in addresses:
        with StoredFile(address) as file:
            while piece := file.read(_HASH_BYTES):
                digest.update(piece)
    return digest.hexdigest()
