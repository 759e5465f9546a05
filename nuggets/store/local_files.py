"""Files of a store on a local disk: listed by name, and replaced atomically."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

PENDING = ".pending-"  # prefix of an incomplete file; listings never show it


def is_there(target: str) -> bool:
    """Whether a file or folder exists. Raises OSError for a disk error, and for a link without a target.

    os.path.exists returns False in these cases: cells would then be computed again, and results that were made from
    them would be replaced by empty ones.
    """
    try:
        os.stat(target)
    except NotADirectoryError:
        return False
    except FileNotFoundError:
        _check_links(target)
        return False
    return True


def files_below(target: str) -> list[str]:
    """All files below a folder. Symbolic links are followed: cells may be on another disk.

    Only names are read. A listing that reads the size of each file, as fsspec does, drops a file that is deleted
    meanwhile, and does not show the file that replaced it. Raises OSError for a folder that cannot be read and for a
    link without a target: shown as absent, its cells would be computed again.
    """
    files: list[str] = []
    folders = [target]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_symlink() and not entry.name.startswith("."):  # editors lock files by hidden links
                        _check_links(entry.path)
                    (folders if entry.is_dir() else files).append(entry.path)
        except FileNotFoundError:
            _check_links(folder)
        except NotADirectoryError:  # the folder asked for is a file, or lies below one
            return [target] if os.path.exists(target) else []
    return files


def _check_links(path: str) -> None:
    """Raise OSError if a path is missing because of a link without a target, as when a disk is not mounted."""
    nearest = next(part for part in (Path(path), *Path(path).parents) if os.path.lexists(part))
    if not nearest.exists():
        raise OSError(errno.ENOLINK, "symbolic link without a target", str(nearest))


def ages_of(files: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Files that still exist, and the seconds since each was written."""
    now = datetime.now().timestamp()
    for name in files:
        with contextlib.suppress(FileNotFoundError):  # its writer has finished, or another process has deleted it
            yield name, now - os.stat(name).st_mtime


def replace_file(target: str, write: Callable[[BinaryIO], object]) -> None:
    """Make a file hold what `write` writes: readers see all of it or nothing, also after a crash."""
    with _pending_file(target, write) as pending:
        os.replace(pending, target)


def create_file(target: str, write: Callable[[BinaryIO], object]) -> bool:
    """As `replace_file`, but only where no such file exists; returns whether this call created it."""
    with _pending_file(target, write) as pending:
        try:
            os.link(pending, target)  # unlike a rename, a link never replaces a file, and it appears with its content
        except FileExistsError:
            return False
        finally:
            os.unlink(pending)
    return True


@contextlib.contextmanager
def _pending_file(target: str, write: Callable[[BinaryIO], object]) -> Iterator[str]:
    """A complete, synced temporary file beside the target, which the caller moves; removed if that fails."""
    folder = Path(target).parent
    folder.mkdir(parents=True, exist_ok=True)
    handle, pending = tempfile.mkstemp(prefix=PENDING, dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            # A rename may reach the disk before the data does; then a crash leaves an empty file.
            os.fsync(file.fileno())
        os.chmod(pending, 0o644)  # mkstemp makes it private, which would hide a shared store from colleagues
        yield pending
        _sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(pending)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: callers delete other files next, and a power cut must not leave only the deletions."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # some network file systems can't sync folders
            raise
    finally:
        os.close(handle)
