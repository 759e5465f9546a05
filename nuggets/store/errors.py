"""What goes wrong with a store, in words that say what to do about it."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nuggets.errors import StoreError
from nuggets.store.file_systems import is_local
from nuggets.store.retries import is_transient

_CONFLICT, _PRECONDITION_FAILED = 409, 412  # HTTP
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def explained(action: str, url: str, path: str, filesystem: Any) -> Iterator[None]:
    """Raise StoreError, with advice, for whatever goes wrong inside; FileNotFoundError stays where `action` is read."""
    try:
        yield
    except (TypeError, AttributeError):  # a mistake of the program, not of the store
        raise
    except Exception as error:  # clients of remote stores have types of their own, not all of them OSError
        if isinstance(error, FileNotFoundError) and action == "read":
            raise
        where = f"{url.rstrip('/')}/{path}{_endpoint(filesystem)}"
        advice, passing = (_of_a_disk if is_local(filesystem) else _of_a_server)(error, action, f"{url}/{path}")
        cause = str(getattr(error, "strerror", None) or error).rstrip(".") or type(error).__name__
        said = f"{advice} ({cause})" if advice else f"{cause}; mend this and run again, what is stored already is kept"
        raise StoreError(f"could not {action} {where}: {said}", is_transient=passing or is_transient(error)) from error


def exists_already(error: Exception) -> bool:
    """Whether a create-only write failed because the object exists.

    s3fs knows the condition by the wording of AWS; for other servers it raises EINVAL, caused by the HTTP status.
    Raises a transient error where the server reports a conflict with a write that has not ended.
    """
    status = None
    cause: BaseException | None = error
    while cause is not None and status is None:
        response = getattr(cause, "response", None)
        status = response["ResponseMetadata"]["HTTPStatusCode"] if isinstance(response, dict) else None
        cause = cause.__cause__
    if status == _CONFLICT:
        raise OSError(errno.EBUSY, "another write of the same object has not ended") from error
    return isinstance(error, FileExistsError) or status == _PRECONDITION_FAILED


def _of_a_disk(error: Exception, action: str, address: str) -> tuple[str, bool]:
    """What an error of a local disk means, if anything can be said, and whether it may pass."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOTDIR, errno.EEXIST) and (file := _file_in_the_way(address)):
        return f"{file} is a file, and a folder is wanted there: give another store", False
    if number == errno.ENOLINK:
        return f"make the target of {getattr(error, 'filename', '')} available, or delete the link", False
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
