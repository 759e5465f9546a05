"""Before a run: check that everything in its configuration exists, and open the run with the digests of its inputs."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nuggets.config.configs import CUTS, DEFAULT_CUT, CurateConfig
from nuggets.config.mapping import config_as_mapping
from nuggets.devices.capacity import device_capacities
from nuggets.errors import UsageError
from nuggets.models.files import ModelFiles, files_digest, find_encoder, find_language_model, with_digest
from nuggets.models.language_model import resolve_dtype
from nuggets.models.model_card import ModelCard, check_encoder, check_memory, describe_model
from nuggets.models.prompts import Profile, token_limits
from nuggets.models.scoring_setup import ScoringSetup, with_rendering
from nuggets.models.weight_files import check_weight_files
from nuggets.models.window import check_window
from nuggets.pools.left_out import LeftOut
from nuggets.pools.readers.content_digest import combined_digest
from nuggets.pools.readers.detect import copied_files, file_digests, find_source, source_digest
from nuggets.runs.manifest import Run, open_run, read_run
from nuggets.runs.names import name_from
from nuggets.runs.prepared import PreparedRun
from nuggets.scores.cuts import Cut, cut_from_options
from nuggets.store.addresses import digest
from nuggets.store.retries import first_requests
from nuggets.store.store import Store, open_store


def resolve_scoring(store: Store, config: CurateConfig) -> ScoringSetup:
    """The scoring setup of a configuration on this machine; the model provides the defaults.

    Raises UsageError or InputError if the model fails a check.
    """
    trusted = config.model is not None and config.trust_remote_code == config.model
    files = find_language_model(config.model)
    card = describe_model(store, files, trust_remote_code=trusted)
    files = with_digest(files, trust_remote_code=trusted)
    profile = config.profile or _profile(card)
    limits = token_limits(
        profile, context=card.context, demonstration=config.demonstration_tokens, anchor=config.anchor_tokens
    )
    dtype = resolve_dtype(config.dtype, config.devices)
    setup = ScoringSetup(files, card.digest, profile, limits, dtype, config.kv_iter, trusted)
    setup = with_rendering(store, setup)
    shortest = card.shortest[profile]
    check_window(f"model='{files.name}'", profile, limits, context=card.context, shortest=shortest)
    return setup


def check_models(store: Store, config: CurateConfig) -> tuple[ScoringSetup, ModelFiles | None]:
    """The scoring setup and the encoder of a configuration, both tried without a row of the pool.

    Raises UsageError or InputError if one of them fails. The encoder is None if the anchors come from a file. What
    depends on files only is tried once per store and model; what depends on the machine, each time.
    """
    setup = resolve_scoring(store, config)
    if config.executor == "local":  # the machines of other executors may have more memory
        card = describe_model(store, setup.files, trust_remote_code=setup.trust_remote_code)
        check_memory(card, setup.dtype, device_capacities(config.devices, config.workers))
    if config.anchor_file is not None:
        return setup, None
    trusted = _trusts_encoder(config)
    encoder = with_digest(find_encoder(config.encoder), trust_remote_code=trusted)
    check_encoder(store, encoder, trust_remote_code=trusted)
    return setup, encoder


def _trusts_encoder(config: CurateConfig) -> bool:
    return config.encoder is not None and config.trust_remote_code == config.encoder


def _profile(card: ModelCard) -> Profile:
    return "chat" if card.default_profile == "chat" else "plain"


@first_requests()
def check_config(config: CurateConfig) -> None:
    """Raise if a pool, model, encoder, anchor file or store of the configuration is missing. Takes about a second.

    Of models, this looks at the names, headers and configuration of files, without heavy libraries.
    """
    model = find_language_model(config.model)
    if model.gguf is None:
        check_weight_files(f"model='{model.name}'", Path(model.folder))
    if config.anchor_file is None:
        encoder = find_encoder(config.encoder)
        check_weight_files(f"encoder='{encoder.name}'", Path(encoder.folder))
    else:
        find_source(config.anchor_file, config.s3_endpoint)
    find_source(config.pool, config.s3_endpoint, split=config.split)
    open_store(config.store, config.s3_endpoint).check_writable()


@first_requests()
def check_run(store: Store, name: str) -> None:
    """Raise UsageError if the store has no run of this name."""
    read_run(store, name)


def prepare_run(config: CurateConfig) -> PreparedRun:
    """Compute the digests of the run's inputs and open the run in the store, as a new one or to continue it."""
    store = open_store(config.store, config.s3_endpoint)
    with first_requests():
        store.check_writable()
    setup, encoder = check_models(store, config)
    trust_encoder_code = _trusts_encoder(config)
    source = find_source(config.pool, config.s3_endpoint, split=config.split)
    digests = file_digests(source)
    pool_digest = combined_digest(digests)
    not_used: tuple[LeftOut, ...] = (*source.left_out, *copied_files(source, digests))
    encoder_digest = files_digest(encoder, trust_remote_code=trust_encoder_code) if encoder else ""
    anchor_file_digest = None
    if config.anchor_file:
        anchor_source = find_source(config.anchor_file, config.s3_endpoint)
        anchor_file_digest = source_digest(anchor_source)
        not_used += anchor_source.left_out
    identity = {
        "pool": pool_digest,
        **({"rows_key": source.rows_key} if source.rows_key else {}),
        "max_row_bytes": config.max_row_bytes,
        **config.field_names.identity,
        "model": setup.model_digest,
        "profile": setup.profile,
        "rendering": setup.rendering,
        "demonstration_tokens": setup.limits.demonstration,
        "anchor_tokens": setup.limits.anchor,
        "dtype": setup.dtype,
        **({"kv_iter": setup.kv_iter} if setup.kv_iter > 1 else {}),
        "anchors": _anchors_identity(config, encoder_digest, anchor_file_digest),
    }
    name = config.run or f"{name_from(config.pool[0])}-{digest(identity)[:8]}"
    inputs = {
        "pool": {"source": source.name, "digest": pool_digest, "not_used": [asdict(item) for item in not_used]},
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
        trust_encoder_code=trust_encoder_code,
        anchor_file_digest=anchor_file_digest,
        max_bad_candidates=config.max_bad_candidates,
        attempt=run.attempt,
        not_used=not_used,
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
        if name is not None and (path := Path(name)).exists():  # otherwise it is an id of the Hub
            paths[field] = str(path.resolve())
    return config_as_mapping(replace(config, **paths))
