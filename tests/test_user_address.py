"""Which addresses are accepted, which are expanded, and which are refused with the address that was meant."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import nuggets
from flows.cli.options import read_options_file
from nuggets.config.configs import CurateConfig, ReselectConfig, ScoreShardsConfig
from nuggets.config.declaration import declared_fields
from nuggets.config.fields import DataAddress, ModelAddress
from nuggets.config.mapping import ADDRESSES
from nuggets.errors import UsageError
from nuggets.store.user_address import Accepts, resolve_address

Cli = Callable[..., subprocess.CompletedProcess[str]]

# An address, and words of its refusal.
NO_ADDRESS = {
    "s3:/lab/scores": "did you mean s3://lab/scores? A local path of this name is ./s3:/lab/scores",
    "s3:lab/scores": "did you mean s3://lab/scores?",
    "S3://lab/scores": "did you mean s3://lab/scores?",
    "s3a://lab/scores": "did you mean s3://lab/scores?",
    "s3//lab/scores": "did you mean s3://lab/scores?",
    "s3;//lab/scores": "did you mean s3://lab/scores?",
    "s3:///lab/scores": "did you mean s3://lab/scores?",
    "s3:\\\\lab\\scores": "did you mean s3://lab/scores?",
    " s3://lab/scores": "did you mean s3://lab/scores?",
    "s3://lab/scores\n": "did you mean s3://lab/scores?",
    "'s3://lab/scores'": "did you mean s3://lab/scores?",
    "s3://": "names no bucket: allowed is a path on this machine, or s3://bucket/key",
    "s3://<bucket>/scores": "names no bucket",
    "gs://lab/scores": "gs:// is not supported here; allowed is a path on this machine, or s3://bucket/key",
    "https://lab.example.org/scores": "https:// is not supported here",
    "gs:/lab/scores": "gs:// is not supported here",
    "file:///srv/scores": "did you mean /srv/scores?",
    "file:/srv/scores": "did you mean /srv/scores?",
    "hf://datasets/lab/answers": "'hf download lab/answers --repo-type dataset --local-dir FOLDER'",
    "https://huggingface.co/datasets/lab/answers/tree/main": "'hf download lab/answers --repo-type dataset",
    "C:\\lab\\scores": "is a path of Windows: allowed is a path on this machine, or s3://bucket/key; in WSL drive C:",
    "C:/lab/scores": "is a path of Windows",
    "\\\\server\\lab": "is a path of Windows",
    "lab\\scores": "did you mean lab/scores?",
    '"scores"': "did you mean scores?",
    "scores ": "did you mean scores?",
    "sco\u200bres": "holds an invisible character",
    "$LAB_UNSET/scores": "names the environment variable LAB_UNSET, which is not set here",
    "${LAB_UNSET}/scores": "names the environment variable LAB_UNSET",
    "s3://$LAB_UNSET/scores": "names the environment variable LAB_UNSET",
    "%LAB_UNSET%/scores": "names the environment variable LAB_UNSET",
    "~nobody-of-this-name/scores": "this machine has no home folder for '~nobody-of-this-name'",
    "": "is empty: give a path on this machine, or s3://bucket/key",
    " ": "is empty",
    "$LAB_S3/scores": "did you mean s3://lab/scores?",  # the value of a variable is an address as well
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory. It is empty after each test: no address becomes a folder of that name."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAB_DATA", "/srv/lab")
    monkeypatch.setenv("LAB_S3", "s3:/lab")
    monkeypatch.setenv("LAB_BUCKET", "lab")
    monkeypatch.setenv("LAB_HOME", "~/lab")
    monkeypatch.delenv("LAB_UNSET", raising=False)
    return folder


@pytest.mark.parametrize("address", NO_ADDRESS)
def test_what_is_almost_an_address_is_refused_with_what_was_meant(address: str, folder: Path) -> None:
    with pytest.raises(UsageError) as refused:
        resolve_address("store", address, Accepts.STORED)
    assert str(refused.value).startswith("store") and NO_ADDRESS[address] in str(refused.value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("address", NO_ADDRESS)
def test_forms_refuse_it_alike(address: str) -> None:
    for config, given in ((CurateConfig, {"pool": "p"}), (ReselectConfig, {"run": "r", "top_k": 1})):
        with pytest.raises(ValidationError, match="store"):
            TypeAdapter(config).validate_python({**given, "store": address})


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("s3://lab/scores", "s3://lab/scores"),
        ("s3://lab", "s3://lab"),
        ("s3://lab/a b/%41%42%43/ü", "s3://lab/a b/%41%42%43/ü"),
        (
            "s3://arn:aws:s3:eu-west-1:123:accesspoint/lab/scores",
            "s3://arn:aws:s3:eu-west-1:123:accesspoint/lab/scores",
        ),
        ("scores", "scores"),
        ("./s3:/lab/scores", "./s3:/lab/scores"),
        ("../data/part-*.jsonl", "../data/part-*.jsonl"),
        ("data:v2/pool.jsonl", "data:v2/pool.jsonl"),
        ("a%20b%C3%A4c.jsonl", "a%20b%C3%A4c.jsonl"),
        ("costs $5.jsonl", "costs $5.jsonl"),
        ("$LAB_DATA/scores", "/srv/lab/scores"),
        ("${LAB_DATA}/scores", "/srv/lab/scores"),
        ("%LAB_DATA%/scores", "/srv/lab/scores"),
        ("s3://$LAB_BUCKET/scores", "s3://lab/scores"),
    ],
)
def test_addresses_are_accepted_and_variables_expanded(address: str, meant: str) -> None:
    assert resolve_address("store", address, Accepts.STORED) == meant
    assert CurateConfig(pool=address, store=address, anchor_file=address).store == meant


def test_the_home_folder_is_expanded(tmp_path: Path) -> None:
    for address in ("~/lab", "$HOME/lab", "$LAB_HOME"):
        config = CurateConfig(pool=address, store=address, model=address, encoder=address, trust_remote_code=address)
        values = (*config.pool, config.store, config.model, config.encoder, config.trust_remote_code)
        assert values == (f"{tmp_path}/home/lab",) * 5


def test_an_existing_file_may_have_any_name(folder: Path) -> None:
    for name in ("$LAB_UNSET", "%LAB_UNSET%", "back\\slash", " space ", "'quoted'", "~nobody-of-this-name"):
        (folder / name).touch()
        assert resolve_address("pool", name, Accepts.STORED) == name


@pytest.mark.parametrize("accepts", Accepts)
@pytest.mark.parametrize("address", ["s3://key:secret@lab/x", "S3:/key:secret@lab/x", "$LAB_URL/x"])
def test_credentials_are_refused_and_not_shown(address: str, accepts: Accepts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_URL", "https://key:secret@lab")
    with pytest.raises(UsageError, match="holds credentials") as refused:
        resolve_address("pool", address, accepts)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://lab/model", "s3:// is not supported here; allowed is a folder or .gguf file on this machine, or the id"),
        ("hf://lab/model", "did you mean lab/model?"),
        ("https://huggingface.co/lab/model", "did you mean lab/model?"),
        ("$LAB_UNSET/model", "LAB_UNSET, which is not set"),
        ("models\\tiny", "did you mean models/tiny?"),
    ],
)
def test_models_are_folders_or_ids(address: str, words: str) -> None:
    for option in ("model", "encoder"):
        with pytest.raises(UsageError, match=option) as refused:
            CurateConfig(pool="p", **{option: address})
        assert words in str(refused.value)
    assert CurateConfig(pool="p", model="lab/model-1.5b").model == "lab/model-1.5b"


def test_every_field_that_takes_an_address_is_listed_with_what_it_accepts() -> None:
    for config in (CurateConfig, ReselectConfig, ScoreShardsConfig):
        for name in declared_fields(config):
            needed = {"pool": "p"} if config is CurateConfig else {"run": "r", "top_k": 1}
            try:
                config(**{**needed, name: "gs:/lab/x"})
                is_address = False
            except UsageError as error:
                is_address = "gs:// is not supported here" in str(error)
            assert is_address == (name in ADDRESSES), name
    assert TypeAdapter(DataAddress).validate_python("p") == TypeAdapter(ModelAddress).validate_python("p") == "p"


def test_every_command_refuses_it_with_exit_code_2_and_leaves_no_folder(cli: Cli, folder: Path) -> None:
    (folder / "run.yaml").write_text("pool: s3:/lab/pool.jsonl\n")
    commands: list[tuple[str, ...]] = [
        ("curate", "p.jsonl", "--store", "s3:/lab/x"),
        ("curate", "s3:/lab/x"),
        ("curate", "p.jsonl", "--anchor-file", "s3:/lab/x"),
        ("curate", "--config", "run.yaml"),
        ("curate", "--config", "gs://lab/run.yaml"),
        ("reselect", "r", "--top-k", "1", "--store", "s3:/lab/x"),
        ("score-shards", "r", "--store", "s3:/lab/x"),
        ("cells", "r", "--out", "c.csv", "--store", "s3:/lab/x"),
        ("scores", "r", "--out", "s3://lab/x/s.csv"),
        ("anchors", "r", "--out", "S3://lab/x/s.csv"),
        ("runs", "--store", "s3:/lab/x"),
        ("show", "r", "--store", "s3:/lab/x"),
        ("gc", "--store", "s3:/lab/x"),
        ("import-scores", "s3:/lab/x", "--pool", "p.jsonl", "--anchor-file", "a.jsonl"),
        ("import-scores", "f", "--pool", "s3:/lab/x", "--anchor-file", "a.jsonl"),
        ("import-scores", "f", "--pool", "p.jsonl", "--anchor-file", "s3:/lab/x"),
    ]
    for command in commands:
        done = cli(*command)
        assert done.returncode == 2 and done.stdout == "", (command, done.stderr)
        assert "did you mean s3://lab/" in done.stderr or "is not supported here" in done.stderr, done.stderr
        assert sorted(path.name for path in folder.iterdir()) == ["run.yaml"], command


def test_a_notebook_refuses_it_as_well(folder: Path) -> None:
    for load in (nuggets.load_scores, nuggets.load_cells):
        with pytest.raises(UsageError, match=r"did you mean s3://lab/x\?"):
            load("r", "s3:/lab/x")
    assert list(folder.iterdir()) == []


def test_relative_paths_of_a_file_are_relative_to_that_file(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "jobs" / "models" / "tiny").mkdir(parents=True)
    file = tmp_path / "jobs" / "run.yaml"
    values = {
        "pool": "data/pool.jsonl",
        "store": "./store",
        "anchor-file": "../anchors.jsonl",
        "model": "models/tiny",
        "encoder": "lab/encoder",
        "run": "first",
        "seed": 3,
    }
    file.write_text(json.dumps(values))
    expected: dict[str, Any] = {
        "pool": f"{tmp_path}/jobs/data/pool.jsonl",
        "store": f"{tmp_path}/jobs/store",
        "anchor_file": f"{tmp_path}/anchors.jsonl",
        "model": f"{tmp_path}/jobs/models/tiny",
        "encoder": "lab/encoder",
        "run": "first",
        "seed": 3,
    }
    assert read_options_file("../jobs/run.yaml") == read_options_file(str(file)) == expected
    file.write_text("pool: [a.jsonl, /b.jsonl, s3://lab/c.jsonl, ~/d.jsonl]\nmodel: ./tiny\nencoder: tiny.gguf\n")
    assert read_options_file(str(file)) == {
        "pool": [f"{tmp_path}/jobs/a.jsonl", "/b.jsonl", "s3://lab/c.jsonl", f"{tmp_path}/home/d.jsonl"],
        "model": f"{tmp_path}/jobs/tiny",
        "encoder": f"{tmp_path}/jobs/tiny.gguf",
    }
    (folder / "models" / "other").mkdir(parents=True)
    file.write_text("pool: a.jsonl\nmodel: models/other\n")
    with pytest.raises(UsageError) as refused:
        read_options_file(str(file))
    assert str(refused.value) == (
        f"config='{file}': model='models/other' is not in {tmp_path}/jobs: did you mean {folder}/models/other?"
    )


def test_an_option_of_the_command_line_stays_relative_to_the_working_directory(
    tmp_path: Path, folder: Path, cli: Cli
) -> None:
    (tmp_path / "run.yaml").write_text("pool: pool.jsonl\n")
    done = cli("curate", "--config", "../run.yaml")
    assert (done.returncode, done.stderr.split(". ")[0]) == (2, f"error: no file or folder at '{tmp_path}/pool.jsonl'")
    done = cli("curate", "other.jsonl", "--config", "../run.yaml")
    assert done.stderr.startswith(f"error: no file or folder at 'other.jsonl' ({folder}/other.jsonl)")


def test_what_is_not_found_is_named_with_its_full_path(folder: Path, cli: Cli) -> None:
    (folder / "p.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    for arguments, words in {
        ("curate", "none.jsonl"): f"no file or folder at 'none.jsonl' ({folder}/none.jsonl)",
        ("curate", "p.jsonl", "--anchor-file", "none.jsonl"): f"({folder}/none.jsonl)",
        ("curate", "p.jsonl", "--model", "./none"): f"model='./none' ({folder}/none): there is no such folder or file",
        ("curate", "p.jsonl", "--model", "none.gguf"): f"model='none.gguf' ({folder}/none.gguf): file not found",
        ("curate", "--config", "none.yaml"): f"config='{folder}/none.yaml' can't be read: No such file or directory",
        ("runs", "--store", "none"): f"there is no store at {folder}/none",
        ("import-scores", "none", "--pool", "p.jsonl", "--anchor-file", "p.jsonl"): f"'none' ({folder}/none) is not",
    }.items():
        done = cli(*arguments)
        assert done.returncode == 2 and words in done.stderr, done.stderr
