"""A store: a local folder or s3://bucket/prefix that holds whole objects."""

import contextlib
import errno
import io
import json
import os
import posixpath
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from nuggets.errors import StoreError
from nuggets.store.errors import exists_already
from nuggets.store.file_systems import call_file_system, is_local, locate
from nuggets.store.local_files import PENDING, ages_of, create_file, files_below, is_there, replace_file

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of immutable objects named by relative paths with forward slashes.

    It is an address without a connection or credentials: tasks, worker processes and clusters receive it as a value.
    """

    url: str
    endpoint: str | None = None  # URL of the S3 server; None leaves it to the AWS environment

    def uri(self, path: str) -> str:
        """Full address of an object, for messages and manifests."""
        return posixpath.join(self.url, path)

    def _call(self, action: str, path: str, call: Callable[[Any, str], T]) -> T:
        return call_file_system(action, self.uri(path), self.endpoint, call)

    def read(self, path: str) -> bytes:
        """Content of an object. Raises FileNotFoundError with its full address if there is none."""

        def content(filesystem: Any, target: str) -> bytes:
            data: bytes = filesystem.cat_file(target)
            return data

        return self._read(path, content)

    def open(self, path: str) -> BinaryIO:
        """An object as a file. On a local disk only the parts that are read are loaded; a remote one is loaded whole.

        Raises FileNotFoundError with its full address if there is none.
        """

        def opened(filesystem: Any, target: str) -> BinaryIO:
            return Path(target).open("rb") if is_local(filesystem) else io.BytesIO(filesystem.cat_file(target))

        return self._read(path, opened)

    def _read(self, path: str, call: Callable[[Any, str], T]) -> T:
        try:
            return self._call("read", path, call)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "nothing is stored at", self.uri(path)) from error

    def read_json(self, path: str) -> Any:
        """An object's content as JSON. Raises StoreError naming a damaged one."""
        try:
            return json.loads(self.read(path))
        except ValueError as error:
            raise StoreError(
                f"{self.uri(path)} is damaged and can't be read as JSON ({error}): delete this file and run again; "
                "only its content is made again"
            ) from error

    def write(self, path: str, data: bytes) -> None:
        """Store an object. Readers see all of it or nothing, also if this process is killed."""

        def put(filesystem: Any, target: str) -> None:
            if is_local(filesystem):
                replace_file(target, lambda pending: pending.write(data))
            else:
                filesystem.pipe_file(target, data)  # one PUT: the server shows all of it or nothing

        self._call("write", path, put)

    def write_if_absent(self, path: str, data: bytes) -> bool:
        """Store an object unless one exists; False where one does, so read it then.

        False can also mean an object of this call: a server may store it and its reply be lost before the retry.
        """

        def create(filesystem: Any, target: str) -> bool:
            if is_local(filesystem):
                return create_file(target, lambda pending: pending.write(data))
            try:
                filesystem.pipe_file(target, data, mode="create")
            except Exception as error:  # servers name the condition that failed in different ways
                if not exists_already(error):
                    raise
                return False
            return True

        return self._call("write", path, create)

    def write_file(self, path: str, file: Path) -> None:
        """Store the content of a local file of any size, atomically as `write` does."""

        def put(filesystem: Any, target: str) -> None:
            if is_local(filesystem):
                with file.open("rb") as source:
                    replace_file(target, lambda pending: shutil.copyfileobj(source, pending))
            else:
                filesystem.put_file(str(file), target)  # the parts of a large file appear together, after the last

        self._call("write", path, put)

    def exists(self, path: str) -> bool:
        """Whether there is an object of this name, or one below a folder of this name."""

        def exists(filesystem: Any, target: str) -> bool:
            return is_there(target) if is_local(filesystem) else bool(filesystem.exists(target))

        return self._call("read", path, exists)

    def list(self, folder: str, *, suffix: str = "") -> list[str]:
        """Paths of all objects below a folder, sorted; none if there is no such folder.

        With a `suffix`, only names with it that are not hidden: macOS and other programs leave hidden files.
        """

        def find(filesystem: Any, target: str) -> list[str]:
            if is_local(filesystem):
                return files_below(target)
            if not filesystem.exists(target):
                return []
            # Some servers keep an empty folder when the last object below it is deleted.
            entries = filesystem.find(target, detail=True)
            return [name for name, entry in entries.items() if entry["type"] != "directory"]

        paths = [path for path, _ in self._shown(self._call("list", folder, find))]
        if not suffix:
            return paths
        return [path for path in paths if path.endswith(suffix) and not posixpath.basename(path).startswith(".")]

    def _shown(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Paths in the store, sorted, each with its name in the file system; incomplete files are left out."""
        _, root = locate(self.url, self.endpoint)
        for path, name in sorted((posixpath.relpath(name, root), name) for name in names):
            if not posixpath.basename(path).startswith(PENDING):
                yield path, name

    def ages(self, folder: str) -> dict[str, float]:
        """Seconds since each object below a folder was stored, by the clocks of this machine and of the disk or server.

        The age is 0 in a store that does not record the time.
        """

        def ages_below(filesystem: Any, target: str) -> dict[str, float]:
            if is_local(filesystem):
                return dict(ages_of(files_below(target)))
            if not filesystem.exists(target):
                return {}
            now = datetime.now(UTC)
            entries = filesystem.find(target, detail=True).items()
            return {
                name: (now - entry.get("LastModified", now)).total_seconds()
                for name, entry in entries
                if entry["type"] != "directory"
            }

        ages = self._call("list", folder, ages_below)
        return {path: ages[name] for path, name in self._shown(ages)}

    def leftovers(self) -> dict[str, float]:
        """Incomplete files and their age in seconds: those of killed writers, and young ones of running writers.

        Only a local disk has any: a server shows no incomplete object.
        """

        def pending(filesystem: Any, root: str) -> dict[str, float]:
            if not is_local(filesystem):
                return {}
            files = [name for name in files_below(root) if posixpath.basename(name).startswith(PENDING)]
            return {posixpath.relpath(name, root): age for name, age in ages_of(files)}

        return self._call("list", "", pending)

    def remove(self, path: str) -> None:
        """Delete an object, if there is one."""

        def delete(filesystem: Any, target: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                filesystem.rm_file(target)

        self._call("delete", path, delete)

    def check_writable(self) -> None:
        """Raise StoreError if nothing can be stored: a run fails at its start, not after hours of scoring."""
        probe = f"{PENDING}check-{os.getpid()}"
        self.write(probe, b"nuggets")
        self.remove(probe)


def open_store(url: str, endpoint: str | None = None) -> Store:
    """The store at a local folder or URL. A relative folder is made absolute: tasks may run elsewhere."""
    if "://" in url:
        return Store(url.rstrip("/"), endpoint)
    return Store(locate(url)[1], endpoint)
