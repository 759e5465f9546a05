"""A folder on the local disk for what is too large for memory, or has to be whole before it is stored."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nuggets.errors import StoreError


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards. Raises StoreError saying what to do if its disk is full."""
    with tempfile.TemporaryDirectory(prefix="nuggets-") as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise StoreError(
                f"no space left for temporary files in {Path(name).parent}: free some, or set TMPDIR to a folder with "
                f"room ({os.strerror(error.errno)})",
                is_transient=True,
            ) from error
