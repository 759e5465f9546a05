"""Which settings a run accepts, which it refuses, and the messages."""

import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import TypeAdapter, ValidationError

from nuggets.config.configs import CurateConfig, ReselectConfig, ScoreShardsConfig
from nuggets.config.declaration import declared_fields
from nuggets.config.mapping import config_as_mapping, config_from_mapping
from nuggets.errors import UsageError
from nuggets.examples import FieldNames
from nuggets.scores.cuts import Threshold, TopFraction, TopK

FIELDS = [
    "pool", "split", "store", "run", "model", "encoder", "anchors", "anchor_file", "anchor_set", "instruction_field",
    "input_field", "output_field", "profile", "threshold", "top_k", "top_fraction", "racing", "shard_size", "seed",
    "anchor_tokens", "demonstration_tokens", "dtype", "kv_iter",
    "max_row_bytes", "max_rejected_share", "max_bad_candidates", "memory_mib", "s3_endpoint", "devices", "workers",
    "executor", "executor_address", "stalled_after", "trust_remote_code",
]  # fmt: skip


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as refused:
        CurateConfig(**{"pool": "pool.jsonl", **options})
    return str(refused.value)


def test_a_pool_is_all_that_has_to_be_given():
    assert config_as_mapping(CurateConfig(pool="pool.jsonl")) == {
        "pool": ("pool.jsonl",),
        "split": None,
        "store": "./nuggets-store",
        "run": None,
        "model": None,
        "encoder": None,
        "anchors": None,
        "anchor_file": None,
        "anchor_set": None,
        "instruction_field": None,
        "input_field": None,
        "output_field": None,
        "profile": None,
        "threshold": None,
        "top_k": None,
        "top_fraction": None,
        "racing": "on",
        "shard_size": 512,
        "seed": 0,
        "anchor_tokens": None,
        "demonstration_tokens": None,
        "dtype": "auto",
        "kv_iter": 1,
        "max_row_bytes": 1_000_000,
        "max_rejected_share": 0.5,
        "max_bad_candidates": 0,
        "memory_mib": 512,
        "s3_endpoint": None,
        "devices": "auto",
        "workers": None,
        "executor": "local",
        "executor_address": None,
        "stalled_after": 900,
        "trust_remote_code": None,
    }


def test_a_pool_is_one_address_or_several():
    assert CurateConfig(pool="a.jsonl") == CurateConfig(pool=["a.jsonl"])
    several = CurateConfig(pool=["a.jsonl", "s3://bucket/b.jsonl", "c"])
    assert (several.pool, several.pool_name) == (("a.jsonl", "s3://bucket/b.jsonl", "c"), "a.jsonl and 2 more")
    assert config_from_mapping({"pool": ["a.jsonl", "b.jsonl"]}, source="run.yaml").pool == ("a.jsonl", "b.jsonl")
    assert "holds credentials" in refusal(pool=["a.jsonl", "s3://me:secret@bucket/b.jsonl"])
    assert TypeAdapter(CurateConfig).json_schema()["properties"]["pool"]["anyOf"] == [
        {"type": "string"},
        {"items": {"type": "string"}, "type": "array"},
    ]


def test_the_default_cut_is_the_best_twentieth():
    assert CurateConfig(pool="pool.jsonl").cut == TopFraction(0.05)


