"""The digest of a pool's files: of their stored bytes and their order, and of nothing else."""

import hashlib
from collections.abc import Sequence


class ContentDigest:
    """SHA-256 of the stored bytes of files, computed while the files are read one after the other.

    `is_whole`: whether each file was read in order from its first to its last byte. A Parquet file is not, because its
    reader starts at the end; such files are read once more for their digest.
    """

    def __init__(self) -> None:
        self._file = hashlib.sha256()
        self.files: list[str] = []  # the digest of each file that was read
        self.is_whole = True

    def update(self, data: bytes) -> None:
        """Add the next bytes of a file."""
        self._file.update(data)

    def end_file(self, *, is_whole: bool) -> None:
        """The bytes that follow are those of the next file."""
        self.files.append(self._file.hexdigest())
        self._file = hashlib.sha256()
        self.is_whole &= is_whole


def combined_digest(files: Sequence[str]) -> str:
    """The digest of several files, given the digest of each; that of a single file is its own."""
    return files[0] if len(files) == 1 else hashlib.sha256("\n".join(files).encode()).hexdigest()
