"""Rules that single values and combinations of values have to follow. They take plain values."""

from nuggets.errors import UsageError
from nuggets.examples import FieldNames
from nuggets.store.user_address import check_credentials


def check_endpoint(field: str, url: str) -> None:
    """Raise UsageError unless the URL can be that of an S3 server."""
    check_credentials(field, url)
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{field}='{url}' has to be a URL like https://s3.example.org or http://127.0.0.1:8333")


def check_devices(field: str, devices: str) -> None:
    """Raise UsageError unless this names devices."""
    if devices not in ("auto", "cpu") and not all(part.isascii() and part.isdigit() for part in devices.split(",")):
        raise UsageError(f"{field}='{devices}' is not known; allowed: auto, cpu, or numbers of GPUs such as 0 or 0,1,3")


def check_placing(executor: str, executor_address: str | None, devices: str) -> None:
    """Raise UsageError for an executor, its address and devices that exclude each other."""
    if executor == "local" and executor_address is not None:
        raise UsageError(
            f"executor_address='{executor_address}' belongs to executor dask, ray or deployment: give one of them, or "
            "leave it out"
        )
    if executor != "local" and devices != "auto":
        raise UsageError(
            f"devices={devices} belongs to executor local, and executor is {executor}: its workers choose their own "
            "devices; leave devices out"
        )


def check_field_names(names: FieldNames) -> None:
    """Raise UsageError for an empty field name, or one field that is named for two texts."""
    given = names.identity.get("fields", {})
    for text, field in given.items():
        if not field:
            raise UsageError(f"{text}_field is empty: name a field of the pool's rows, or leave it out")
        others = [other for other, name in given.items() if name == field and other != text]
        if others:
            raise UsageError(
                f"{text}_field='{field}' and {others[0]}_field='{field}' are the same field: name a different one for "
                "each text"
            )


def check_anchor_source(anchors: int | None, anchor_set: str | None, anchor_file: str | None) -> None:
    """Raise UsageError for more than one source of anchors."""
    if anchor_file is not None and anchors is not None:
        raise UsageError(
            f"anchors={anchors} and anchor_file='{anchor_file}' exclude each other: anchors are found by k-means or "
            "taken from the file; give one of the two"
        )
    if anchor_file is not None and anchor_set is not None:
        raise UsageError(
            f"anchor_set='{anchor_set}' and anchor_file='{anchor_file}' exclude each other: anchors are kept by name "
            "or taken from the file; give one of the two"
        )


def check_profile_options(profile: str | None, *, anchor_tokens: int | None, kv_iter: int) -> None:
    """Raise UsageError for options that the prompt profile does not have."""
    if profile == "released" and anchor_tokens not in (None, 200):
        raise UsageError(
            f"anchor_tokens={anchor_tokens}: profile released cuts anchors at 200 tokens, as the authors' program "
            "does; leave it out, or use profile plain or chat"
        )
    if kv_iter > 1 and profile != "released":
        raise UsageError(
            f"kv_iter={kv_iter} belongs to profile released, and profile is {profile or 'not given'}: add "
            "profile=released, or leave kv_iter at 1"
        )


def check_trusted(trusted: str | None, *, model: str | None, encoder: str | None) -> None:
    """Raise UsageError unless the trusted name is that of the model or the encoder."""
    if trusted is not None and trusted not in (model, encoder):
        raise UsageError(
            f"trust_remote_code='{trusted}' names neither model ({model}) nor encoder ({encoder}): give exactly the "
            "name whose code you have read and trust"
        )
