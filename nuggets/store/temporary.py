"""A temporary folder on the local disk: for data larger than memory, and for files before they are stored."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nuggets.errors import StoreUnavailable


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is deleted afterwards. Raises StoreUnavailable with advice if its disk is full."""
    with tempfile.TemporaryDirectory(prefix="nuggets-") as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise StoreUnavailable(
                f"no space left for temporary files in {Path(name).parent}: free some, or set TMPDIR to a folder on "
                f"another disk ({os.strerror(error.errno)})"
            ) from error
