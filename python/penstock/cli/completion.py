"""`--show-completion` and `--install-completion`: for the shell that is named, else for the one at work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS = ("--show-completion", "--install-completion")
# Typer finds the shell itself or takes its name, not both; so said, it takes the name.
_TAKES_A_NAME = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"


def with_shell(arguments: Sequence[str]) -> list[str]:
    """The arguments of the command line, with the shell's name where completion is asked for without one.

    Raises:
        SettingsError: It is not named, and cannot be found.
    """
    os.environ[_TAKES_A_NAME] = "1"
    if len(arguments) != 1 or arguments[0] not in OPTIONS:
        return list(arguments)
    shell = _shell()
    if not shell:
        from penstock.errors import SettingsError

        raise SettingsError(
            f"{arguments[0]}: which shell is it? None of the processes above this one is a shell that is known, and "
            f"SHELL is not set. Name it: penstock {arguments[0]} bash (or zsh, fish, powershell)"
        )
    return [arguments[0], shell]


def _shell() -> str:
    try:
        # It comes with typer, where typer finds shells itself.
        from shellingham import ShellDetectionFailure, detect_shell  # type: ignore[import-untyped]
    except ImportError:
        return Path(os.environ.get("SHELL", "")).stem
    try:
        return str(detect_shell()[0])
    except ShellDetectionFailure:
        return Path(os.environ.get("SHELL", "")).stem
