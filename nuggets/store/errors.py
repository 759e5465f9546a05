"""Errors of a store as StoreErrors whose messages name what to change. Pure except for checks of the local disk."""

import errno
from pathlib import Path

from nuggets.errors import StoreError, StoreUnavailable
from nuggets.store.retries import is_transient

_CONFLICT, _PRECONDITION_FAILED = 409, 412  # HTTP
_FULL = (errno.ENOSPC, errno.EDQUOT)


def store_error(error: Exception, action: str, address: str, *, server: str | None, is_local: bool) -> StoreError:
    """What to raise for an error of a file system. `server` is its URL, where the address does not contain it."""
    advice, may_pass = (_advice_for_disk if is_local else _advice_for_server)(error, action, address)
    cause = str(getattr(error, "strerror", None) or error).rstrip(".") or type(error).__name__
    message = f"{advice} ({cause})" if advice else f"{cause}; fix this and run again: what is stored already is kept"
    shown = f"{address} (endpoint {server})" if server else address
    kind = StoreUnavailable if may_pass or is_transient(error) else StoreError
    return kind(f"could not {action} {shown}: {message}")


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


def _advice_for_disk(error: Exception, action: str, address: str) -> tuple[str, bool]:
    """Advice for an error of a local disk, empty if there is none, and whether a retry may succeed."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOTDIR, errno.EEXIST) and (file := _file_in_the_way(address)):
        return f"{file} is a file where a folder is needed: give another store", False
    if number == errno.ENOLINK:
        return f"make the target of {getattr(error, 'filename', '')} available, or delete the link", False
    if isinstance(error, PermissionError) or number == errno.EROFS:
        verb = "read" if action in ("read", "list") else "write"
        return f"no permission: give an address that this user may {verb}, or change its permissions", False
    if isinstance(error, FileNotFoundError):
        return "its folder is missing and cannot be created: give another store", False
    return _advice_for_any(error)


def _advice_for_server(error: Exception, action: str, address: str) -> tuple[str, bool]:
    """Advice for an error of a remote store, empty if there is none, and whether a retry may succeed."""
    kind = type(error).__name__
    if "Credentials" in kind:
        problem = "no AWS credentials were found" if kind == "NoCredentialsError" else "AWS credentials are incomplete"
        return f"{problem}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE", False
    if isinstance(error, PermissionError):
        return "access denied: check the AWS environment or profile, and the permissions", False
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket: create it, or give another store", False
    return _advice_for_any(error)


def _advice_for_any(error: Exception) -> tuple[str, bool]:
    number = getattr(error, "errno", None)
    if number in _FULL:
        advice = "the disk or quota is full: free some space or give another store; what is stored already is kept"
        return advice, True
    if isinstance(error, MemoryError):
        return "out of memory: run fewer tasks or other programs at a time on this machine", True
    return "", number == errno.ESTALE  # a network disk whose server has replaced the file


def _file_in_the_way(address: str) -> Path | None:
    """The file at the path of a folder that this address needs."""
    return next((folder for folder in Path(address).parents if folder.is_file()), None)
