"""Before a run: check that everything in its configuration exists, and open the run with the digests of its inputs."""

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from nuggets.config.configs import CUTS, DEFAULT_CUT, CurateConfig, config_as_mapping
from nuggets.errors import UsageError
from nuggets.models.files import files_digest, find_encoder, find_language_model, with_digest
from nuggets.models.language_model import ModelCard, describe_model, resolve_dtype
from nuggets.models.prompts import Profile, token_limits
from nuggets.models.scoring_setup import ScoringSetup
from nuggets.pools.readers.detect import find_source, source_digest
from nuggets.runs.manifest import Run, open_run, read_run
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.cuts import Cut, cut_from_options
from nuggets.store.addresses import digest
from nuggets.store.store import Store, open_store


def resolve_scoring(store: Store, config: CurateConfig) -> ScoringSetup:
    """The scoring setup of a configuration on this machine; the model provides the defaults."""
    trusted = config.model is not None and config.trust_remote_code == config.model
    files = with_digest(find_language_model(config.model), trust_remote_code=trusted)
    card = describe_model(store, files, trust_remote_code=trusted)
    profile = config.profile or _profile(card)
    limits = token_limits(
        profile, context=card.context, demonstration=config.demonstration_tokens, anchor=config.anchor_tokens
    )
    return ScoringSetup(
        files, card.digest, profile, limits, resolve_dtype(config.dtype, config.devices), config.kv_iter, trusted
    )


def _profile(card: ModelCard) -> Profile:
    return "chat" if card.default_profile == "chat" else "plain"


def check_config(config: CurateConfig) -> None:
    """Raise if a pool, model, encoder, anchor file or store of the configuration is missing. Takes about a second."""
    find_source(config.pool, config.s3_endpoint)
    if config.anchor_file is None:
        find_encoder(config.encoder)
    else:
        find_source(config.anchor_file, config.s3_endpoint)
    find_language_model(config.model)
    open_store(config.store, config.s3_endpoint).check_writable()


def prepare_run(config: CurateConfig) -> PreparedRun:
    """Compute the digests of the run's inputs and open the run in the store, as a new one or to continue it."""
    store = open_store(config.store, config.s3_endpoint)
    store.check_writable()
    setup = resolve_scoring(store, config)
    pool_digest = source_digest(find_source(config.pool, config.s3_endpoint))
    trust_encoder_code = config.encoder is not None and config.trust_remote_code == config.encoder
    encoder = None if config.anchor_file else find_encoder(config.encoder)
    encoder = encoder and with_digest(encoder, trust_remote_code=trust_encoder_code)
    encoder_digest = files_digest(encoder, trust_remote_code=trust_encoder_code) if encoder else ""
    anchor_file_digest = (
        source_digest(find_source(config.anchor_file, config.s3_endpoint)) if config.anchor_file else None
    )
    identity = {
        "pool": pool_digest,
        "max_row_bytes": config.max_row_bytes,
        **config.field_names.identity,
        "model": setup.model_digest,
        "profile": setup.profile,
        "demonstration_tokens": setup.limits.demonstration,
        "anchor_tokens": setup.limits.anchor,
        "dtype": setup.dtype,
        **({"kv_iter": setup.kv_iter} if setup.kv_iter > 1 else {}),
        "anchors": _anchors_identity(config, encoder_digest, anchor_file_digest),
    }
    name = config.run or f"{_stem(config.pool)}-{digest(identity)[:8]}"
    inputs = {
        "pool": {"source": config.pool, "digest": pool_digest},
        "model": {"name": setup.files.name, "digest": setup.model_digest},
        "encoder": {"name": encoder.name, "digest": encoder_digest} if encoder else None,
        "anchor_file": config.anchor_file,
    }
    run = open_run(store, name, config=_found_from_anywhere(config), identity=identity, inputs=inputs)
    return PreparedRun(
        name=run.name,
        store=store,
        setup=setup,
        pool_digest=pool_digest,
        encoder=encoder,
        encoder_digest=encoder_digest,
        trust_encoder_code=config.encoder is not None and config.trust_remote_code == config.encoder,
        anchor_file_digest=anchor_file_digest,
        max_bad_candidates=config.max_bad_candidates,
        attempt=run.attempt,
    )


def resume_run(store: Store, name: str) -> PreparedRun:
    """A run as it was prepared, to compute more of its cells.

    Raises UsageError if its model is missing, or if this version would compute other cells.
    """
    run = read_run(store, name)
    if "scoring_key" not in run.references:
        raise UsageError(
            f"run '{name}' has no cells, so none can be added: it has not begun to score, or was not scored here"
        )
    identity = run.identity
    config = CurateConfig(
        **{
            **run.config,
            "store": store.url,
            "s3_endpoint": store.endpoint,
            **dict.fromkeys(CUTS),  # a resumed run takes its cut from elsewhere
            # Values that the run has resolved from defaults: another machine could resolve them to other values.
            **{field: identity[field] for field in ("profile", "demonstration_tokens", "dtype")},
            "anchor_tokens": None if identity["profile"] == "released" else identity["anchor_tokens"],
        }
    )
    setup = resolve_scoring(store, config)
    if setup.key != run.references["scoring_key"]:
        raise UsageError(
            f"run '{name}' was scored as {run.references['scoring_key']}, and its model, limits and this version of "
            f"nuggets give {setup.key}: cells of two kinds must not be mixed; start a new run with nuggets curate"
        )
    return PreparedRun(
        name=name,
        store=store,
        setup=setup,
        pool_digest=identity["pool"],
        max_bad_candidates=config.max_bad_candidates,
    )


def own_cut(run: Run) -> Cut | None:
    """The cut that a run races for; None if it computes its full table."""
    return cut_from_options(run.config) or DEFAULT_CUT if run.config.get("racing", "on") == "on" else None


def _anchors_identity(config: CurateConfig, encoder_digest: str, anchor_file_digest: str | None) -> str:
    if anchor_file_digest is not None:
        return f"file {anchor_file_digest}"
    if config.anchor_set is not None:
        return f"set {config.anchor_set}"
    return f"{config.anchors or 'default'} by k-means, encoder {encoder_digest}, seed {config.seed}"


def _found_from_anywhere(config: CurateConfig) -> dict[str, Any]:
    """The configuration with absolute paths, for the manifest: a run may be resumed from another folder."""
    paths: dict[str, Any] = {}
    for field in ("model", "encoder", "trust_remote_code"):  # the last repeats one of the others
        name = getattr(config, field)
        if name is not None and (path := Path(name).expanduser()).exists():  # otherwise it is an id of the Hub
            paths[field] = str(path.resolve())
    return config_as_mapping(replace(config, **paths))


def _stem(url: str) -> str:
    stem = PurePosixPath(url.rstrip("/")).name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:60] or "pool"
