"""What the tools say of --framework."""

from __future__ import annotations

from data_plugin.frameworks.framework import Task
from data_plugin.frameworks.registry import frameworks_of


def framework_help(task: Task | None) -> str:
    """The frameworks for a task, or all, and which of them is taken by default; see ``find_framework``."""
    names = ", ".join(framework.name for framework in frameworks_of(task))
    return f"one of {names}; default: the installed one that has the config, by its ending or name, else the first"
