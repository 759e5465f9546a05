"""Where runs live: a local folder or s3://bucket/prefix, read and written in whole objects."""

import contextlib
import errno
import io
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec.core

from nuggets.errors import StoreError, UsageError
from nuggets.patience import insist, may_pass
from nuggets.s3_endpoint import current_s3_endpoint

T = TypeVar("T")

_PENDING = ".pending-"  # prefix of a file that is not whole yet; listings never show it

_FULL = (errno.ENOSPC, errno.EDQUOT)

_S3_OPTIONS = {
    "use_listings_cache": False,  # it never expires, and would hide what other writers add
    # Short pauses here; `insist` makes the long ones, and says so. A stalled connection is given up and opened again.
    "config_kwargs": {
        "connect_timeout": 10,
        "read_timeout": 30,
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}


def locate(url: str) -> tuple[Any, str]:
    """The file system and the path on it that a local path or URL means."""
    if "://" not in url:
        url = os.path.abspath(os.path.expanduser(url))
    options: dict[str, Any] = {}
    if url.startswith(("s3://", "s3a://")):
        endpoint = current_s3_endpoint()
        options = _S3_OPTIONS | ({"endpoint_url": endpoint} if endpoint else {})
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise UsageError(f"'{url}' can't be opened ({error}): use a local folder, or install s3fs for s3://") from error
    return filesystem, str(path).rstrip("/")


@contextlib.contextmanager
def _explained(action: str, url: str, path: str, filesystem: Any) -> Iterator[None]:
    try:
        yield
    except (TypeError, AttributeError):  # a mistake of the program, not of the store
        raise
    except Exception as error:  # clients of remote stores have types of their own, not all of them OSError
        if isinstance(error, FileNotFoundError) and action == "read":
            raise
        where = f"{url.rstrip('/')}/{path}{_endpoint(filesystem)}"
        advice, passing = (_of_a_disk if _is_local(filesystem) else _of_a_server)(error, action, f"{url}/{path}")
        cause = str(getattr(error, "strerror", None) or error).rstrip(".") or type(error).__name__
        said = f"{advice} ({cause})" if advice else f"{cause}; mend this and run again, what is stored already is kept"
        raise StoreError(f"could not {action} {where}: {said}", may_pass=passing or may_pass(error)) from error


def _of_a_disk(error: Exception, action: str, address: str) -> tuple[str, bool]:
    """What an error of a local disk means, if anything can be said, and whether it may pass."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOTDIR, errno.EEXIST) and (file := _file_in_the_way(address)):
        return f"{file} is a file, and a folder is wanted there: give another store", False
    if isinstance(error, PermissionError) or number == errno.EROFS:
        verb = "read" if action in ("read", "list") else "write"
        return f"no permission: give a store that this user may {verb}, or mend its permissions", False
    if isinstance(error, FileNotFoundError):
        return "its folder is not there and can't be made: give another store", False
    return _of_any_store(error)


def _of_a_server(error: Exception, action: str, address: str) -> tuple[str, bool]:
    """What an error of a remote store means, if anything can be said, and whether it may pass."""
    kind = type(error).__name__
    if "Credentials" in kind:
        found = "no AWS credentials were found" if kind == "NoCredentialsError" else "the AWS credentials are not whole"
        return f"{found}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE", False
    if isinstance(error, PermissionError):
        return "the server refuses who asks: look at the AWS environment or profile, and at the permissions", False
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket: create it, or give another store", False
    return _of_any_store(error)


def _of_any_store(error: Exception) -> tuple[str, bool]:
    number = getattr(error, "errno", None)
    if number in _FULL:
        return (
            "the disk or quota is full: free some space or give another store; what is stored already is kept",
            True,
        )
    if isinstance(error, MemoryError):
        return "memory is short: have fewer tasks or other programs at a time on this machine", True
    return "", number == errno.ESTALE  # of a network's disk: its server has changed under us


def _file_in_the_way(address: str) -> Path | None:
    """The file that stands where a folder of this address should be."""
    return next((folder for folder in Path(address).parents if folder.is_file()), None)


def _endpoint(filesystem: Any) -> str:
    """Which server was asked, where the address alone does not say."""
    client = getattr(filesystem, "_s3", None)
    return f" (endpoint {client.meta.endpoint_url})" if client is not None else ""


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of immutable objects named by relative paths with forward slashes."""

    url: str

    def uri(self, path: str) -> str:
        """Full address of an object, for people and manifests."""
        return posixpath.join(self.url, path)

    def _at(self, path: str) -> tuple[Any, str]:
        filesystem, root = locate(self.url)
        return filesystem, posixpath.join(root, path)

    def _ask(self, action: str, path: str, call: Callable[[Any, str], T]) -> T:
        """What `call` returns, given the file system and the path there; a remote one gets several chances."""
        filesystem, target = self._at(path)
        with _explained(action, self.url, path, filesystem):
            if _is_local(filesystem):
                return call(filesystem, target)
            return insist(lambda: call(filesystem, target), what=f"could not {action} {self.uri(path)}")

    def read(self, path: str) -> bytes:
        """Content of an object. Raises FileNotFoundError with its full address if it is not there."""
        try:
            data: bytes = self._ask("read", path, lambda filesystem, target: filesystem.cat_file(target))
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "nothing is stored at", self.uri(path)) from error
        return data

    def open(self, path: str) -> BinaryIO:
        """An object to read some parts of: from a local disk only those are read, from elsewhere it comes whole.

        Raises FileNotFoundError with its full address if it is not there.
        """
        filesystem, target = self._at(path)
        if not _is_local(filesystem):
            return io.BytesIO(self.read(path))
        with _explained("read", self.url, path, filesystem):
            try:
                return Path(target).open("rb")
            except FileNotFoundError as error:
                raise FileNotFoundError(errno.ENOENT, "nothing is stored at", self.uri(path)) from error

    def read_json(self, path: str) -> Any:
        """An object's content as JSON. Raises StoreError naming a damaged one."""
        try:
            return json.loads(self.read(path))
        except ValueError as error:
            raise StoreError(
                f"{self.uri(path)} is damaged and can't be read as JSON ({error}): delete this file and run again; "
                "only what it held is made anew"
            ) from error

    def write(self, path: str, data: bytes) -> None:
        """Store an object: readers see all of it or nothing, also when this process is killed."""

        def put(filesystem: Any, target: str) -> None:
            if _is_local(filesystem):
                _replace_local(target, lambda pending: pending.write(data))
            else:
                filesystem.pipe_file(target, data)  # one PUT: visible whole or not at all

        self._ask("write", path, put)

    def write_file(self, path: str, file: Path) -> None:
        """Store a local file's content, of any size, with the promise of `write`."""

        def put(filesystem: Any, target: str) -> None:
            if _is_local(filesystem):
                with file.open("rb") as source:
                    _replace_local(target, lambda pending: shutil.copyfileobj(source, pending))
            else:
                filesystem.put_file(str(file), target)  # parts of a large one appear together, when the last is there

        self._ask("write", path, put)

    def exists(self, path: str) -> bool:
        """Whether an object, or anything below a folder of that name, is there."""
        return self._ask("read", path, _is_there)

    def list(self, folder: str, *, suffix: str = "") -> list[str]:
        """Paths of all objects below a folder, sorted; none if the folder is not there.

        With a `suffix` those that have it, and are not hidden: foreign files, such as macOS leaves, are none of ours.
        """

        def find(filesystem: Any, target: str) -> list[str]:
            if _is_local(filesystem):
                return _local_files(target)
            if not filesystem.exists(target):
                return []
            # Some servers keep an empty folder when the last object below it is deleted.
            found = filesystem.find(target, detail=True)
            return [name for name, entry in found.items() if entry["type"] != "directory"]

        paths = [path for path, _ in self._shown(self._ask("list", folder, find))]
        if not suffix:
            return paths
        return [path for path in paths if path.endswith(suffix) and not posixpath.basename(path).startswith(".")]

    def _shown(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Paths in the store, sorted, beside the names that the file system has for them; none that is not whole."""
        _, root = locate(self.url)
        for path, name in sorted((posixpath.relpath(name, root), name) for name in names):
            if not posixpath.basename(path).startswith(_PENDING):
                yield path, name

    def ages(self, folder: str) -> dict[str, float]:
        """Seconds since each object below a folder was stored, by the clocks of its disk or server and of this machine.

        A store that does not tell when has objects that were stored just now.
        """

        def look(filesystem: Any, target: str) -> dict[str, float]:
            if _is_local(filesystem):
                return dict(_local_ages(_local_files(target)))
            if not filesystem.exists(target):
                return {}
            now = datetime.now(UTC)
            found = filesystem.find(target, detail=True).items()
            return {
                name: (now - entry.get("LastModified", now)).total_seconds()
                for name, entry in found
                if entry["type"] != "directory"
            }

        ages = self._ask("list", folder, look)
        return {path: ages[name] for path, name in self._shown(ages)}

    def leftovers(self) -> dict[str, float]:
        """Files that killed writers have left, and their age in seconds; a live writer's are among them, young ones.

        Only a local disk has any: elsewhere an object appears when all of it is there.
        """
        filesystem, root = locate(self.url)
        if not _is_local(filesystem):
            return {}
        with _explained("list", self.url, "", filesystem):
            files = [name for name in _local_files(root) if posixpath.basename(name).startswith(_PENDING)]
            return {posixpath.relpath(name, root): age for name, age in _local_ages(files)}

    def remove(self, path: str) -> None:
        """Delete an object; nothing happens if it is not there."""

        def delete(filesystem: Any, target: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                filesystem.rm_file(target)

        self._ask("delete", path, delete)

    def check_writable(self) -> None:
        """Raise StoreError at once, not after hours of scoring, if nothing can be stored here."""
        probe = f"{_PENDING}check-{os.getpid()}"
        self.write(probe, b"nuggets")
        self.remove(probe)


def open_store(url: str) -> Store:
    """The store at a local folder or URL; a relative folder is resolved, so that every task means the same place."""
    if "://" in url and not url.startswith("file://"):
        return Store(url.rstrip("/"))
    return Store(locate(url)[1])


def _is_local(filesystem: Any) -> bool:
    return "file" in filesystem.protocol


def _is_there(filesystem: Any, target: str) -> bool:
    if not _is_local(filesystem):
        return bool(filesystem.exists(target))
    # Not os.path.exists: it takes what may not be looked at, or what the disk gives no answer about, for absent; then
    # cells are computed again, and what was made from them is replaced by nothing.
    try:
        os.stat(target)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _local_files(target: str) -> list[str]:
    """All files below a folder, by their names alone.

    Whoever asks for each file's size on the way, as fsspec does, leaves out what somebody deletes meanwhile, and has
    not seen what has taken its place. A folder that may not be read is an error, not an empty one.
    """
    found: list[str] = []
    folders = [target]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:  # links are followed: somebody may keep his cells on another disk
                    (folders if entry.is_dir() else found).append(entry.path)
        except FileNotFoundError:
            continue
        except NotADirectoryError:  # the folder asked for is a file, or lies below one
            return [target] if os.path.exists(target) else []
    return found


def _local_ages(files: Iterable[str]) -> Iterator[tuple[str, float]]:
    now = datetime.now().timestamp()
    for name in files:
        with contextlib.suppress(FileNotFoundError):  # its writer has just finished, or somebody has swept it
            yield name, now - os.stat(name).st_mtime


def _replace_local(target: str, write: Callable[[BinaryIO], object]) -> None:
    folder = Path(target).parent
    folder.mkdir(parents=True, exist_ok=True)
    handle, pending = tempfile.mkstemp(prefix=_PENDING, dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            # A rename may reach the disk before the data does; then a crash leaves an empty file.
            os.fsync(file.fileno())
        os.chmod(pending, 0o644)  # mkstemp makes it private, which would hide a shared store from colleagues
        os.replace(pending, target)
        _sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(pending)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: what it replaces may be deleted next, and must not be all that a power cut leaves."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # some network file systems can't sync folders
            raise
    finally:
        os.close(handle)
