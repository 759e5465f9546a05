"""Fixtures that many test files share, the cost tiers of the tests, and the hypothesis profiles.

A test's tier follows from its fixtures: a test that uses a Prefect server is marked `flow`, one that uses an S3 server
is marked `s3`; all others are unit tests.
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

# Torch reads these when it is imported. One thread per process: the models are tiny, and as many test processes run as
# there are cores. Idle OpenMP threads sleep instead of spinning on a core that another process needs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tiny_models import save_tiny_llama  # noqa: E402

from deployments.local_s3 import LocalS3, free_port  # noqa: E402
from deployments.local_stack import BUCKET, LocalStack  # noqa: E402

if TYPE_CHECKING:
    from orchestrated import Api

    from nuggets.store.store import Store

# No deadline: on a busy machine the duration of an example depends on the machine, not on the code. Tests set no number
# of examples themselves, so that the profile decides: `make slow` runs with --hypothesis-profile=thorough.
for _profile, _examples in {"quick": 20, "thorough": 200}.items():
    settings.register_profile(
        _profile, max_examples=_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("quick")

# A test's tier by the fixture that it uses.
TIERS = {"running_stack": "stack", "prefect_server": "flow", "s3_server": "s3", "mortal_s3": "s3"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its tier. Unit tests run first; with several test processes, the files that take longest."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for tier in {tier for fixture, tier in TIERS.items() if fixture in fixtures}:
            item.add_marker(tier)
    items.sort(key=lambda item: [item.get_closest_marker(tier) is not None for tier in ("stack", "flow", "s3")])
    if hasattr(config, "workerinput"):  # a process of xdist, which takes files in this order as it becomes free
        waits = {path: _waits(path) for path in {item.path for item in items}}
        items.sort(key=lambda item: -waits[item.path])


def _waits(file: Path) -> int:
    """How much a test file waits for other processes: a long one that starts last would keep one core idle."""
    text = file.read_text()
    return sum(name in text for name in ("prefect_server", "s3_server", "subprocess", "WorkerPool"))


EXAMPLES = [
    {"instruction": f"{verb} {what}.", "input": given, "output": answer}
    for verb, what, given, answer in [
        ("Name", "the capital of France", "", "Paris."),
        ("Name", "a prime number above ten", "", "Eleven."),
        ("Add up", "the numbers", "2, 3 and 4", "2 + 3 + 4 = 9."),
        ("Translate", "into German", "good morning", "Guten Morgen."),
        ("Sort", "the words by length", "pear, fig, banana", "fig, pear, banana"),
        ("Explain", "why the sky is blue", "", "Air scatters blue light more than red light."),
        ("Classify", "the mood", "What a lovely day!", "positive"),
        ("Classify", "the mood of this line", "I lost my keys again.", "negative"),
        ("Write", "a short toast", "", "To old friends, and to new ones!"),
        ("Convert", "to metres", "3 km", "3,000 m"),
        ("Spell", "backwards", "stop", "pots"),
        ("List", "three fruits", "", "Apple, pear and plum."),
        ("Give", "a synonym of quick", "", "fast"),
        ("Correct", "the sentence", "He go home.", "He goes home."),
        ("Count", "the vowels", "banana", "There are three vowels."),
        ("Shorten", "the sentence", "It was a very, very cold day.", "It was freezing."),
        ("Find", "the city", "We met in Oslo in May.", "Oslo"),
        ("Name", "the opposite of warm", "", "cold"),
        ("Plan", "a picnic in two steps", "", "Pack food and a blanket. Then find some shade."),
        ("Write", "the number in words", "42", "forty-two"),
    ]
]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run all files that use one server in one test process, so that each server starts once."""
    from xdist.scheduler import LoadFileScheduling

    texts = {path.name: path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
    servers = ("prefect_server", "LocalStack")
    server_of = {file: server for file, text in texts.items() for server in servers if server in text}

    class OneProcessPerServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return server_of.get(Path(file).name, file)

    return OneProcessPerServer(config, log)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    save_tiny_llama(folder)
    return folder


@pytest.fixture
def pool_file(tmp_path: Path) -> Path:
    """A pool of twenty examples as JSONL."""
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in EXAMPLES), encoding="utf-8")
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., CompletedProcess[str]]:
    """Runs a `nuggets` command in this process, and returns what a subprocess would return."""
    from flows.cli.commands import app, run_command

    def run(*arguments: object) -> CompletedProcess[str]:
        command = [str(argument) for argument in arguments]
        capsys.readouterr()
        code = run_command(lambda: app(command))
        return CompletedProcess(command, code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalS3]:
    """A real S3 server with a bucket `pools`; the environment of this and of child processes holds its address."""
    import s3fs

    server = LocalS3(tmp_path_factory.mktemp("s3"), free_port(), secret=f"secret-{uuid.uuid4().hex}")
    server.start()
    before = {name: os.environ.get(name) for name in server.environment()}
    os.environ.update(server.environment())
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("pools")
    yield server
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def anchor_file(tmp_path: Path) -> Path:
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps(EXAMPLES[:8]))
    return path


