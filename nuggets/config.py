"""Everything a run can be told, checked: the command line, the YAML file and the flow's form are this one dataclass."""

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from itertools import combinations
from typing import Any, Literal, get_args

from nuggets.cuts import Cut, TopFraction, cut_from_options
from nuggets.errors import UsageError

Profile = Literal["released", "plain", "chat"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Racing = Literal["on", "off"]
Engine = Literal["local", "dask", "ray", "deployment"]

CUTS = ("threshold", "top_k", "top_fraction")
EXCLUSIVE = (CUTS, ("anchors", "anchor_file"))  # at most one of each
DEFAULT_STORE = "./nuggets-store"
SHARD_SIZE = 512
MAX_ROW_BYTES = 1_000_000
DEFAULT_CUT = TopFraction(0.05)
MEMORY_MIB = 512
_S3_ENDPOINT = "URL of the server that s3:// addresses mean. Default: AWS_ENDPOINT_URL or the AWS profile's, else AWS."
_DEVICES = (
    "Where models run with engine local: auto (every GPU, else CPU), cpu, or numbers of GPUs such as 0,1,3. A process "
    "on each; two on a GPU only where its number is given twice."
)
_WORKERS = (
    "Scoring tasks at once: on CPU the number of processes, which share its cores; on a cluster how many it is to have "
    "in hand; flow runs of a deployment. Default: 1 on CPU, all that a cluster has, 1 of a deployment."
)
_ENGINE = (
    "What places scoring tasks: local (this machine), a dask or ray cluster, or deployment: `workers` flow runs of "
    "one that scores shards, on whatever machines its work pool has."
)
_ENGINE_ADDRESS = (
    "Address of the cluster, such as tcp://host:8786 (dask) or ray://host:10001; default: one on this machine for as "
    "long as the run. Or the deployment's name; default: score-shards/on-demand."
)
_STALLED_AFTER = "Seconds without a sign of life after which a scoring process counts as hung and is replaced."
_MEMORY = "MiB that rows may take while a pool is ingested and a selection made; more is sorted by way of the disk."


def _refused(*exclusive: tuple[str, ...], needed: tuple[str, ...] = ()) -> dict[str, Any]:
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
    """A field with what its form, its --help line and its check need to know: a description and `ge`/`le` bounds."""
    return field(default=default, metadata={"description": description, **bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateConfig:
    """What to curate, and how; a wrong value is refused by its field's name, the value, and what is allowed."""

    __pydantic_config__ = _refused(*EXCLUSIVE)

    pool: str = field(
        metadata={
            "description": "The examples to choose from: Alpaca, ShareGPT or OpenAI-messages JSON or JSONL, Parquet, "
            "or a folder saved by Hugging Face datasets; a local path or s3:// URL."
        }
    )
    store: str = option(DEFAULT_STORE, "Where runs live: a local folder or s3://bucket/prefix.")
    run: str | None = option(
        None, "Name of the run. Default: made from the pool's name and what determines the scores."
    )
    model: str | None = option(
        None,
        "Language model that judges: a hub id, a folder with safetensors, or a .gguf file. "
        "Default: SmolLM2-135M-Instruct where its package is installed.",
    )
    encoder: str | None = option(
        None,
        "Sentence-transformers model that embeds the pool: a hub id or a folder. "
        "Default: all-MiniLM-L6-v2 where its package is installed.",
    )
    anchors: int | None = option(
        None, "Number of anchors to find by k-means. Default: 100, or a quarter of a pool of fewer than 400.", ge=1
    )
    anchor_file: str | None = option(None, "A file with the anchors to use as they are, in any format of a pool.")
    profile: Profile | None = option(
        None, "Prompt profile. Default: chat where the tokenizer has a chat template, else plain."
    )
    threshold: float | None = option(None, "Cut: keep golden scores strictly above this, 0 to 1.", ge=0, le=1)
    top_k: int | None = option(None, "Cut: keep this many of the best.", ge=1)
    top_fraction: float | None = option(
        None, "Cut: keep this share of the best, 0 to 1, rounded up. Default cut: 0.05.", ge=0, le=1
    )
    racing: Racing = option(
        "on",
        "on: only the cells that can change what the cut keeps; a dropped candidate's score is an interval then. "
        "off: every cell of every candidate.",
    )
    shard_size: int = option(SHARD_SIZE, "Examples per shard: what one mapped task embeds or scores.", ge=1)
    seed: int = option(0, "Seed of everything random: k-means starts from it.", ge=0, le=2**32 - 1)
    anchor_tokens: int | None = option(
        None, "Anchors are cut at this many tokens. Default: 200 in profile released (fixed there), else 512.", ge=2
    )
    demonstration_tokens: int | None = option(
        None,
        "Demonstrations are cut at this many tokens. Default: what the model's context leaves, at most 2048 except in "
        "profile released.",
        ge=1,
    )
    dtype: Dtype = option("auto", "Number format of the model's weights. auto: float32 on CPU, bfloat16 on GPU.")
    kv_iter: int = option(
        1,
        "Iterations that refine a demonstration's keys and values, as the authors' program can; only profile released. "
        "1 refines nothing.",
        ge=1,
    )
    max_row_bytes: int = option(
        MAX_ROW_BYTES, "A pool row larger than this many bytes is rejected as too_large.", ge=100
    )
    max_rejected_share: float = option(
        0.5, "The run stops if more than this share of the pool's rows can't be used, 0 to 1.", ge=0, le=1
    )
    max_bad_candidates: int = option(
        0,
        "How many candidates may be set aside because the model gives no number for them; with more the run fails.",
        ge=0,
    )
    memory_mib: int = option(MEMORY_MIB, _MEMORY, ge=16)
    s3_endpoint: str | None = option(None, _S3_ENDPOINT)
    devices: str = option("auto", _DEVICES)
    workers: int | None = option(None, _WORKERS, ge=1)
    engine: Engine = option("local", _ENGINE)
    engine_address: str | None = option(None, _ENGINE_ADDRESS)
    stalled_after: int = option(900, _STALLED_AFTER, ge=1)
    trust_remote_code: str | None = option(
        None, "Name of the one model or encoder whose own Python code may be run. Default: none."
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_field(item, getattr(self, item.name))
        if not self.pool:
            raise UsageError("pool is empty: name the file or folder with the examples to choose from")
        if self.run is not None:
            check_run_name(self.run)
        for name in ("pool", "store", "anchor_file"):
            check_address(name, getattr(self, name))
        check_endpoint(self.s3_endpoint)
        _check_placing(self)
        _check_choice("profile", self.profile, (None, "released", "plain", "chat"))
        _check_choice("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16"))
        _check_choice("racing", self.racing, ("on", "off"))
        if self.anchors is not None and self.anchor_file is not None:
            raise UsageError(
                f"anchors={self.anchors} and anchor_file='{self.anchor_file}' exclude each other: "
                "anchors are found by k-means or taken from the file; give one of the two"
            )
        if self.engine != "local" and self.dtype == "auto":
            raise UsageError(
                f"dtype=auto depends on the machine, and engine {self.engine} has several: give float32, bfloat16 or "
                "float16, so that all cells are computed alike"
            )
        if self.profile == "released" and self.anchor_tokens not in (None, 200):
            raise UsageError(
                f"anchor_tokens={self.anchor_tokens}: profile released cuts anchors at 200 tokens, as the authors' "
                "program does; leave it out, or use profile plain or chat"
            )
        if self.kv_iter > 1 and self.profile != "released":
            raise UsageError(
                f"kv_iter={self.kv_iter} belongs to profile released, and profile is {self.profile or 'not given'}: "
                "add profile=released, or leave kv_iter at 1"
            )
        if self.trust_remote_code is not None and self.trust_remote_code not in (self.model, self.encoder):
            raise UsageError(
                f"trust_remote_code='{self.trust_remote_code}' names neither model ({self.model}) nor encoder "
                f"({self.encoder}): give exactly the name whose code you have read and trust"
            )
        cut_from_options(self.threshold, self.top_k, self.top_fraction)

    @property
    def cut(self) -> Cut:
        """The rule that keeps candidates."""
        return cut_from_options(self.threshold, self.top_k, self.top_fraction) or DEFAULT_CUT


@dataclass(frozen=True, slots=True, kw_only=True)
class ReselectConfig:
    """A finished run and a new cut for it; a wrong value is refused by its field's name and what is allowed."""

    __pydantic_config__ = _refused(CUTS, needed=CUTS)

    run: str = field(metadata={"description": "Name of the run, as `nuggets runs` shows it."})
    store: str = option(DEFAULT_STORE, "Where the run lives: a local folder or s3://bucket/prefix.")
    threshold: float | None = option(None, "Keep golden scores strictly above this, 0 to 1.", ge=0, le=1)
    top_k: int | None = option(None, "Keep this many of the best.", ge=1)
    top_fraction: float | None = option(None, "Keep this share of the best, 0 to 1, rounded up.", ge=0, le=1)
    memory_mib: int = option(MEMORY_MIB, _MEMORY, ge=16)
    s3_endpoint: str | None = option(None, _S3_ENDPOINT)
    devices: str = option("auto", _DEVICES)
    workers: int | None = option(None, _WORKERS, ge=1)
    engine: Engine = option("local", _ENGINE)
    engine_address: str | None = option(None, _ENGINE_ADDRESS)
    stalled_after: int = option(900, _STALLED_AFTER, ge=1)

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_field(item, getattr(self, item.name))
        check_run_name(self.run)
        check_address("store", self.store)
        check_endpoint(self.s3_endpoint)
        _check_placing(self)
        if cut_from_options(self.threshold, self.top_k, self.top_fraction) is None:
            raise UsageError("no cut is given: give threshold, top_k or top_fraction")

    @property
    def cut(self) -> Cut:
        """The new rule that keeps candidates."""
        return cut_from_options(self.threshold, self.top_k, self.top_fraction) or DEFAULT_CUT


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreShardsConfig:
    """A share of a run's shards to score, and for which cut; nothing is published."""

    __pydantic_config__ = _refused(CUTS)
    engine = "local"
    engine_address = None

    run: str = field(metadata={"description": "Name of a run that has begun to score, as `nuggets runs` shows it."})
    store: str = option(DEFAULT_STORE, "Where the run lives: a local folder or s3://bucket/prefix.")
    part: int = option(0, "Which part of the shards: 0 for the first.", ge=0)
    parts: int = option(1, "Into how many parts the run's shards are divided.", ge=1)
    threshold: float | None = option(None, "Race for golden scores strictly above this, 0 to 1.", ge=0, le=1)
    top_k: int | None = option(None, "Race for this many of the best.", ge=1)
    top_fraction: float | None = option(
        None, "Race for this share of the best, 0 to 1. Without a cut every cell is computed.", ge=0, le=1
    )
    s3_endpoint: str | None = option(None, _S3_ENDPOINT)
    devices: str = option("auto", _DEVICES)
    workers: int | None = option(None, "Scoring processes on CPU, which share its cores. Default: 1.", ge=1)
    stalled_after: int = option(900, _STALLED_AFTER, ge=1)

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_field(item, getattr(self, item.name))
        check_run_name(self.run)
        check_address("store", self.store)
        check_endpoint(self.s3_endpoint)
        _check_devices(self.devices)
        if self.part >= self.parts:
            raise UsageError(f"part={self.part} is none of parts={self.parts}: allowed is 0 to {self.parts - 1}")
        cut_from_options(self.threshold, self.top_k, self.top_fraction)

    @property
    def cut(self) -> Cut | None:
        """The rule that the race is for; None for the whole table."""
        return cut_from_options(self.threshold, self.top_k, self.top_fraction)


def config_from_mapping(options: Mapping[str, Any], *, source: str) -> CurateConfig:
    """The configuration that a mapping (a YAML file, say) describes; a key that is not a field is refused."""
    known = [item.name for item in fields(CurateConfig)]
    unknown = sorted(str(key) for key in options if key not in known)
    if unknown:
        raise UsageError(f"{source}: unknown key {', '.join(unknown)}. Known keys: {', '.join(known)}")
    if not options.get("pool"):
        raise UsageError(f"{source}: pool is missing: name the file or folder with the examples to choose from")
    if isinstance(racing := options.get("racing"), bool):  # how YAML reads a bare on or off
        options = {**options, "racing": "on" if racing else "off"}
    return CurateConfig(**options)


def config_as_mapping(config: CurateConfig) -> dict[str, Any]:
    """The configuration as plain values, for manifests."""
    return asdict(config)


def check_run_name(name: str) -> None:
    """Raise UsageError unless a run of this name can be a folder on every store."""
    allowed = name.replace("-", "").replace("_", "").replace(".", "")
    if not (allowed.isascii() and allowed.isalnum()) or name.startswith(".") or len(name) > 100:
        raise UsageError(
            f"run='{name}' can't be a run's name: use up to 100 letters, digits, '-', '_', '.', not starting with '.'"
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


def _check_placing(config: "CurateConfig | ReselectConfig") -> None:
    """Raise UsageError for devices, workers and engine that do not go together."""
    _check_choice("engine", config.engine, get_args(Engine))
    _check_devices(config.devices)
    if config.engine == "local" and config.engine_address is not None:
        raise UsageError(
            f"engine_address='{config.engine_address}' belongs to engine dask, ray or deployment: give one of them, or "
            "leave it out"
        )
    if config.engine != "local" and config.devices != "auto":
        raise UsageError(
            f"devices={config.devices} belongs to engine local, and engine is {config.engine}: its workers say which "
            "devices they have"
        )
    if config.engine_address is not None:
        check_address("engine_address", config.engine_address)


def _check_devices(devices: str) -> None:
    if devices not in ("auto", "cpu") and not all(part.isascii() and part.isdigit() for part in devices.split(",")):
        raise UsageError(f"devices='{devices}' is not known; allowed: auto, cpu, or numbers of GPUs such as 0 or 0,1,3")


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        words = ", ".join(str(choice) for choice in allowed if choice is not None)
        raise UsageError(f"{name}={value!r} is not known; allowed: {words}")


def _check_field(item: Field[Any], value: object) -> None:
    """Check a value's type and range against its field: a YAML file can hold anything."""
    types = get_args(item.type) or (item.type,)
    kinds = [kind for kind in types if kind in (int, float, str)]
    accepted = (int, float) if float in kinds else tuple(kinds)
    if value is None and type(None) in types:
        return
    if kinds and (not isinstance(value, accepted) or isinstance(value, bool)):
        raise UsageError(f"{item.name}={value!r} is {type(value).__name__}; it has to be {kinds[0].__name__}")
    low, high = item.metadata.get("ge"), item.metadata.get("le")
    if isinstance(value, (int, float)) and not ((low is None or value >= low) and (high is None or value <= high)):
        allowed = f"{low} to {high}" if high is not None else f"{low} or more"
        raise UsageError(f"{item.name}={value} is out of range: allowed is {allowed}")