@pytest.mark.parametrize(
    ("option", "cut"),
    [
        ({"threshold": 0.85}, Threshold(0.85)),
        ({"threshold": 0}, Threshold(0.0)),
        ({"top_k": 1}, TopK(1)),
        ({"top_fraction": 0.01}, TopFraction(0.01)),
        ({"top_fraction": 1}, TopFraction(1.0)),
    ],
)
def test_a_cut_that_is_given_replaces_the_default(option: dict[str, Any], cut: object):
    assert CurateConfig(pool="pool.jsonl", **option).cut == cut
    assert ReselectConfig(run="first", **option).cut == cut


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.5, "top_k": 3}, "threshold=0.5, top_k=3: give one cut, not 2"),
        ({"threshold": 0, "top_k": 3, "top_fraction": 1},
         "threshold=0.0, top_k=3, top_fraction=1.0: give one cut, not 3"),
        ({"threshold": 1.5}, "threshold=1.5 is out of range: allowed is 0 to 1, without 1 (1.5 % is 0.015)"),
        ({"threshold": -0.1}, "threshold=-0.1 is out of range: allowed is 0 to 1, without 1"),
        ({"threshold": float("nan")}, "threshold=nan is out of range: allowed is 0 to 1, without 1"),
        ({"threshold": float("inf")}, "threshold=inf is out of range: allowed is 0 to 1, without 1"),
        ({"threshold": 1}, "threshold=1 is out of range: allowed is 0 to 1, without 1"),
        ({"top_fraction": 0.0}, "top_fraction=0.0 is out of range: allowed is 0 to 1, without 0"),
        ({"top_fraction": 5}, "top_fraction=5 is out of range: allowed is 0 to 1, without 0 (5 % is 0.05)"),
        ({"threshold": True}, "threshold=True is bool; it has to be float"),
        ({"top_k": 0}, "top_k=0 is out of range: allowed is 1 or more"),
        ({"top_k": -1}, "top_k=-1 is out of range: allowed is 1 or more"),
        ({"top_k": 2.0}, "top_k=2.0 is float; it has to be int"),
        ({"top_fraction": 1.01}, "top_fraction=1.01 is out of range: allowed is 0 to 1, without 0 (1.01 % is 0.0101)"),
        ({"top_fraction": float("nan")}, "top_fraction=nan is out of range: allowed is 0 to 1, without 0"),
        ({"top_fraction": "0.05"}, "top_fraction='0.05' is str; it has to be float"),
    ],
)  # fmt: skip
def test_an_invalid_cut_is_refused_by_both_configurations(options: dict[str, Any], message: str):
    assert refusal(**options) == message
    with pytest.raises(UsageError) as refused:
        ReselectConfig(run="first", **options)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": ""}, "pool is empty: give a path on this machine, or s3://bucket/key"),
        ({"pool": []}, "pool is empty: give a path on this machine, or s3://bucket/key"),
        ({"pool": ["a.jsonl", ""]}, "pool is empty: give a path on this machine, or s3://bucket/key"),
        ({"pool": 5}, "pool=5 is int; it has to be str or list"),
        ({"pool": ["a.jsonl", 5]}, "pool=5 is int; it has to be str"),
        ({"pool": None}, "pool=None is NoneType; it has to be str or list"),
        ({"store": None}, "store=None is NoneType; it has to be str"),
        ({"seed": None}, "seed=None is NoneType; it has to be int"),
        ({"max_rejected_share": None}, "max_rejected_share=None is NoneType; it has to be float"),
        ({"anchors": "20"}, "anchors='20' is str; it has to be int"),
        ({"anchors": 0}, "anchors=0 is out of range: allowed is 1 or more"),
        ({"shard_size": True}, "shard_size=True is bool; it has to be int"),
        ({"shard_size": 0}, "shard_size=0 is out of range: allowed is 1 or more"),
        ({"seed": -1}, "seed=-1 is out of range: allowed is 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296 is out of range: allowed is 0 to 4294967295"),
        ({"seed": 1.5}, "seed=1.5 is float; it has to be int"),
        ({"anchor_tokens": 1}, "anchor_tokens=1 is out of range: allowed is 2 or more"),
        ({"demonstration_tokens": 0}, "demonstration_tokens=0 is out of range: allowed is 1 or more"),
        ({"kv_iter": 0}, "kv_iter=0 is out of range: allowed is 1 or more"),
        ({"max_row_bytes": 99}, "max_row_bytes=99 is out of range: allowed is 100 or more"),
        ({"memory_mib": 8}, "memory_mib=8 is out of range: allowed is 16 or more"),
        ({"racing": "maybe"}, "racing='maybe' is not known; allowed: on, off"),
        ({"max_rejected_share": 1.1}, "max_rejected_share=1.1 is out of range: allowed is 0 to 1 (1.1 % is 0.011)"),
        ({"model": ["a"]}, "model=['a'] is list; it has to be str"),
        ({"profile": "alpaca"}, "profile='alpaca' is not known; allowed: released, plain, chat"),
        ({"profile": 1}, "profile=1 is not known; allowed: released, plain, chat"),
        ({"dtype": "int8"}, "dtype='int8' is not known; allowed: auto, float32, bfloat16, float16"),
        ({"dtype": None}, "dtype=None is not known; allowed: auto, float32, bfloat16, float16"),
    ],
)
def test_a_wrong_value_is_refused_with_field_value_and_what_is_allowed(options: dict[str, Any], message: str):
    assert refusal(**options) == message


