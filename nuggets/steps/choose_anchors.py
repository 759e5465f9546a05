"""The run's anchor set: read from the user's file, taken by its name, or found among the pool's embeddings."""

from collections import Counter
from collections.abc import Mapping, Sequence

from nuggets.anchors.anchor_checks import NEAR_DUPLICATE, TOLERATED, is_near_duplicate, token_faults
from nuggets.anchors.anchor_set import (
    ANCHOR_VERSION,
    DEFAULT_ANCHORS,
    Anchor,
    AnchorSet,
    AnchorSetRef,
    anchor_set_digest,
    anchor_set_path,
    anchors_from_file,
    check_scorable,
    default_anchor_count,
    name_anchor_set,
    read_anchor_set,
    read_anchors,
    read_named,
    write_anchor_set,
)
from nuggets.anchors.kmeans import cluster_centres, nearest_members
from nuggets.anchors.pool_vectors import PoolVectors
from nuggets.config.configs import CurateConfig
from nuggets.errors import InputError, UsageError
from nuggets.models.scoring_setup import ScoringSetup, open_profile
from nuggets.pools.readers.detect import check_unchanged, find_source
from nuggets.pools.shards import Pool
from nuggets.progress import report_stage
from nuggets.runs.prepared import PreparedRun
from nuggets.store.addresses import digest
from nuggets.store.store import Store

# Counts of an anchor set, which manifest and report show by these names, and their log lines.
COUNT_MEANINGS = {
    "long_examples": "examples longer than the encoder's window, embedded as the mean of several windows",
    "anchors_passed_over_no_response": (
        "nearer examples passed over, too little of their response within anchor_tokens, or not reproduced by the "
        "tokenizer"
    ),
    "anchors_passed_over_truncated": "nearer examples passed over, longer than anchor_tokens",
    "anchors_passed_over_near_duplicate": "nearer examples passed over, near duplicates of another anchor",
    "anchors_truncated": "anchors longer than anchor_tokens, because too few examples pass all checks",
    "anchors_near_duplicate": "anchors that are near duplicates of others, because too few examples pass all checks",
}


def known_anchors(prepared: PreparedRun, config: CurateConfig, pool: Pool) -> AnchorSetRef | None:
    """The run's anchor set, if it needs no embeddings: the user's file, or a set that the store has already."""
    store = prepared.store
    if config.anchor_file is not None:
        return _from_file(store, prepared, config)
    if config.anchor_set is not None:
        named = read_named(store, config.anchor_set)
        return named if named is None else _checked(store, prepared, config, named)
    path, count = anchor_set_address(prepared, config, pool)
    if not store.exists(path):
        return None
    stored = read_anchor_set(store, path)
    return AnchorSetRef(path, count, stored.counts, stored.encoder)


def find_anchors(prepared: PreparedRun, config: CurateConfig, pool: Pool, embeddings: Sequence[str]) -> AnchorSetRef:
    """The run's anchor set, found among the pool's embeddings and stored.

    Where another run has given the name of the set to other anchors meanwhile, those are the run's anchors.
    """
    store = prepared.store
    path, count = anchor_set_address(prepared, config, pool)
    if config.anchors is None and count < DEFAULT_ANCHORS:
        report_stage(
            f"anchors: {count} instead of {DEFAULT_ANCHORS}, because the pool has only {pool.examples} examples"
        )
    vectors = PoolVectors(store, pool, embeddings)
    anchor_set = _find(vectors, prepared.setup, rows=pool.examples, count=count, seed=config.seed)
    encoder = f"{prepared.encoder.name} {anchor_set.encoder}" if prepared.encoder else ""
    reference = write_anchor_set(store, path, AnchorSet(anchor_set.anchors, anchor_set.counts, encoder))
    report_stage(f"encoder: {reference.encoder}")
    _log_counts(reference.counts)
    if config.anchor_set is None:
        return reference
    named = name_anchor_set(store, config.anchor_set, reference)
    if named.path != reference.path:
        report_stage(f"anchors: another run has defined set {config.anchor_set} meanwhile; its anchors are used")
    return _checked(store, prepared, config, named)


