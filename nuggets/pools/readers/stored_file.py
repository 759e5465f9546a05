"""A file of a pool, local or remote: reading resumes at the same byte after a server was unavailable."""

import contextlib
import io
from collections.abc import Callable
from typing import Any, TypeVar

from nuggets.errors import InputError
from nuggets.pools.readers.content_digest import ContentDigest
from nuggets.store.file_systems import call_file_system

T = TypeVar("T")
_BLOCK_BYTES = 4 << 20  # per request to an object store: s3fs on its own would buffer 50 MB


class StoredFile(io.RawIOBase):
    """The stored bytes of a file, readable and seekable. Raises StoreError, and InputError if the file was changed."""

    def __init__(self, address: str, endpoint: str | None, content: ContentDigest | None = None) -> None:
        super().__init__()
        self.address = address
        self._content = content
        self._hashed = 0  # bytes from the start that are in the digest
        self._is_whole = False  # whether these are all bytes of the file
        self._endpoint = endpoint
        self._file: Any = None
        self._version: object = None
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always; but to seek backwards in a compressed text that is read through it is slow."""
        return True

    def tell(self) -> int:
        """Position of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Set the position of the next read."""
        end = whence == io.SEEK_END
        start = self._call(lambda file: int(file.seek(0, io.SEEK_END))) if end else self._at * (whence == io.SEEK_CUR)
        if start + offset < 0:  # no errno: the request comes from a damaged table, not from the disk
            raise OSError(f"seek to byte {start + offset} of a file")
        self._at = start + offset
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        """`size` bytes, fewer only at the end of the file; all that are left where `size` is negative."""

        def read(file: Any) -> bytes:
            # At most the rest of the file: a damaged length in a table may be larger than memory.
            left = max(0, file.seek(0, io.SEEK_END) - self._at)
            file.seek(self._at)
            return bytes(file.read(left if size < 0 else min(size, left)))

        data = self._call(read)
        if self._content is not None and self._at == self._hashed:
            self._content.update(data)
            self._hashed += len(data)
            self._is_whole = size < 0 or len(data) < size
        self._at += len(data)
        return data

    def head(self, size: int) -> bytes:
        """The first bytes. The position of the next read stays as it is, and the digest does not count them."""

        def read(file: Any) -> bytes:
            file.seek(0)
            return bytes(file.read(size))

        return self._call(read)

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer; returns the number of bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file. Records in the digest whether all of the file is in it."""
        if self._content is not None and not self.closed:
            self._content.end_file(is_whole=self._is_whole)
        self._drop()
        super().close()

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):  # the file was only read; an earlier error is more specific
                file.close()

    def _call(self, call: Callable[[Any], T]) -> T:
        def on_an_open_file(filesystem: Any, path: str) -> T:
            if self._file is None:
                self._open(filesystem, path)
            try:
                return call(self._file)
            except Exception:
                self._drop()  # its buffer may hold wrong bytes after an error
                raise

        try:
            return call_file_system("read", self.address, self._endpoint, on_an_open_file)
        except FileNotFoundError as error:
            raise InputError(
                f"'{self.address}' is missing: it may have been deleted or renamed since the run began. Restore it "
                "and run again"
            ) from error

    def _open(self, filesystem: Any, path: str) -> None:
        file = filesystem.open(path, "rb", block_size=_BLOCK_BYTES)
        details = getattr(file, "details", None)  # metadata of a remote object
        version = details.get("ETag") if isinstance(details, dict) else None
        if self._version not in (None, version):
            file.close()
            raise InputError(
                f"'{self.address}' was changed while it was read: stop other programs from writing to it and run again"
            )
        self._file, self._version = file, version
