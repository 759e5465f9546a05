"""Embed one shard of the pool, unless its embeddings are stored."""

from nuggets.anchors.embeddings import embeddings_path, read_embeddings, write_embeddings
from nuggets.errors import DamagedTable
from nuggets.models.encoder import embed_examples, load_encoder
from nuggets.pools.shards import read_candidates
from nuggets.progress import report_stage
from nuggets.runs.prepared import PreparedRun
from nuggets.store.store import Store


def embed_shard(prepared: PreparedRun, shard: str) -> str:
    """Path of a shard's embeddings in the store, computed if they are not there."""
    store = prepared.store
    candidates = read_candidates(store, shard)
    path = embeddings_path(prepared.encoder_digest, candidates)
    if prepared.encoder is None or _are_stored(store, path, len(candidates)):
        return path
    encoder = load_encoder(prepared.encoder, trust_remote_code=prepared.trust_encoder_code)
    embeddings = embed_examples(encoder, [item.example for item in candidates])
    write_embeddings(store, path, [item.id for item in candidates], embeddings)
    long = int((embeddings.windows > 1).sum())
    windows = f", {long} of them in windows of {encoder.max_seq_length} tokens" if long else ""
    report_stage(f"embedded {len(candidates)} examples of {shard.rpartition('/')[2]}{windows}")
    return path


def _are_stored(store: Store, path: str, examples: int) -> bool:
    """Whether a shard's embeddings are stored and whole; damaged ones are logged."""
    try:
        count = len(read_embeddings(store, path).vectors)
    except FileNotFoundError:
        return False
    except DamagedTable as error:
        report_stage(f"{store.uri(path)} is damaged and computed again ({error.__cause__})")
        return False
    return count == examples