def _checked(store: Store, prepared: PreparedRun, config: CurateConfig, named: AnchorSetRef) -> AnchorSetRef:
    """A named set, if the run asks for as many anchors as it has and can score all of them."""
    if config.anchors not in (None, named.anchors):
        raise UsageError(
            f"anchors={config.anchors}, but anchor_set='{config.anchor_set}' has {named.anchors} in this store and "
            "never changes: leave anchors out, or give another name"
        )
    check_scorable(read_anchors(store, named.path), open_profile(prepared.setup))
    return named


def anchor_set_address(prepared: PreparedRun, config: CurateConfig, pool: Pool) -> tuple[str, int]:
    """Path of the anchor set that k-means finds, made of all that determines it, and its number of anchors."""
    count = config.anchors or default_anchor_count(pool.examples)
    if count > pool.examples:
        raise InputError(
            f"anchors={count} is more than the {pool.examples} distinct, usable examples of the pool: "
            f"give at most --anchors {pool.examples}, or a larger pool"
        )
    path = anchor_set_path(
        digest(
            {
                "version": ANCHOR_VERSION,
                "pool": prepared.pool_digest,
                "max_row_bytes": config.max_row_bytes,
                **config.field_names.identity,
                "encoder": prepared.encoder_digest,
                "count": count,
                "seed": config.seed,
                # Tokenizer, profile and limit determine which examples pass the checks.
                "model": prepared.setup.model_digest,
                "profile": prepared.setup.profile,
                "rendering": prepared.setup.rendering,
                "anchor_tokens": prepared.setup.limits.anchor,
            }
        )
    )
    return path, count


def _from_file(store: Store, prepared: PreparedRun, config: CurateConfig) -> AnchorSetRef:
    source = find_source(str(config.anchor_file), config.s3_endpoint)
    anchors = anchors_from_file(source, max_row_bytes=config.max_row_bytes, names=config.field_names)
    if prepared.anchor_file_digest is not None:
        check_unchanged(source, prepared.anchor_file_digest)
    check_scorable(anchors, open_profile(prepared.setup))
    path = anchor_set_path(anchor_set_digest(anchors))
    if not store.exists(path):
        write_anchor_set(store, path, AnchorSet(tuple(anchors)))
    return AnchorSetRef(path, len(anchors))


def _find(vectors: PoolVectors, setup: ScoringSetup, *, rows: int, count: int, seed: int) -> AnchorSet:
    profile = open_profile(setup)

    def faults(position: int, chosen: Sequence[int]) -> tuple[str, ...]:
        of_tokens = token_faults(vectors.candidate(position).example, profile)
        is_twin = is_near_duplicate(vectors.vector(position), map(vectors.vector, chosen))
        return (*of_tokens, NEAR_DUPLICATE) if is_twin else of_tokens

    centres = cluster_centres(vectors.batches, rows=rows, clusters=count, seed=seed)
    members = nearest_members(vectors.batches, centres, faults=faults, tolerated=TOLERATED)
    passed_over = Counter(f"anchors_passed_over_{fault}" for member in members for fault in member.passed_over)
    tolerated = Counter(f"anchors_{fault}" for member in members for fault in member.faults)
    anchors = [
        Anchor(item.id, item.row, item.example, len(member.passed_over))
        for member in members
        for item in [vectors.candidate(member.row)]
    ]
    counts = {"long_examples": vectors.count_long(), **passed_over, **tolerated}
    return AnchorSet(tuple(anchors), counts, vectors.reading)


def _log_counts(counts: Mapping[str, int]) -> None:
    """Log examples that exceed the encoder's window, and examples and anchors that failed a check."""
    for name, count in counts.items():
        if count:
            report_stage(f"anchors: {COUNT_MEANINGS[name]}: {count}")
