"""The configurations of curate, reselect and score-shards: one declaration for options, YAML files and forms."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictFloat, StrictInt

from nuggets.config.declaration import configuration
from nuggets.config.fields import (
    DataAddress,
    Devices,
    Executor,
    ExecutorAddress,
    ExecutorName,
    MemoryMib,
    ModelAddress,
    Name,
    PoolAddresses,
    S3Endpoint,
    Split,
    StalledAfter,
    StoreAddress,
    ThresholdOption,
    TopFractionOption,
    TopKOption,
    Workers,
)
from nuggets.config.rules import (
    check_anchor_source,
    check_field_names,
    check_placing,
    check_profile_options,
    check_trusted,
)
from nuggets.errors import UsageError
from nuggets.examples import FieldNames
from nuggets.models.prompts import Profile
from nuggets.pools.names import pool_name
from nuggets.scores.cuts import CUT_BOUNDS, Cut, TopFraction, cut_from_options
from nuggets.store.user_address import Accepts

CUTS = tuple(CUT_BOUNDS)
EXCLUSIVE = (CUTS, ("anchors", "anchor_file"), ("anchor_set", "anchor_file"))  # at most one of each
DEFAULT_CUT = TopFraction(0.05)
DEFAULT_STORE = "./nuggets-store"
MAX_ROW_BYTES = 1_000_000
MEMORY_MIB = 512
SHARD_SIZE = 512
STALLED_AFTER = 900
_FIELD = "Field of the pool's rows, and of the anchor file's, that holds the {}. Default: recognised by its name ({})."


@configuration(exclusive=EXCLUSIVE)
class CurateConfig:
    """What to curate, and how."""

    pool: PoolAddresses
    split: Split = None
    store: StoreAddress = DEFAULT_STORE
    run: Annotated[
        Name | None,
        Field(description="Name of the run. Default: made from the pool's name and what determines the scores."),
    ] = None
    model: Annotated[
        ModelAddress | None,
        Field(
            description="Language model that scores the candidates: a hub id, a folder with safetensors, or a .gguf "
            "file. Default: SmolLM2-135M-Instruct where its package is installed."
        ),
    ] = None
    encoder: Annotated[
        ModelAddress | None,
        Field(
            description="Sentence-transformers model that embeds the pool: a hub id or a folder. Default: "
            "all-MiniLM-L6-v2 where its package is installed."
        ),
    ] = None
    anchors: Annotated[
        StrictInt | None,
        Field(
            ge=1,
            description="Number of anchors to find by k-means. Default: 100, or a quarter of a pool of fewer than 400.",
        ),
    ] = None
    anchor_file: Annotated[
        DataAddress | None,
        Field(description="A file with the anchors to use as they are, in any format of a pool."),
    ] = None
    anchor_set: Annotated[
        Name | None,
        Field(
            description="A name for the anchors in this store. The first run finds them in its pool; later runs use "
            "the same ones, so that a growing pool keeps its cells and other pools are scored on the same anchors."
        ),
    ] = None
    instruction_field: Annotated[
        str | None, Field(description=_FIELD.format("instruction", "instruction, prompt, question or query"))
    ] = None
    input_field: Annotated[str | None, Field(description=_FIELD.format("input", "input or context"))] = None
    output_field: Annotated[
        str | None, Field(description=_FIELD.format("output", "output, response, completion or answer"))
    ] = None
    profile: Annotated[
        Profile | None,
        Field(description="Prompt profile. Default: chat where the tokenizer has a chat template, else plain."),
    ] = None
    threshold: ThresholdOption = None
    top_k: TopKOption = None
    top_fraction: Annotated[
        TopFractionOption,
        Field(description="Cut: keep this share of the best, 0 to 1, rounded up. Default cut: 0.05."),
    ] = None
    racing: Annotated[
        Literal["on", "off"],
        Field(
            description="on: compute only the cells that can change what the cut keeps; the score of a dropped "
            "candidate is then an interval. off: compute every cell of every candidate."
        ),
    ] = "on"
    shard_size: Annotated[
        StrictInt, Field(ge=1, description="Examples per shard: what one mapped task embeds or scores.")
    ] = SHARD_SIZE
    seed: Annotated[StrictInt, Field(ge=0, le=2**32 - 1, description="Seed of k-means, the only random step.")] = 0
    anchor_tokens: Annotated[
        StrictInt | None,
        Field(
            ge=2,
            description="Anchors are cut at this many tokens. Default: 200 in profile released (fixed there), else "
            "512.",
        ),
    ] = None
    demonstration_tokens: Annotated[
        StrictInt | None,
        Field(
            ge=1,
            description="Demonstrations are cut at this many tokens. Default: what the model's context leaves, at most "
            "2048 except in profile released.",
        ),
    ] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="Number format of the model's weights. auto: float32 on CPU, bfloat16 on GPU."),
    ] = "auto"
    kv_iter: Annotated[
        StrictInt,
        Field(
            ge=1,
            description="Iterations that refine a demonstration's keys and values, as in the authors' program; only "
            "profile released. 1: no refinement.",
        ),
    ] = 1
    max_row_bytes: Annotated[
        StrictInt, Field(ge=100, description="A pool row larger than this many bytes is rejected as too_large.")
    ] = MAX_ROW_BYTES
    max_rejected_share: Annotated[
        StrictFloat,
        Field(
            ge=0, le=1, description="The run stops if more than this share of the pool's rows can't be used, 0 to 1."
        ),
    ] = 0.5
    max_bad_candidates: Annotated[
        StrictInt,
        Field(
            ge=0,
            description="Candidates that may be recorded as unscorable because the model returns NaN or infinity; "
            "with more the run fails.",
        ),
    ] = 0
    memory_mib: MemoryMib = MEMORY_MIB
    s3_endpoint: S3Endpoint = None
    devices: Devices = "auto"
    workers: Workers = None
    executor: Executor = "local"
    executor_address: ExecutorAddress = None
    stalled_after: StalledAfter = STALLED_AFTER
    trust_remote_code: Annotated[
        ModelAddress | None,
        Field(description="Name of the one model or encoder whose own Python code may be run. Default: none."),
    ] = None

    def __post_init__(self) -> None:
        if not self.pool:
            raise UsageError(f"pool is empty: give {Accepts.STORED}")
        check_field_names(self.field_names)
        check_placing(self.executor, self.executor_address, self.devices)
        check_anchor_source(self.anchors, self.anchor_set, self.anchor_file)
        if self.executor != "local" and self.dtype == "auto":
            raise UsageError(
                f"dtype=auto depends on the machine, and executor {self.executor} has several: give float32, bfloat16 "
                "or float16, so that all cells are computed alike"
            )
        check_profile_options(self.profile, anchor_tokens=self.anchor_tokens, kv_iter=self.kv_iter)
        check_trusted(self.trust_remote_code, model=self.model, encoder=self.encoder)
        cut_from_options(_cut_fields(self))

    @property
    def pool_name(self) -> str:
        """The pool in names and messages."""
        return pool_name(self.pool)

    @property
    def field_names(self) -> FieldNames:
        """Which fields of the pool's rows hold an example's texts."""
        return FieldNames(self.instruction_field, self.input_field, self.output_field)

    @property
    def cut(self) -> Cut:
        """The rule that keeps candidates."""
        return cut_from_options(_cut_fields(self)) or DEFAULT_CUT


@configuration(exclusive=[CUTS], needed=CUTS)
class ReselectConfig:
    """A finished run and a new cut for it."""

    run: Annotated[Name, Field(description="Name of the run, as `nuggets runs` shows it.")]
    store: StoreAddress = DEFAULT_STORE
    threshold: ThresholdOption = None
    top_k: TopKOption = None
    top_fraction: TopFractionOption = None
    memory_mib: MemoryMib = MEMORY_MIB
    s3_endpoint: S3Endpoint = None
    devices: Devices = "auto"
    workers: Workers = None
    executor: Executor = "local"
    executor_address: ExecutorAddress = None
    stalled_after: StalledAfter = STALLED_AFTER

    def __post_init__(self) -> None:
        check_placing(self.executor, self.executor_address, self.devices)
        if cut_from_options(_cut_fields(self)) is None:
            raise UsageError("no cut is given: give threshold, top_k or top_fraction")

    @property
    def cut(self) -> Cut:
        """The new rule that keeps candidates."""
        return cut_from_options(_cut_fields(self)) or DEFAULT_CUT


@configuration(exclusive=[CUTS])
class ScoreShardsConfig:
    """A share of a run's shards to score, and for which cut; nothing is published."""

    executor: ClassVar[ExecutorName] = "local"
    executor_address: ClassVar[str | None] = None

    run: Annotated[Name, Field(description="Name of a run that has begun to score, as `nuggets runs` shows it.")]
    store: StoreAddress = DEFAULT_STORE
    part: Annotated[StrictInt, Field(ge=0, description="Which part of the shards: 0 for the first.")] = 0
    parts: Annotated[StrictInt, Field(ge=1, description="Into how many parts the run's shards are divided.")] = 1
    threshold: ThresholdOption = None
    top_k: TopKOption = None
    top_fraction: Annotated[
        TopFractionOption,
        Field(
            description="Cut: keep this share of the best, 0 to 1, rounded up. Default cut: the run's own, if it races."
        ),
    ] = None
    s3_endpoint: S3Endpoint = None
    devices: Devices = "auto"
    workers: Annotated[Workers, Field(description="Scoring processes on CPU, which share its cores. Default: 1.")] = (
        None
    )
    stalled_after: StalledAfter = STALLED_AFTER

    def __post_init__(self) -> None:
        if self.part >= self.parts:
            raise UsageError(f"part={self.part} is none of parts={self.parts}: allowed is 0 to {self.parts - 1}")
        cut_from_options(_cut_fields(self))

    @property
    def cut(self) -> Cut | None:
        """The rule that the race is for; None for the run's own."""
        return cut_from_options(_cut_fields(self))


def _cut_fields(config: CurateConfig | ReselectConfig | ScoreShardsConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in CUTS}
