"""The address that a user gives, with `~` and variables expanded; refused if it is almost an address.

A value that no program understands as a URL would become a local folder of that name: results would lie in `./s3:`.
"""

import os
import re
from enum import StrEnum
from typing import NoReturn

from nuggets.errors import UsageError

_S3 = re.compile(r"s3[an]?\s*(?:[:;][/\\\s]*|[/\\]{2,})(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_BUCKET = re.compile(r"s3://(?:[A-Za-z0-9][A-Za-z0-9._-]*|arn:[^/]+)(?:/.*)?", re.DOTALL)
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>[/\\]+)(?P<rest>.*)", re.DOTALL)
_HUB = re.compile(
    r"(?:hf:/*|https?://(?:www\.)?huggingface\.co/)(?P<kind>datasets/)?(?P<id>[^/@]+/[^/@]+)?.*", re.DOTALL
)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# $NAME, ${NAME} and %NAME%; not the %41% of a URL-encoded name
_VARIABLE = re.compile(
    r"\$(?:(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[^}]*)\})|%(?![0-9A-Fa-f]{2}%)(?P<windows>[A-Za-z_]\w*)%", re.ASCII
)
_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):[/\\]+[^/\\]*@")


class Accepts(StrEnum):
    """What the address of an option may name, as messages say it."""

    FILE = "a path on this machine"
    STORED = "a path on this machine, or s3://bucket/key"
    MODEL = "a folder or .gguf file on this machine, or the id of a model on the Hugging Face Hub"


def resolve_address(field: str, address: str, accepts: Accepts, *, folder: str = "") -> str:
    """The address that a user means by a value. Raises UsageError with what was probably meant if it is almost one.

    `folder` is what a relative path is relative to. Without it a relative path stays relative to the working directory.
    """
    check_credentials(field, address)
    if not address.strip():
        raise UsageError(f"{field} is empty: give {accepts}")
    if not _exists(address, folder):  # the name of an existing file may contain anything
        address = _expanded(field, address)
        check_credentials(field, address)
    if address.startswith("~"):
        address = _in_home(field, address, folder)
    _refuse_foreign(field, address, accepts)
    if address.startswith("s3://"):
        return address
    if not _exists(address, folder):
        _refuse_misspelt(field, address, accepts)
    return _beside(field, address, accepts, folder) if folder else address


def check_credentials(field: str, address: str) -> None:
    """Raise UsageError if the address holds credentials, because manifests and messages contain addresses."""
    if given := _CREDENTIALS.match(address):
        raise UsageError(
            f"{field} holds credentials (before the '@' of its {given['scheme']}:// address), which would be stored "
            "and shown with it: leave them out, and give them by the AWS environment variables or a profile"
        )


def with_full_path(address: str) -> str:
    """An address in quotes, as messages show it: a relative path together with the path that it stands for here."""
    if "://" in address or os.path.isabs(address):
        return f"'{address}'"
    return f"'{address}' ({os.path.abspath(address)})"


def _exists(address: str, folder: str) -> bool:
    return os.path.lexists(os.path.join(folder, address))


def _in_home(field: str, address: str, folder: str) -> str:
    expanded = os.path.expanduser(address)
    if expanded == address and not _exists(address, folder):
        raise UsageError(f"{field}='{address}': this machine has no home folder for '{address.split('/')[0]}'")
    return expanded


def _expanded(field: str, address: str) -> str:
    """The address with the values of the environment variables that it names."""

    def value(match: re.Match[str]) -> str:
        name = match["bare"] or match["braced"] or match["windows"] or ""
        if not os.environ.get(name):
            raise UsageError(
                f"{field}='{address}' names the environment variable {name}, which is not set here: set it, or write "
                "its value in its place"
            )
        return os.environ[name]

    return _VARIABLE.sub(value, address)


def _refuse_foreign(field: str, address: str, accepts: Accepts) -> None:
    """Raise UsageError for a URL that this option does not read, for s3:// misspelt, and for a path of Windows."""
    bare = address.strip().strip("'\"")
    if accepts is Accepts.STORED and (s3 := _S3.fullmatch(bare)):
        meant = "s3://" + s3["rest"].replace("\\", "/").lstrip("/")
        if not _BUCKET.fullmatch(meant):
            raise UsageError(f"{field}='{address}' names no bucket: allowed is {accepts}")
        if address != meant:
            _ask_back(field, address, "is not an address", f"{meant}? A local path of this name is ./{bare}")
        return
    if _DRIVE.match(bare) or bare.startswith("\\\\"):
        advice = "; in WSL drive C: is /mnt/c" if _DRIVE.match(bare) else ""
        raise UsageError(f"{field}='{address}' is a path of Windows: allowed is {accepts}{advice}")
    if (hub := _HUB.fullmatch(bare)) and hub["id"]:
        _refuse_hub(field, address, accepts, hub)
    if url := _URL.fullmatch(bare):
        if url["scheme"].lower() == "file":
            _ask_back(field, address, "is not a path", f"{'' if len(url['slashes']) == 2 else '/'}{url['rest']}?")
        raise UsageError(f"{field}='{address}': {url['scheme']}:// is not supported here; allowed is {accepts}")


def _refuse_hub(field: str, address: str, accepts: Accepts, hub: re.Match[str]) -> None:
    if accepts is Accepts.MODEL and not hub["kind"]:
        _ask_back(field, address, "is not the id of a model", f"{hub['id']}?")
    kind = " --repo-type dataset" if hub["kind"] else ""
    raise UsageError(
        f"{field}='{address}' is on the Hugging Face Hub, which this option does not read: download it with "
        f"'hf download {hub['id']}{kind} --local-dir FOLDER' and give {accepts}"
    )


def _refuse_misspelt(field: str, address: str, accepts: Accepts) -> None:
    """Raise UsageError for a path that does not exist and has quotes, backslashes or invisible characters."""
    bare = address.strip().strip("'\"")
    if bare != address:
        _ask_back(field, address, "has quotes or white space around it", f"{bare}?")
    if not address.isprintable():
        raise UsageError(f"{field}={address!r} holds an invisible character: allowed is {accepts}")
    if "\\" in address and os.sep != "\\":
        _ask_back(field, address, "holds a backslash", f"{address.replace(chr(92), '/')}?")


def _ask_back(field: str, address: str, reason: str, meant: str) -> NoReturn:
    raise UsageError(f"{field}='{address}' {reason}: did you mean {meant}")


def _beside(field: str, address: str, accepts: Accepts, folder: str) -> str:
    """A path relative to `folder`, made absolute; the id of a model on the Hub stays as it is."""
    path = os.path.abspath(os.path.join(folder, address))
    is_path = accepts is not Accepts.MODEL or address.startswith((".", "/")) or address.lower().endswith(".gguf")
    if is_path or os.path.exists(path):
        return path
    if os.path.exists(address):
        _ask_back(field, address, f"is not in {os.path.abspath(folder)}", f"{os.path.abspath(address)}?")
    return address
