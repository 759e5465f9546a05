"""Fields of configurations: what their forms and --help lines say, and how their values are checked. Pure."""

from dataclasses import Field, field
from itertools import combinations
from typing import Any, Literal, Protocol, get_args

from nuggets.checks import check_range
from nuggets.errors import UsageError
from nuggets.examples import FieldNames

Executor = Literal["local", "dask", "ray", "deployment"]
S3_ENDPOINT = "URL of the server that s3:// addresses mean. Default: AWS_ENDPOINT_URL or the AWS profile's, else AWS."
DEVICES = (
    "Where models run with executor local: auto (every GPU, else CPU), cpu, or numbers of GPUs such as 0,1,3. A "
    "process on each; two on a GPU only where its number is given twice."
)
WORKERS = (
    "Scoring tasks at once: on CPU the number of processes, which share its cores; on a cluster how many it is to have "
    "in hand; flow runs of a deployment. Default: 1 on CPU, all that a cluster has, 1 of a deployment."
)
EXECUTOR = (
    "What places scoring tasks: local (this machine), a dask or ray cluster, or deployment: `workers` flow runs of "
    "one that scores shards, on whatever machines its work pool has."
)
EXECUTOR_ADDRESS = (
    "Address of the cluster, such as tcp://host:8786 (dask) or ray://host:10001; default: one on this machine for as "
    "long as the run. Or the deployment's name; default: score-shards/on-demand."
)
STALLED_AFTER = (
    "Seconds without a sign of life after which a scoring process counts as hung and is replaced. Not of a dask or ray "
    "cluster, whose workers are its own to watch."
)
FIELD = "Field of the pool's rows, and of the anchor file's, that holds the {}. Default: recognised by its name ({})."
MEMORY = "MiB that rows may take while a pool is ingested and a selection made; more is sorted by way of the disk."
_BOUNDS = ("ge", "gt", "le", "lt")


def refused(*exclusive: tuple[str, ...], needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """JSON schema of what a form made from a configuration has to refuse: two of a group at once, none of `needed`."""
    words = [f"give {'exactly' if group == needed else 'at most'} one of {', '.join(group)}" for group in exclusive]
    given, left_out = {"not": {"type": "null"}}, {"type": "null"}
    pairs = [pair for group in exclusive for pair in combinations(group, 2)]
    refused: list[dict[str, Any]] = [{"required": [*pair], "properties": dict.fromkeys(pair, given)} for pair in pairs]
    if needed:
        refused.append({"properties": dict.fromkeys(needed, left_out)})
    # As pydantic wants it, which makes the forms. They show all of this when it is violated: words come first.
    return {"json_schema_extra": {"not": {"$comment": "; ".join(words), "anyOf": refused}}}


def option(default: Any, description: str, **bounds: float) -> Any:
    """A field with what its form, its --help line and its check need to know: a description, and bounds by name."""
    return field(default=default, metadata={"description": description, **bounds})


def check_name(field: str, name: str) -> None:
    """Raise UsageError unless a field's value can be the name of a file or folder on every store."""
    allowed = name.replace("-", "").replace("_", "").replace(".", "")
    if not (allowed.isascii() and allowed.isalnum()) or name.startswith(".") or len(name) > 100:
        raise UsageError(
            f"{field}='{name}' can't be a name: use up to 100 letters, digits, '-', '_', '.', not starting with '.'"
        )


def check_address(name: str, address: str | None) -> None:
    """Raise UsageError if an address holds credentials: it is stored in manifests and shown in messages."""
    scheme, found, rest = (address or "").partition("://")
    if found and "@" in rest.partition("/")[0]:
        raise UsageError(
            f"{name} holds credentials (before the '@' of its {scheme}:// address), which would be stored and shown "
            "with it: leave them out, and give them by the AWS environment variables or a profile"
        )


def check_endpoint(url: str | None) -> None:
    """Raise UsageError unless this can be the address of an S3 server."""
    check_address("s3_endpoint", url)
    if url is not None and not url.startswith(("http://", "https://")):
        raise UsageError(f"s3_endpoint='{url}' has to be a URL like https://s3.example.org or http://127.0.0.1:8333")


def check_field_names(names: FieldNames) -> None:
    """Raise UsageError for fields that can't be meant: one without a name, or one for two texts."""
    given = names.identity.get("fields", {})
    for text, field_name in given.items():
        if not field_name:
            raise UsageError(f"{text}_field is empty: name a field of the pool's rows, or leave it out")
        twice = [other for other, name in given.items() if name == field_name and other != text]
        if twice:
            raise UsageError(
                f"{text}_field='{field_name}' and {twice[0]}_field='{field_name}' are the same field: each text needs "
                "one of its own"
            )


class Placed(Protocol):
    """A configuration that says where tasks run."""

    @property
    def devices(self) -> str: ...
    @property
    def executor(self) -> Executor: ...
    @property
    def executor_address(self) -> str | None: ...


def check_placing(config: Placed) -> None:
    """Raise UsageError for devices, workers and executor that do not go together."""
    check_choice("executor", config.executor, get_args(Executor))
    check_devices(config.devices)
    if config.executor == "local" and config.executor_address is not None:
        raise UsageError(
            f"executor_address='{config.executor_address}' belongs to executor dask, ray or deployment: give one of "
            "them, or leave it out"
        )
    if config.executor != "local" and config.devices != "auto":
        raise UsageError(
            f"devices={config.devices} belongs to executor local, and executor is {config.executor}: its workers say "
            "which devices they have"
        )
    if config.executor_address is not None:
        check_address("executor_address", config.executor_address)


def check_devices(devices: str) -> None:
    """Raise UsageError unless this can be said of devices."""
    if devices not in ("auto", "cpu") and not all(part.isascii() and part.isdigit() for part in devices.split(",")):
        raise UsageError(f"devices='{devices}' is not known; allowed: auto, cpu, or numbers of GPUs such as 0 or 0,1,3")


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise UsageError unless a value is among those allowed."""
    if value not in allowed:
        words = ", ".join(str(choice) for choice in allowed if choice is not None)
        raise UsageError(f"{name}={value!r} is not known; allowed: {words}")


def check_field(item: Field[Any], value: object) -> None:
    """Check a value's type and range against its field: a YAML file can hold anything."""
    types = get_args(item.type) or (item.type,)
    kinds = [kind for kind in types if kind in (int, float, str)]
    accepted = (int, float) if float in kinds else tuple(kinds)
    if value is None and type(None) in types:
        return
    if kinds and (not isinstance(value, accepted) or isinstance(value, bool)):
        raise UsageError(f"{item.name}={value!r} is {type(value).__name__}; it has to be {kinds[0].__name__}")
    if isinstance(value, (int, float)):
        check_range(item.name, value, **{name: item.metadata[name] for name in _BOUNDS if name in item.metadata})
