"""Making a run's anchor set: read from the user's file, or found among the pool's embeddings."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache

from nuggets.anchors.anchor_set import (
    ANCHOR_VERSION,
    Anchor,
    AnchorSet,
    anchor_set_digest,
    anchor_set_path,
    anchors_from_file,
    check_scorable,
    default_anchor_count,
    named_path,
    read_anchors,
    write_anchors,
)
from nuggets.anchors.embeddings import read_embeddings
from nuggets.anchors.kmeans import Vectors, cluster_centres, nearest_members
from nuggets.config.configs import CurateConfig
from nuggets.errors import InputError, UsageError
from nuggets.models.scoring_setup import open_profile
from nuggets.pools.readers.detect import check_unchanged, find_source
from nuggets.pools.shards import Candidate, Pool, read_candidates
from nuggets.progress import report_stage
from nuggets.runs.prepared import PreparedRun
from nuggets.store.addresses import digest
from nuggets.store.store import Store


def known_anchors(prepared: PreparedRun, config: CurateConfig, pool: Pool) -> AnchorSet | None:
    """The run's anchor set, if no embeddings are needed for it: the user's file, or what an earlier run has found."""
    store = prepared.store
    if config.anchor_file is not None:
        return _take_file(store, prepared, config)
    if config.anchor_set is not None:
        return _take_named(store, prepared, config)
    found = _address(prepared, config, pool)
    return found if store.exists(found.path) else None


def find_anchors(prepared: PreparedRun, config: CurateConfig, pool: Pool, embeddings: Sequence[str]) -> AnchorSet:
    """The run's anchor set, found among the pool's embeddings and stored."""
    store = prepared.store
    found = _address(prepared, config, pool)
    if config.anchors is None and found.anchors < 100:
        report_stage(f"anchors: {found.anchors} instead of 100, because the pool has only {pool.examples} examples")
    anchors = _find(store, prepared, pool, embeddings, count=found.anchors, seed=config.seed)
    write_anchors(store, found.path, anchors)
    if config.anchor_set is not None:
        store.write(named_path(config.anchor_set), json.dumps(asdict(found)).encode())
    return found


def _take_named(store: Store, prepared: PreparedRun, config: CurateConfig) -> AnchorSet | None:
    assert config.anchor_set is not None
    path = named_path(config.anchor_set)
    if not store.exists(path):
        return None
    known = AnchorSet(**store.read_json(path))
    if config.anchors not in (None, known.anchors):
        raise UsageError(
            f"anchors={config.anchors}, and anchor_set='{config.anchor_set}' has {known.anchors} in this store, for "
            "good: leave anchors out, or give another name"
        )
    check_scorable(read_anchors(store, known.path), open_profile(prepared.setup))
    return known


def _address(prepared: PreparedRun, config: CurateConfig, pool: Pool) -> AnchorSet:
    """Where the anchors that k-means finds are stored: made of all that they depend on."""
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
                # Which examples can be scored is the tokenizer's, the profile's and the limit's matter.
                "model": prepared.setup.model_digest,
                "profile": prepared.setup.profile,
                "anchor_tokens": prepared.setup.limits.anchor,
            }
        )
    )
    return AnchorSet(path, count)


def _take_file(store: Store, prepared: PreparedRun, config: CurateConfig) -> AnchorSet:
    source = find_source(str(config.anchor_file), config.s3_endpoint)
    anchors = anchors_from_file(source, max_row_bytes=config.max_row_bytes, names=config.field_names)
    if prepared.anchor_file_digest is not None:
        check_unchanged(source, prepared.anchor_file_digest)
    check_scorable(anchors, open_profile(prepared.setup))
    path = anchor_set_path(anchor_set_digest(anchors))
    if not store.exists(path):
        write_anchors(store, path, anchors)
    return AnchorSet(path, len(anchors))


def _find(
    store: Store, prepared: PreparedRun, pool: Pool, embeddings: Sequence[str], *, count: int, seed: int
) -> list[Anchor]:
    profile = open_profile(prepared.setup)

    def batches() -> Iterator[Vectors]:
        return (read_embeddings(store, path) for path in embeddings)

    @lru_cache(maxsize=4)
    def shard(index: int) -> list[Candidate]:
        return read_candidates(store, pool.shards[index])

    def candidate(position: int) -> Candidate:
        for index, size in enumerate(pool.shard_examples):
            if position < size:
                return shard(index)[position]
            position -= size
        raise IndexError(position)

    def scorable(position: int) -> bool:
        return bool(profile.anchor(candidate(position).example).response_tokens)

    centres = cluster_centres(batches, rows=pool.examples, clusters=count, seed=seed)
    chosen = [candidate(position) for position in nearest_members(batches, centres, scorable=scorable)]
    return [Anchor(item.id, item.row, item.example) for item in chosen]
