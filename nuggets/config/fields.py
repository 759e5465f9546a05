"""Types of the fields that several configurations share, each with its check and its description.

Numbers are StrictInt and StrictFloat: "5" and True are refused instead of read as 5 and 1.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictFloat, StrictInt, ValidationInfo

from nuggets.config.rules import check_devices, check_endpoint
from nuggets.runs.names import checked_name
from nuggets.scores.cuts import CUT_BOUNDS
from nuggets.store.user_address import Accepts, check_credentials, resolve_address


def _followed(check: Callable[[str, str], None]) -> AfterValidator:
    """A rule of a field's name and value, as pydantic applies it."""

    def validate(value: str, info: ValidationInfo) -> str:
        check(str(info.field_name), value)
        return value

    return AfterValidator(validate)


def _resolved(accepts: Accepts) -> AfterValidator:
    """The address that the user means by a field's value."""
    return AfterValidator(lambda value, info: resolve_address(str(info.field_name), value, accepts))


Name = Annotated[str, AfterValidator(lambda name, info: checked_name(str(info.field_name), name))]
DataAddress = Annotated[str, _resolved(Accepts.STORED)]
ModelAddress = Annotated[str, _resolved(Accepts.MODEL)]


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


PoolAddresses = Annotated[
    tuple[DataAddress, ...],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(
        description="The examples to choose from: JSON, JSON Lines, CSV or Parquet with rows like Alpaca's, ShareGPT's "
        "or OpenAI's; files, quoted globs, folders of files, or a folder saved by Hugging Face datasets; local paths "
        "or s3:// URLs. Several are one pool."
    ),
]
Split = Annotated[
    str | None,
    Field(
        description="Split of the pool to read, where its files or folders name splits; all reads every split. Of a "
        "JSON object with several lists: the key of the one to read. Default: train, where there are splits."
    ),
]

StoreAddress = Annotated[DataAddress, Field(description="Where runs live: a local folder or s3://bucket/prefix.")]
S3Endpoint = Annotated[
    Annotated[str, _followed(check_endpoint)] | None,
    Field(
        description="URL of the server that s3:// addresses mean. Default: AWS_ENDPOINT_URL or the AWS profile's, else "
        "AWS."
    ),
]
ThresholdOption = Annotated[
    StrictFloat | None,
    Field(**CUT_BOUNDS["threshold"], description="Cut: keep golden scores strictly above this, 0 to 1."),
]
TopKOption = Annotated[StrictInt | None, Field(**CUT_BOUNDS["top_k"], description="Cut: keep this many of the best.")]
TopFractionOption = Annotated[
    StrictFloat | None,
    Field(**CUT_BOUNDS["top_fraction"], description="Cut: keep this share of the best, 0 to 1, rounded up."),
]
MemoryMib = Annotated[
    StrictInt,
    Field(
        ge=16,
        description="MiB for rows while a pool is ingested and a selection is made; more are sorted on disk. Also MiB "
        "for the table of cells that a run keeps in memory; a larger table is read from the store in every round.",
    ),
]
Devices = Annotated[
    str,
    _followed(check_devices),
    Field(
        description="Where models run with executor local: auto (every GPU, else CPU), cpu, or numbers of GPUs such as "
        "0,1,3. One process runs on each; to run two on a GPU, give its number twice."
    ),
]
Workers = Annotated[
    StrictInt | None,
    Field(
        ge=1,
        description="Scoring tasks at once: on CPU the number of processes, which share its cores; on a cluster the "
        "number of tasks submitted at a time; of a deployment the number of flow runs. Default: 1 on CPU, all slots of "
        "a cluster, 1 flow run.",
    ),
]
ExecutorName = Literal["local", "dask", "ray", "deployment"]
Executor = Annotated[
    ExecutorName,
    Field(
        description="Where scoring tasks run: local (this machine), a dask or ray cluster, or deployment: `workers` "
        "flow runs of a deployment that scores shards, on the machines of its work pool."
    ),
]
ExecutorAddress = Annotated[
    Annotated[str, _followed(check_credentials)] | None,
    Field(
        description="Address of the cluster, such as tcp://host:8786 (dask) or ray://host:10001; default: a cluster on "
        "this machine for the duration of the run. Or the name of the deployment; default: score-shards/on-demand."
    ),
]
StalledAfter = Annotated[
    StrictInt,
    Field(
        ge=1,
        description="Seconds without a heartbeat, or without progress except while a model is loaded, after which a "
        "process that runs a model counts as hung and is replaced. Not used on a dask or ray cluster, which detects "
        "lost workers itself.",
    ),
]
