"""The files of a pool that the card of a dataset names: the `configs` in the YAML head of a hub's README.md."""

from collections.abc import Iterator
from typing import Any

import yaml

from nuggets.errors import UsageError
from nuggets.pools.readers.splits import TRAIN
from nuggets.store.file_systems import call_file_system

_SHOWN = 8


def card_files(address: str, endpoint: str | None) -> list[tuple[str, str]]:
    """The paths in a folder that its README.md names as data, each with its split; none where it names none.

    Raises UsageError if the card has several configurations and none of them is the default.
    """
    card: bytes = call_file_system("read", f"{address}/README.md", endpoint, lambda system, path: system.cat_file(path))
    _, _, after = card.decode(errors="replace").partition("---\n")
    head, end, _ = after.partition("\n---")
    if not end:
        return []
    try:
        content = yaml.safe_load(head)
    except yaml.YAMLError:
        return []  # a file that is a README only
    configs = content.get("configs") if isinstance(content, dict) else None
    named = [item for item in configs if isinstance(item, dict)] if isinstance(configs, list) else []
    if not named:
        return []
    patterns = _patterns(_default(named, address).get("data_files"))
    return [(path, split) for split, pattern in patterns for path in _matching(address, endpoint, pattern)]


def _default(configs: list[dict[str, Any]], address: str) -> dict[str, Any]:
    if len(configs) == 1:
        return configs[0]
    for config in configs:
        if config.get("default") is True or config.get("config_name") == "default":
            return config
    names = ", ".join(f"'{config.get('config_name')}'" for config in configs[:_SHOWN])
    raise UsageError(
        f"the dataset in '{address}' has the configurations {names}, and its README.md says of none that it is the "
        f"default: name the files of one, such as '{address}/data/*.parquet'"
    )


def _patterns(data_files: object) -> Iterator[tuple[str, str]]:
    """The patterns of paths in `data_files`, each with its split."""
    if isinstance(data_files, str):
        yield TRAIN, data_files
    elif isinstance(data_files, dict):
        for split, paths in data_files.items():
            yield from ((str(split), str(path)) for path in (paths if isinstance(paths, list) else [paths]))
    elif isinstance(data_files, list):
        for item in data_files:
            is_entry = isinstance(item, dict) and {"split", "path"} <= set(item)
            yield from _patterns({item["split"]: item["path"]} if is_entry else item)


def _matching(address: str, endpoint: str | None, pattern: str) -> list[str]:
    def find(filesystem: Any, path: str) -> list[str]:
        found = filesystem.glob(f"{path}/{pattern}")
        return sorted(name[len(path) + 1 :] for name in found if filesystem.isfile(name))

    return call_file_system("read", address, endpoint, find)
