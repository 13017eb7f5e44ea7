"""The command line's door: help and errors come at once, the heavy libraries afterwards.

A script reads::

    # Its docstring says what the command does.
    from plumbing.cli import command

    if __name__ == "__main__":
        command("evaluate", "qa.commands.evaluate.evaluate_command", __doc__)

The configuration is composed, and all its keys are known to be good, before the function is
imported that the dotted name stands for. An error that the user can mend takes one line, and the
exit code is 2.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbing.cli.help import help_page
from plumbing.cli.keys import CommandLineError, compose_command, find_fault
from plumbing.cli.parts import wrong_argument
from plumbing.cli.renamed import uses_old_key
from plumbing.cli.values import CONF, as_folder, with_quotes
from plumbing.mounts import locate
from plumbing.quiet import leave_out_chatter

P = ParamSpec("P")
T = TypeVar("T")

EXIT_CODE = 2

# DataError, CheckpointError and the like are ValueErrors.
_CONFIG_ERRORS = (HydraException, OmegaConfBaseException)
_MENDABLE = (*_CONFIG_ERRORS, ValueError, OSError, ImportError)
_FULL_ERROR = "HYDRA_FULL_ERROR"
_SET_BY_US = "GENPOE_SET_HYDRA_FULL_ERROR"  # environment, so that DDP's child processes know too


OmegaConf.register_new_resolver("as_folder", as_folder, replace=True)  # conf/hydra/default.yaml


def command(
    name: str,
    target: str,
    about: str | None,
    *,
    arguments: Sequence[Any] = (),
    with_overrides: bool = False,
    needs: Sequence[str] | None = None,
) -> None:
    """Run the command of a script with the configuration that ``sys.argv`` asks for.

    Where a configuration says what a sweep minimises (``optimized_metric``), and the function
    returns its metrics, the sweep is told that metric.

    Args:
        name: The name of the command's file, without ``.yaml``: the configuration is
            ``conf/<name>.yaml`` and the script ``scripts/<name>.py``.
        target: The dotted name of the function to call with the configuration. It is imported only
            when the configuration is known to be good.
        about: The script's docstring, for ``--help``.
        arguments: What the function is given besides.
        with_overrides: Whether it is also given the list of settings on the command line.
        needs: The sections and settings that must have a value before the function is imported;
            None: all of them.

    Raises:
        SystemExit: After ``--help`` with code 0, after an error that the user can mend with code 2.
    """
    sweeps = not {"-m", "--multirun"}.isdisjoint(sys.argv)
    sys.argv[1:] = [with_quotes(word, sweeps=sweeps) for word in sys.argv[1:]]
    options, others = get_args_parser().parse_known_args()
    settings = [*options.overrides, *(one for one in others if not one.startswith("-"))]
    if options.help:
        run(_help, name, about or "", settings)
        return
    started = False

    def task(config: DictConfig) -> Any:
        nonlocal started
        started = True
        overrides = [list(HydraConfig.get().overrides.task)] if with_overrides else []
        return run(_check_and_call, config, target, [*arguments, *overrides], needs)

    task.__module__ = name  # Hydra names the job and its log after it

    def compose_and_call() -> None:
        _check_options(name, others)
        own = not _searches_elsewhere(options, settings)
        if (
            own
            and uses_old_key(settings)
            and (fault := find_fault(CONF, name, settings, sweeps=True))
        ):
            raise CommandLineError(fault)
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
        except (*_CONFIG_ERRORS, ValueError) as error:
            fault = find_fault(CONF, name, settings, sweeps=sweeps) if own and not started else None
            if fault is None:
                raise
            raise CommandLineError(fault) from error

    run(compose_and_call)


def tool(
    target: str | Callable[[], Any], about: str | None, *, takes_arguments: bool = False
) -> None:
    """Run a script that has no configuration.

    Args:
        target: The function to call, which imports what is heavy itself; or its dotted name, which
            is imported only when it is to run.
        about: The script's docstring: what is printed for ``--help``.
        takes_arguments: Whether the function reads ``sys.argv`` itself; else none may be given.

    Raises:
        SystemExit: With code 2, if arguments are given to a script that takes none.
    """
    if sys.argv[1:2] and sys.argv[1] in ("-h", "--help"):
        sys.stdout.write((about or "").replace("``", "").strip() + "\n")
        return

    def import_and_call() -> None:
        if sys.argv[1:] and not takes_arguments:
            script = f"scripts/{Path(sys.argv[0]).name}"
            raise CommandLineError(f"{script} takes no settings, got {' '.join(sys.argv[1:])}")
        leave_out_chatter()
        (_function(target) if isinstance(target, str) else target)()

    run(import_and_call)


def _check_and_call(
    config: DictConfig, target: str, arguments: Sequence[Any], needs: Sequence[str] | None
) -> Any:
    """Call a command's function; return what a sweep minimises, if it minimises anything."""
    check_complete(config if needs is None else OmegaConf.masked_copy(config, list(needs)))
    # Lightning, imported behind Hydra, would show each message twice: itself, and through the log.
    logging.getLogger("lightning").propagate = False
    leave_out_chatter()
    result = _function(target)(config, *arguments)
    if isinstance(result, Mapping) and "optimized_metric" in config:
        return result.get(config.optimized_metric)
    return None


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def _searches_elsewhere(options: Any, settings: Sequence[str]) -> bool:
    """True if configurations also come from other folders: then Hydra's message is the better one.

    What is wrong with a setting is looked for in our own folder alone.
    """
    folders = (options.config_path, options.config_name, options.config_dir)
    added = (one.lstrip("+").startswith("hydra.searchpath") for one in settings)
    return any(folder is not None for folder in folders) or any(added)


def _help(name: str, about: str, settings: Sequence[str]) -> None:
    try:
        composed = compose_command(CONF, name, settings)
    except (*_CONFIG_ERRORS, ValueError) as error:
        if fault := find_fault(CONF, name, settings):
            raise CommandLineError(fault) from error
        raise
    sys.stdout.write(help_page(CONF, name, about, composed, settings))


def _check_options(name: str, others: Sequence[str]) -> None:
    """Check what Hydra's parser would answer by its usage."""
    if not others:
        return
    if others[0].startswith("-"):
        raise CommandLineError(
            f"scripts/{name}.py has no option {others[0]}; settings are given as KEY=VALUE, and "
            f"python scripts/{name}.py --help lists them"
        )
    raise CommandLineError(
        f"give options such as -m before or behind all settings, not before {others[0]}"
    )


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
    written: list[Any] = []  # as it was composed: building parts of it resolves references
    try:
        for config in args:
            if isinstance(config, DictConfig):
                _expand_home(config)
                written.append(OmegaConf.to_container(config, resolve=False))
        return command(*args, **kwargs)
    except _MENDABLE as error:
        for config in written:
            locate(error, config)
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
        ValueError: If some have none. The message names them.
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
        error = wrong_argument(error) or error.__cause__
    return error


def _exit(error: BaseException) -> NoReturn:
    sys.stderr.write(f"error: {one_line(error)}\n")
    raise SystemExit(EXIT_CODE) from error