def test_there_is_one_source_of_anchors():
    assert refusal(anchors=20, anchor_file="anchors.jsonl") == (
        "anchors=20 and anchor_file='anchors.jsonl' exclude each other: "
        "anchors are found by k-means or taken from the file; give one of the two"
    )
    assert refusal(anchor_set="ours", anchor_file="anchors.jsonl") == (
        "anchor_set='ours' and anchor_file='anchors.jsonl' exclude each other: "
        "anchors are kept by name or taken from the file; give one of the two"
    )
    assert refusal(anchor_set="../ours").startswith("anchor_set='../ours' can't be a name: use letters")
    assert CurateConfig(pool="p.jsonl", anchor_set="ours", anchors=20).anchor_set == "ours"


def test_profile_released_keeps_its_200_tokens_per_anchor():
    assert CurateConfig(pool="p.jsonl", profile="released", anchor_tokens=200).anchor_tokens == 200
    assert CurateConfig(pool="p.jsonl", profile="plain", anchor_tokens=100).anchor_tokens == 100
    assert refusal(profile="released", anchor_tokens=100) == (
        "anchor_tokens=100: profile released cuts anchors at 200 tokens, as the authors' program does; "
        "leave it out, or use profile plain or chat"
    )


def test_code_is_trusted_by_the_name_of_its_model_or_encoder():
    assert CurateConfig(pool="p.jsonl", model="org/lm", trust_remote_code="org/lm").trust_remote_code == "org/lm"
    assert CurateConfig(pool="p.jsonl", encoder="org/enc", trust_remote_code="org/enc").trust_remote_code == "org/enc"
    assert refusal(model="org/lm", trust_remote_code="org/other") == (
        "trust_remote_code='org/other' names neither model (org/lm) nor encoder (None): "
        "give exactly the name whose code you have read and trust"
    )
    assert refusal(trust_remote_code=True) == "trust_remote_code=True is bool; it has to be str"


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "--", "two words", "a\n", "x" * 201, "ü" * 101, "\u0301"])
def test_a_run_name_has_to_be_a_folder_name_in_every_store(name: str):
    message = (
        f"run='{name}' can't be a name: use letters, digits, '-', '_', '.', not starting with '.', up to 200 bytes"
    )
    assert refusal(run=name) == message
    with pytest.raises(UsageError) as refused:
        ReselectConfig(run=name, top_k=1)
    assert str(refused.value) == message


@pytest.mark.parametrize("name", ["a", "alpaca-52k_v1.2", "7", "x" * 200, "schön", "指令数据", "हिन्दी-निर्देश"])
def test_a_run_name_of_letters_and_digits_of_any_script_is_accepted(name: str):
    assert CurateConfig(pool="p.jsonl", run=name).run == name


@pytest.mark.parametrize(("options", "found"), [({}, "not given"), ({"profile": "plain"}, "plain")])
def test_kv_iter_needs_the_released_profile(options: dict[str, Any], found: str):
    assert refusal(kv_iter=2, **options) == (
        f"kv_iter=2 belongs to profile released, and profile is {found}: add profile=released, or leave kv_iter at 1"
    )
    assert CurateConfig(pool="p.jsonl", kv_iter=2, profile="released").kv_iter == 2


def test_every_wrong_field_is_named_and_what_is_missing():
    assert refusal(seed=-1, dtype="int8") == (
        "seed=-1 is out of range: allowed is 0 to 4294967295; "
        "dtype='int8' is not known; allowed: auto, float32, bfloat16, float16"
    )
    with pytest.raises(UsageError, match="^run is missing$"):
        ReselectConfig(top_k=1)
    with pytest.raises(UsageError, match="^unknown field treshold. Known fields: run, store, threshold, "):
        ReselectConfig(run="r", treshold=0.5)


