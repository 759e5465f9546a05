"""Whether a Prefect server is configured, with and without importing Prefect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.server_settings import may_be_configured

URL = "http://127.0.0.1:4200/api"
PROFILE = f'active = "ours"\n[profiles.ours]\nPREFECT_API_URL = "{URL}"\n'


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, which is Prefect's home as well, and no variable that names a server."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_any_setting_no_server_can_be_configured(bare: Path) -> None:
    (bare / "pyproject.toml").write_text('[project]\nname = "other"\n')
    (bare / ".env").write_text("TOKEN=1\n")
    (bare / "profiles.toml").write_text('active = "ephemeral"\n[profiles.ephemeral]\n')
    assert not may_be_configured()


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"])
def test_a_variable_can_configure_a_server(bare: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert may_be_configured()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("profiles.toml", PROFILE),
        ("prefect.toml", f'[api]\nurl = "{URL}"\n'),
        (".env", f"PREFECT_API_URL={URL}\n"),
        ("pyproject.toml", f'[tool.prefect.api]\nurl = "{URL}"\n'),
    ],
)
def test_a_file_can_configure_a_server(bare: Path, file: str, text: str) -> None:
    (bare / file).write_text(text)
    assert may_be_configured()


@pytest.mark.parametrize(("text", "answer"), [("", "False False"), (PROFILE, "True True")])
def test_prefect_is_imported_only_if_a_server_may_be_configured(bare: Path, text: str, answer: str) -> None:
    (bare / "profiles.toml").write_text(text)
    code = (
        "import sys; from flows.cli.server_settings import is_server_configured; "
        "print(is_server_configured(), 'prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == answer
