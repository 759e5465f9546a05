"""Configurations as mappings: read from YAML files and forms, written to manifests."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from nuggets.config.configs import CurateConfig
from nuggets.errors import UsageError
from nuggets.store.user_address import Accepts, resolve_address

# The fields that hold addresses. A YAML file's relative paths are relative to that file.
ADDRESSES = {
    **dict.fromkeys(("pool", "store", "anchor_file"), Accepts.STORED),
    **dict.fromkeys(("model", "encoder", "trust_remote_code"), Accepts.MODEL),
}


def config_from_mapping(options: Mapping[str, Any], *, source: str) -> CurateConfig:
    """The configuration that a mapping (a YAML file, say) describes; a key that is not a field is refused."""
    known = [item.name for item in fields(CurateConfig)]
    unknown = sorted(str(key) for key in options if key not in known)
    if unknown:
        raise UsageError(f"{source}: unknown key {', '.join(unknown)}. Known keys: {', '.join(known)}")
    if not options.get("pool"):
        raise UsageError(f"{source}: pool is missing: name the file or folder with the examples to choose from")
    if isinstance(racing := options.get("racing"), bool):  # YAML reads a bare on or off as a truth value
        options = {**options, "racing": "on" if racing else "off"}
    return CurateConfig(**options)


def with_paths_from(folder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the relative paths of their addresses taken from a folder."""

    def resolved(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(name, item) for item in value]
        is_address = name in ADDRESSES and isinstance(value, str)  # other types are refused by the configuration
        return resolve_address(name, value, ADDRESSES[name], folder=folder) if is_address else value

    return {name: resolved(name, value) for name, value in options.items()}


def config_as_mapping(config: CurateConfig) -> dict[str, Any]:
    """The configuration as plain values, for manifests."""
    return asdict(config)
