"""What every command does with an error that the user can mend: one line, exit code 2.

A script reads::

    @hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
    def main(config: DictConfig) -> None:
        run(evaluate_command, config)

    if __name__ == "__main__":
        run(main)

The inner call is for the command's own errors, the outer one for those of the configuration.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from hydra.errors import HydraException, InstantiationException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbing.mounts import locate

P = ParamSpec("P")
T = TypeVar("T")

EXIT_CODE = 2

_LONGEST_NAME = 120  # characters of a run's folder; longer ones end with a digest

# DataError, CheckpointError and the like are ValueErrors.
_MENDABLE = (HydraException, OmegaConfBaseException, ValueError, OSError, ImportError)
_FULL_ERROR = "HYDRA_FULL_ERROR"
_SET_BY_US = "QA_CLI_SET_HYDRA_FULL_ERROR"  # environment, so that DDP's child processes know too


def as_folder(overrides: str) -> str:
    """A run's overrides as the name of one folder, whatever paths are among them."""
    name = overrides.replace("/", "_").replace("\\", "_")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("as_folder", as_folder, replace=True)  # conf/hydra/default.yaml


def run(command: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a command; show a mendable error as ``error: …`` on stderr and exit with code 2.

    With ``HYDRA_FULL_ERROR=1`` in the environment the error is raised as it is.

    Args:
        command: A function decorated by ``hydra.main``, or what it calls.
        *args: Its arguments; in a configuration ``~/`` becomes the home folder, which no shell
            expands behind ``bank.dir=``.
        **kwargs: Its keyword arguments.

    Returns:
        What the command returns.

    Raises:
        SystemExit: Instead of a configuration error, a ``ValueError``, an ``OSError`` or an
            ``ImportError``. Anything else is a bug and keeps its traceback.
    """
    if _FULL_ERROR not in os.environ:
        # Without it Hydra prints errors of the configuration itself, over several lines.
        os.environ |= {_FULL_ERROR: "1", _SET_BY_US: "1"}
    try:
        for config in args:
            if isinstance(config, DictConfig):
                _expand_home(config)
        return command(*args, **kwargs)
    except _MENDABLE as error:
        for config in args:
            if isinstance(config, DictConfig):
                locate(error, OmegaConf.to_container(config, resolve=False))
        if not isinstance(_cause(error), _MENDABLE):
            raise
        if _SET_BY_US not in os.environ and os.environ[_FULL_ERROR] == "1":
            raise
        _exit(error)


def _expand_home(node: DictConfig | ListConfig) -> None:
    keys: Iterable[Any] = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig | ListConfig):
            _expand_home(value)
        elif isinstance(value, str) and value.startswith("~/"):
            node[key] = str(Path(value).expanduser())


def check_complete(config: DictConfig) -> None:
    """Check that every setting that has no default has been given.

    Raises:
        ValueError: Naming those that have not.
    """
    missing = sorted(_missing(OmegaConf.to_container(config, resolve=False)))
    if missing:
        raise ValueError(f"expected a value for {', '.join(missing)}; give {missing[0]}=…")


def _missing(node: Any, key: str = "") -> Iterator[str]:
    """OmegaConf's own search fails at a setting that refers to one without a value."""
    if node == MISSING:
        yield key
    elif isinstance(node, dict):
        for name, part in node.items():
            yield from _missing(part, f"{key}.{name}".lstrip("."))


def one_line(error: BaseException) -> str:
    """Put the message of an error on one line.

    For a failed instantiation it is the message of what failed, and the key of a wrong setting is
    the full key that Hydra names. For a composition that failed, OmegaConf's reason is added, as
    Hydra itself would show it.
    """
    locate(error, {})
    error = _cause(error)
    parts = [str(error)]
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        parts.append(str(error.__cause__).partition("\n")[0])
    message = " ".join(" ".join(parts).split())
    if not message:
        return repr(error)
    named = isinstance(error, (HydraException, OmegaConfBaseException, ValueError, OSError))
    return message if named else f"{type(error).__name__}: {message}"


def _cause(error: BaseException) -> BaseException:
    """What failed, where Hydra built it."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _exit(error: BaseException) -> NoReturn:
    sys.stderr.write(f"error: {one_line(error)}\n")
    raise SystemExit(EXIT_CODE) from error
