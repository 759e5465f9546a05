"""Everything a run can be told, checked: the command line, the YAML file and the flow's form are this one dataclass."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from nuggets.config.fields import (
    DEVICES,
    EXECUTOR,
    EXECUTOR_ADDRESS,
    FIELD,
    MEMORY,
    S3_ENDPOINT,
    STALLED_AFTER,
    WORKERS,
    Executor,
    check_address,
    check_choice,
    check_devices,
    check_endpoint,
    check_field,
    check_field_names,
    check_name,
    check_placing,
    option,
    refused,
)
from nuggets.errors import UsageError
from nuggets.examples import FieldNames
from nuggets.models.prompts import Profile
from nuggets.scores.cuts import CUT_BOUNDS, Cut, TopFraction, cut_from_options

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Racing = Literal["on", "off"]
CUTS = tuple(CUT_BOUNDS)
THRESHOLD, TOP_K, TOP_FRACTION = CUT_BOUNDS.values()
EXCLUSIVE = (CUTS, ("anchors", "anchor_file"), ("anchor_set", "anchor_file"))  # at most one of each
DEFAULT_STORE = "./nuggets-store"
SHARD_SIZE = 512
MAX_ROW_BYTES = 1_000_000
DEFAULT_CUT = TopFraction(0.05)
MEMORY_MIB = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateConfig:
    """What to curate, and how; a wrong value is refused by its field's name, the value, and what is allowed."""

    __pydantic_config__ = refused(*EXCLUSIVE)

    pool: str = field(
        metadata={
            "description": "The examples to choose from: Alpaca, ShareGPT or OpenAI-messages JSON or JSONL, CSV, "
            "Parquet, or a folder saved by Hugging Face datasets; a local path or s3:// URL."
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
    anchor_set: str | None = option(
        None,
        "A name for the anchors in this store: found in the pool the first time, the same ever after, so that a pool "
        "that grows keeps its cells and other pools are judged on the same anchors.",
    )
    instruction_field: str | None = option(None, FIELD.format("instruction", "instruction, prompt, question or query"))
    input_field: str | None = option(None, FIELD.format("input", "input or context"))
    output_field: str | None = option(None, FIELD.format("output", "output, response, completion or answer"))
    profile: Profile | None = option(
        None, "Prompt profile. Default: chat where the tokenizer has a chat template, else plain."
    )
    threshold: float | None = option(None, "Cut: keep golden scores strictly above this, 0 to 1.", **THRESHOLD)
    top_k: int | None = option(None, "Cut: keep this many of the best.", **TOP_K)
    top_fraction: float | None = option(
        None, "Cut: keep this share of the best, 0 to 1, rounded up. Default cut: 0.05.", **TOP_FRACTION
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
    memory_mib: int = option(MEMORY_MIB, MEMORY, ge=16)
    s3_endpoint: str | None = option(None, S3_ENDPOINT)
    devices: str = option("auto", DEVICES)
    workers: int | None = option(None, WORKERS, ge=1)
    executor: Executor = option("local", EXECUTOR)
    executor_address: str | None = option(None, EXECUTOR_ADDRESS)
    stalled_after: int = option(900, STALLED_AFTER, ge=1)
    trust_remote_code: str | None = option(
        None, "Name of the one model or encoder whose own Python code may be run. Default: none."
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            check_field(item, getattr(self, item.name))
        if not self.pool:
            raise UsageError("pool is empty: name the file or folder with the examples to choose from")
        if self.run is not None:
            check_name("run", self.run)
        for name in ("pool", "store", "anchor_file"):
            check_address(name, getattr(self, name))
        check_endpoint(self.s3_endpoint)
        check_field_names(self.field_names)
        check_placing(self)
        check_choice("profile", self.profile, (None, "released", "plain", "chat"))
        check_choice("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16"))
        check_choice("racing", self.racing, ("on", "off"))
        _check_anchors(self)
        if self.executor != "local" and self.dtype == "auto":
            raise UsageError(
                f"dtype=auto depends on the machine, and executor {self.executor} has several: give float32, bfloat16 "
                "or float16, so that all cells are computed alike"
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
        cut_from_options(_cut_fields(self))

    @property
    def field_names(self) -> FieldNames:
        """Which fields of the pool's rows hold an example's texts."""
        return FieldNames(self.instruction_field, self.input_field, self.output_field)

    @property
    def cut(self) -> Cut:
        """The rule that keeps candidates."""
        return cut_from_options(_cut_fields(self)) or DEFAULT_CUT


def _check_anchors(config: CurateConfig) -> None:
    """Raise UsageError unless there is one source of anchors."""
    if config.anchor_set is not None:
        check_name("anchor_set", config.anchor_set)
    if config.anchor_file is None:
        return
    if config.anchors is not None:
        raise UsageError(
            f"anchors={config.anchors} and anchor_file='{config.anchor_file}' exclude each other: "
            "anchors are found by k-means or taken from the file; give one of the two"
        )
    if config.anchor_set is not None:
        raise UsageError(
            f"anchor_set='{config.anchor_set}' and anchor_file='{config.anchor_file}' exclude each other: "
            "anchors are kept by name or taken from the file; give one of the two"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReselectConfig:
    """A finished run and a new cut for it; a wrong value is refused by its field's name and what is allowed."""

    __pydantic_config__ = refused(CUTS, needed=CUTS)

    run: str = field(metadata={"description": "Name of the run, as `nuggets runs` shows it."})
    store: str = option(DEFAULT_STORE, "Where the run lives: a local folder or s3://bucket/prefix.")
    threshold: float | None = option(None, "Keep golden scores strictly above this, 0 to 1.", **THRESHOLD)
    top_k: int | None = option(None, "Keep this many of the best.", **TOP_K)
    top_fraction: float | None = option(None, "Keep this share of the best, 0 to 1, rounded up.", **TOP_FRACTION)
    memory_mib: int = option(MEMORY_MIB, MEMORY, ge=16)
    s3_endpoint: str | None = option(None, S3_ENDPOINT)
    devices: str = option("auto", DEVICES)
    workers: int | None = option(None, WORKERS, ge=1)
    executor: Executor = option("local", EXECUTOR)
    executor_address: str | None = option(None, EXECUTOR_ADDRESS)
    stalled_after: int = option(900, STALLED_AFTER, ge=1)

    def __post_init__(self) -> None:
        for item in fields(self):
            check_field(item, getattr(self, item.name))
        check_name("run", self.run)
        check_address("store", self.store)
        check_endpoint(self.s3_endpoint)
        check_placing(self)
        if cut_from_options(_cut_fields(self)) is None:
            raise UsageError("no cut is given: give threshold, top_k or top_fraction")

    @property
    def cut(self) -> Cut:
        """The new rule that keeps candidates."""
        return cut_from_options(_cut_fields(self)) or DEFAULT_CUT


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreShardsConfig:
    """A share of a run's shards to score, and for which cut; nothing is published."""

    __pydantic_config__ = refused(CUTS)
    executor = "local"
    executor_address = None

    run: str = field(metadata={"description": "Name of a run that has begun to score, as `nuggets runs` shows it."})
    store: str = option(DEFAULT_STORE, "Where the run lives: a local folder or s3://bucket/prefix.")
    part: int = option(0, "Which part of the shards: 0 for the first.", ge=0)
    parts: int = option(1, "Into how many parts the run's shards are divided.", ge=1)
    threshold: float | None = option(None, "Race for golden scores strictly above this, 0 to 1.", **THRESHOLD)
    top_k: int | None = option(None, "Race for this many of the best.", **TOP_K)
    top_fraction: float | None = option(
        None,
        "Race for this share of the best, 0 to 1. Default: the run's own cut, if it races.",
        **TOP_FRACTION,
    )
    s3_endpoint: str | None = option(None, S3_ENDPOINT)
    devices: str = option("auto", DEVICES)
    workers: int | None = option(None, "Scoring processes on CPU, which share its cores. Default: 1.", ge=1)
    stalled_after: int = option(900, STALLED_AFTER, ge=1)

    def __post_init__(self) -> None:
        for item in fields(self):
            check_field(item, getattr(self, item.name))
        check_name("run", self.run)
        check_address("store", self.store)
        check_endpoint(self.s3_endpoint)
        check_devices(self.devices)
        if self.part >= self.parts:
            raise UsageError(f"part={self.part} is none of parts={self.parts}: allowed is 0 to {self.parts - 1}")
        cut_from_options(_cut_fields(self))

    @property
    def cut(self) -> Cut | None:
        """The rule that the race is for; None for the run's own."""
        return cut_from_options(_cut_fields(self))


def _cut_fields(config: CurateConfig | ReselectConfig | ScoreShardsConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in CUTS}


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