@pytest.fixture
def address(s3_server: LocalS3, pool_file: Path, anchor_file: Path) -> str:
    """A separate prefix on S3 with a pool and anchors."""
    import s3fs

    prefix = f"pools/{uuid.uuid4()}"
    client = s3fs.S3FileSystem(skip_instance_cache=True, endpoint_url=s3_server.endpoint)
    client.pipe_file(f"{prefix}/pool.jsonl", pool_file.read_bytes())
    client.pipe_file(f"{prefix}/anchors.json", anchor_file.read_bytes())
    return f"s3://{prefix}"


@pytest.fixture
def mortal_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalS3]:
    """A separate server, to be killed."""
    import s3fs
    from s3_jobs import environment

    server = LocalS3(tmp_path / "s3", free_port())
    server.start()
    with environment(server.environment(), monkeypatch):
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("pools")
        yield server
    server.kill()


@pytest.fixture
def quick_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stalls are noticed after half a second, so that a test can afford some."""
    from nuggets.store.file_systems import S3_OPTIONS

    config = S3_OPTIONS["config_kwargs"] | {"connect_timeout": 0.5, "read_timeout": 0.5}
    monkeypatch.setattr("nuggets.store.file_systems.S3_OPTIONS", S3_OPTIONS | {"config_kwargs": config})


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Prefect server with a new database; PREFECT_API_URL holds it for child processes."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect-home"))
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    from flows.cli.local_server import prefect_api

    with temporary_settings({PREFECT_HOME: Path(os.environ["PREFECT_HOME"])}, restore_defaults={PREFECT_API_URL}):
        with prefect_api():
            url = PREFECT_API_URL.value()
            os.environ["PREFECT_API_URL"] = url
            yield url
            del os.environ["PREFECT_API_URL"]


@pytest.fixture(scope="session")
def running_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """All that `make up` starts, once for all modules; tests use the fixture `stack`."""
    stack = LocalStack(tmp_path_factory.mktemp("stack"), free_port(), free_port(), lost_after=75)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="module")
def stack(running_stack: LocalStack) -> Iterator[LocalStack]:
    """All that `make up` starts; the environment holds its addresses during a module's tests."""
    import s3fs

    before = dict(os.environ)
    os.environ.update(running_stack.environment())
    s3fs.S3FileSystem.clear_instance_cache()
    yield running_stack
    os.environ.clear()
    os.environ.update(before)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def api(stack: LocalStack) -> "Api":
    """The stack's server."""
    from orchestrated import Api

    return Api(f"{stack.ui}/api")


@pytest.fixture(scope="module")
def pools(stack: LocalStack) -> dict[str, str]:
    """Addresses on S3 of a small pool, of a pool that takes a minute or more to score in full, and of anchors."""
    import s3fs

    client = s3fs.S3FileSystem()
    many = [{**row, "instruction": f"{row['instruction']} ({number})"} for number in range(60) for row in EXAMPLES]
    for name, rows in {"small": EXAMPLES, "long": many, "anchors": EXAMPLES}.items():
        client.pipe_file(f"{BUCKET}/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    return {name: f"s3://{BUCKET}/{name}.jsonl" for name in ("small", "long", "anchors")}


@pytest.fixture
def store(stack: LocalStack, request: pytest.FixtureRequest) -> "Store":
    """A new store for each test."""
    from nuggets.store.store import Store

    return Store(f"s3://{BUCKET}/{re.sub(r'[^a-z0-9]+', '-', request.node.name).strip('-')}")


@pytest.fixture
def job(pools: dict[str, str], store: "Store", tiny_model: Path) -> dict[str, Any]:
    """Parameters of a run that is long enough to be interrupted."""
    return {
        "pool": pools["long"],
        "anchor_file": pools["anchors"],
        "store": store.url,
        "run": "r",
        "model": str(tiny_model),
        "top_fraction": 0.1,
        "racing": "off",
        "shard_size": 100,
    }
