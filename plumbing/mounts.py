"""Errors that name a setting, and the commands that say where the setting is mounted.

A class of the library knows its settings by their own names, such as ``index_dir``. The same class
may stand in several places of a configuration: a retriever is at ``retriever`` in one command and
at ``router.retriever`` in another. So the library raises a `SettingValueError` that names the
setting alone, and each layer that the error passes on its way up adds the place that it knows:

* Code that holds one part under a name adds that name by `mounted`.
* Hydra knows the full key of everything that it builds, and says it in its exception.
* A command follows references in its configuration by `locate`: if ``method.router`` is
  ``${router}``, the key to set is ``router.retriever.index_dir``.

In a notebook none of these is there, and the message names the setting as the class does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_FULL_KEY = re.compile(r"^full_key: (\S+)$", re.MULTILINE)  # in Hydra's InstantiationException
_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,[^{}]*)?\}")
_MOUNTED = "_full_key_was_added"  # set on the exceptions whose full key has been added


class SettingValueError(ValueError):
    """A setting has a value that it must not have.

    The text is ``<problem>; <remedy>``, such as "rank must be at least 1, got 0; set rank".

    Args:
        name: The setting, as the class that has it calls it.
        problem: What was expected, and what was given instead.
        remedy: What to do. The key stands in the place of each ``{}``.
    """

    def __init__(self, name: str, problem: str, remedy: str = "set {}") -> None:
        super().__init__(name, problem, remedy)  # these are its arguments when it is pickled
        self.key = name
        self._problem, self._remedy = problem, remedy

    def mount(self, section: str) -> None:
        """Say where in a configuration the object that has the setting stands."""
        if section:
            self.key = f"{section}.{self.key}"

    def __str__(self) -> str:
        return f"{self._problem}; {self._remedy.replace('{}', self.key)}"


@contextmanager
def mounted(section: str) -> Iterator[None]:
    """Add a section to the key of a setting that turns out to be wrong inside the block.

    Args:
        section: The name under which the part that is used inside stands, such as "retriever".
            With "" nothing is added.
    """
    try:
        yield
    except Exception as error:
        if (cause := _setting_error(error)) is not None:
            cause.mount(section)
        raise


def locate(error: BaseException, config: Any) -> None:
    """Complete the key of a wrong setting to the one that is set on the command line.

    Args:
        error: What a command raised. Nothing is done if no wrong setting is behind it.
        config: The command's configuration, a plain mapping in which references are not resolved.
            If it is empty, the key is completed by what Hydra said, and no reference is followed.
    """
    if (cause := _setting_error(error)) is not None:
        cause.key = settable_key(config, cause.key)


def settable_key(config: Any, key: str) -> str:
    """The key that a user sets to change the value at another key.

    Args:
        config: A configuration as a plain mapping in which references are not resolved.
        key: Where the value is used. If it, or a section that it lies in, is a reference such as
            ``${router}``, the reference is followed.
    """
    followed: set[str] = set()
    while key not in followed:
        followed.add(key)
        key = _follow(config, key)
    return key


def _follow(config: Any, key: str) -> str:
    """Follow the first reference on the way to a key, if there is one."""
    node, parts = config, key.split(".")
    for number, part in enumerate(parts, start=1):
        if not isinstance(node, Mapping) or part not in node:
            return key
        node = node[part]
        reference = _REFERENCE.fullmatch(node) if isinstance(node, str) else None
        if reference is not None and _has(config, reference[1]):
            return ".".join([reference[1], *parts[number:]])
    return key


def _has(config: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return False
        config = config[part]
    return True


def _setting_error(error: BaseException) -> SettingValueError | None:
    """The wrong setting behind an error, with the full keys that Hydra named on the way."""
    outer_errors: list[BaseException] = []
    cause: BaseException | None = error
    while not isinstance(cause, SettingValueError):
        if cause is None:
            return None
        outer_errors.append(cause)
        cause = cause.__cause__
    for outer in reversed(outer_errors):
        full_key = _FULL_KEY.search(str(outer))
        if full_key is not None and not hasattr(outer, _MOUNTED):
            cause.mount(full_key[1])
            setattr(outer, _MOUNTED, True)
    return cause
