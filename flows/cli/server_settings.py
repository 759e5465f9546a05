"""Whether a Prefect server is configured."""

import os
from pathlib import Path

_SETTING = "PREFECT_API_URL"


def is_server_configured() -> bool:
    """Whether PREFECT_API_URL is set, in the environment, in a file of settings or in the active Prefect profile."""
    if not may_be_configured():
        return False  # without the two seconds that Prefect's settings take to import
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def may_be_configured() -> bool:
    """Whether a variable, or a file from which Prefect reads settings, could name a server."""
    if any(os.environ.get(name) for name in (_SETTING, "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")):
        return True
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    texts = {
        home / "profiles.toml": _SETTING,
        Path("prefect.toml"): "",  # any text
        Path(".env"): "PREFECT_",
        Path("pyproject.toml"): "tool.prefect",
    }
    return any(path.is_file() and text in path.read_text(errors="replace") for path, text in texts.items())