@pytest.mark.parametrize("wrong", [{"top_k": "5"}, {"top_k": True}, {"treshold": 0.5}, {"run": "a/b"}, {"seed": 1.0}])
def test_a_flow_refuses_what_a_command_refuses(wrong: dict[str, Any]):
    form = TypeAdapter(CurateConfig)
    assert form.validate_python({"pool": "p.jsonl", "top_k": 5}) == CurateConfig(pool="p.jsonl", top_k=5)
    (name,) = wrong
    with pytest.raises(ValidationError, match=name):
        form.validate_python({"pool": "p.jsonl", **wrong})


@pytest.mark.parametrize("config", [CurateConfig, ReselectConfig, ScoreShardsConfig])
def test_no_number_is_coerced_from_text_or_bool(config: type):
    needed = {"pool": "p"} if config is CurateConfig else {"run": "r"}
    numbers = [name for name, kind in get_type_hints(config).items() if {int, float} & {kind, *get_args(kind)}]
    assert len(numbers) >= 6
    for name in numbers:
        for wrong in ("5", True):
            with pytest.raises(UsageError, match=f"^{name}={wrong!r} is {type(wrong).__name__}; it has to be "):
                config(**needed, **{name: wrong})


def test_postponed_annotations_are_checked_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "postponed.py").write_text(
        "from __future__ import annotations\n"
        "from nuggets.config.declaration import configuration\n"
        "from nuggets.config.fields import Workers\n"
        "@configuration()\n"
        "class Postponed:\n"
        "    workers: Workers = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    postponed = importlib.import_module("postponed").Postponed
    assert postponed(workers=2).workers == 2
    with pytest.raises(UsageError, match="^workers='2' is str; it has to be int$"):
        postponed(workers="2")
    with pytest.raises(UsageError, match="^workers=0 is out of range: allowed is 1 or more$"):
        postponed(workers=0)


def test_an_unknown_key_is_refused_with_the_known_ones():
    with pytest.raises(UsageError) as refused:
        config_from_mapping({"pool": "p.jsonl", "treshold": 0.5, "Anchors": 3, 7: "x"}, source="run.yaml")
    assert str(refused.value) == (
        "run.yaml: unknown key 7, Anchors, treshold. Known keys: pool, split, store, run, model, encoder, anchors, "
        "anchor_file, anchor_set, instruction_field, input_field, output_field, profile, threshold, top_k, "
        "top_fraction, racing, shard_size, seed, anchor_tokens, demonstration_tokens, dtype, kv_iter, max_row_bytes, "
        "max_rejected_share, max_bad_candidates, memory_mib, s3_endpoint, devices, workers, executor, "
        "executor_address, stalled_after, trust_remote_code"
    )


@pytest.mark.parametrize("options", [{}, {"pool": None}, {"pool": ""}, {"top_k": 3}])
def test_a_file_without_a_pool_is_refused_by_its_name(options: dict[str, Any]):
    with pytest.raises(UsageError) as refused:
        config_from_mapping(options, source="run.yaml")
    assert str(refused.value) == ("run.yaml: pool is missing: name the file or folder with the examples to choose from")


def test_a_mapping_and_the_config_it_makes_are_the_same():
    config = config_from_mapping({"pool": "p.jsonl", "top_k": 7, "profile": "plain", "seed": 3}, source="run.yaml")
    assert config == CurateConfig(pool="p.jsonl", top_k=7, profile="plain", seed=3)
    assert config_from_mapping(config_as_mapping(config), source="manifest") == config


@pytest.mark.parametrize(("read", "meant"), [(True, "on"), (False, "off"), ("off", "off")])
def test_a_bare_on_or_off_in_yaml_is_accepted(read: object, meant: str):
    assert config_from_mapping({"pool": "p.jsonl", "racing": read}, source="run.yaml").racing == meant


def test_field_names_have_to_be_given_and_distinct():
    assert refusal(output_field="") == "output_field is empty: name a field of the pool's rows, or leave it out"
    assert refusal(instruction_field="q", output_field="q") == (
        "instruction_field='q' and output_field='q' are the same field: name a different one for each text"
    )
    config = CurateConfig(pool="p.jsonl", instruction_field="q", input_field="input", output_field="a")
    assert config.field_names == FieldNames("q", "input", "a")


def test_a_reselection_needs_a_cut():
    with pytest.raises(UsageError) as refused:
        ReselectConfig(run="first")
    assert str(refused.value) == "no cut is given: give threshold, top_k or top_fraction"


def test_the_form_of_curate_has_descriptions_and_bounds():
    properties = TypeAdapter(CurateConfig).json_schema()["properties"]
    assert list(properties) == FIELDS == [item.name for item in fields(CurateConfig)]
    assert {name: shown["description"] for name, shown in properties.items()} == {
        name: field.description for name, field in declared_fields(CurateConfig).items()
    }
    assert all(shown["description"].endswith(".") for shown in properties.values())
    bounds = {}
    for name, shown in properties.items():
        number = next(iter(shown.get("anyOf", [shown])))
        found = {word: number[word] for word in number if "imum" in word}
        if found:
            bounds[name] = found
    assert bounds == {
        "anchors": {"minimum": 1},
        "threshold": {"minimum": 0, "exclusiveMaximum": 1},
        "top_k": {"minimum": 1},
        "top_fraction": {"exclusiveMinimum": 0, "maximum": 1},
        "shard_size": {"minimum": 1},
        "seed": {"minimum": 0, "maximum": 4294967295},
        "anchor_tokens": {"minimum": 2},
        "demonstration_tokens": {"minimum": 1},
        "kv_iter": {"minimum": 1},
        "max_row_bytes": {"minimum": 100},
        "max_rejected_share": {"minimum": 0, "maximum": 1},
        "max_bad_candidates": {"minimum": 0},
        "memory_mib": {"minimum": 16},
        "workers": {"minimum": 1},
        "stalled_after": {"minimum": 1},
    }


def test_the_form_of_reselect_has_descriptions_and_bounds():
    schema = TypeAdapter(ReselectConfig).json_schema()
    assert schema["required"] == ["run"]
    assert schema["properties"]["top_k"] == {
        "anyOf": [{"minimum": 1, "type": "integer"}, {"type": "null"}],
        "default": None,
        "description": "Cut: keep this many of the best.",
        "title": "Top K",
    }
    assert all("description" in shown for shown in schema["properties"].values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": "gpu"}, ("devices='gpu' is not known", "auto, cpu, or numbers")),
        ({"devices": "0,"}, ("devices='0,' is not known",)),
        ({"devices": "-1"}, ("devices='-1' is not known",)),
        ({"executor": "spark"}, ("executor='spark' is not known; allowed: local, dask, ray",)),
        (
            {"executor_address": "tcp://h:1"},
            ("executor_address='tcp://h:1' belongs to executor dask, ray or deployment",),
        ),
        ({"executor": "dask", "devices": "0", "dtype": "float32"}, ("devices=0 belongs to executor local", "dask")),
        ({"executor": "ray"}, ("dtype=auto depends on the machine", "executor ray", "float32, bfloat16 or float16")),
        ({"workers": 0}, ("workers=0 is out of range: allowed is 1 or more",)),
        (
            {"executor": "dask", "dtype": "float32", "executor_address": "tcp://me:secret@host:1"},
            ("holds credentials",),
        ),
    ],
)
def test_devices_and_executors_that_exclude_each_other_are_refused(options: dict[str, Any], words: tuple[str, ...]):
    message = refusal(**options)
    assert all(word in message for word in words) and "secret" not in message
    if options.get("executor") != "ray":  # a run that is there has a number format
        with pytest.raises(UsageError, match=words[0].split("'")[0][:20]):
            ReselectConfig(run="r", top_k=1, **{name: value for name, value in options.items() if name != "dtype"})


def test_devices_and_executors_that_fit_are_accepted():
    assert CurateConfig(pool="p", devices="0,0,3").devices == "0,0,3"
    assert (
        CurateConfig(pool="p", executor="dask", executor_address="tcp://h:1", workers=8, dtype="bfloat16").workers == 8
    )
    assert ReselectConfig(run="r", top_k=1, executor="ray", executor_address="ray://h:1").executor == "ray"
