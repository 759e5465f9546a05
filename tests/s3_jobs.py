"""Jobs whose pool, anchors or store are on S3, and the environment in which S3 clients are made."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import job
import pytest
import s3fs

from nuggets.config.configs import CurateConfig
from nuggets.steps.publish import Selection
from nuggets.store.store import Store


def configured(pool: str, anchors: str, store: str, model: Path, **options: Any) -> CurateConfig:
    given = {"run": "r", "shard_size": 8, "top_k": 5, "racing": "off"} | options
    return CurateConfig(pool=pool, anchor_file=anchors, store=store, model=str(model), **given)


def configured_on_s3(address: str, model: Path, **options: Any) -> CurateConfig:
    return configured(f"{address}/pool.jsonl", f"{address}/anchors.json", f"{address}/store", model, **options)


def on_disk(pool: Path, anchors: Path, store: Path, model: Path) -> bytes:
    """What the same run chooses where nothing goes wrong."""
    selection = job.curate(configured(str(pool), str(anchors), str(store), model))
    return Path(selection.folder, "selected.jsonl").read_bytes()


def selected(selection: Selection) -> bytes:
    return Store(selection.folder).read("selected.jsonl")


@contextlib.contextmanager
def environment(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients that are made anew, with these variables."""
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()
