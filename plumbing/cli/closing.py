"""How every command ends: by saying what it wrote, where, and what to type next.

A command's function ends like this::

    say_written(
        {config.paths.output_dir: ["metrics.json"]},
        [next_command(config, "report", {"runs": [config.paths.output_dir]})],
    )

Files that a run has not made are not named. The next command can be copied as it stands: it carries
the data, the backbone, or whatever else the run was told, where the next command would otherwise
take its own defaults.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbing.cli.keys import compose_command
from plumbing.cli.values import CONF, leaves, shown, typed_value

SCRIPTS = CONF.parent / "scripts"

# Environment variables in which launchers give the rank of a process.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def say_written(
    written: Mapping[str | Path, Sequence[str]],
    following: Iterable[str | None] = (),
    output: TextIO | None = None,
) -> None:
    """Say what a command wrote, where, and what to type next.

    If there are several processes, only the first one says it.

    Args:
        written: By folder, the files in it that may have been written, as paths within the folder.
            A folder without such a list is itself what was written. What is not there is not named.
        following: The commands to type next, in their order; None is left out.
        output: Where to say it; default: standard output.
    """
    if any(os.environ.get(name, "0") != "0" for name in _RANKS):
        return
    lines = []
    for folder, names in written.items():
        there = [name for name in names if Path(folder, name).exists()]
        if there:
            lines.append(f"Wrote {_listed(there)} to {shown(folder)}")
        elif not names and Path(folder).exists():
            lines.append(f"Wrote {shown(folder)}")
    lines += [f"Next: {command}" for command in following if command is not None]
    output = output or sys.stdout
    output.write("".join(f"{line}\n" for line in lines))
    output.flush()


def type_script(name: str, words: Iterable[str | Path]) -> str:
    """The command line that runs a script of ours with these words.

    Python and the scripts' folder are written so that the line can be typed where this process was
    started, and runs in the same environment.
    """
    own = Path(sys.argv[0])
    folder = own.parent if own.resolve().parent == SCRIPTS else Path("scripts")
    return type_shell(_python(), folder / f"{name}.py", *words)


def type_shell(*words: str | Path) -> str:
    """A command line of these words for the shell; paths are written from the current folder."""
    return shlex.join(shown(word) if isinstance(word, Path) else word for word in words)


def _python() -> str:
    """What to type for this Python: its name, or its path where the name means another one."""
    named = shutil.which("python")
    is_this = named is not None and Path(named).absolute() == Path(sys.executable).absolute()
    return "python" if is_this else shown(sys.executable)


def next_command(
    config: DictConfig, script: str, settings: Mapping[str, Any], carry: Sequence[str] = ()
) -> str | None:
    """The command line of a script that continues with the results of this run.

    Args:
        config: The configuration of this run.
        script: The next script's name; its configuration is ``conf/<script>.yaml``.
        settings: What it is told, by key. A `pathlib.Path` is written from the current folder.
        carry: Sections, such as ``data``, that must be the same in both. A choice is given where it
            is not the next command's default, and so is each setting that this run was told. The
            folder of caches comes with any of them.

    Returns:
        The command line; None if this is not a run that Hydra has composed, since nobody then
        typed a command.
    """
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    words = [_override(key, value) for key, value in settings.items()]
    search = list(map(str, hydra.searchpath or ()))
    if search:
        words.append(_override("hydra.searchpath", search))
    try:
        carried = [*_choices(hydra, script, words, settings, carry)]
        carried += _told(
            config, str(hydra.job.config_name), hydra, script, [*words, *carried], carry
        )
    except (HydraException, OmegaConfBaseException):
        return None  # a configuration of the user's own, about which nothing is known
    line = type_script(script, [*words, *carried])
    path = os.environ.get("PYTHONPATH") if search else None  # where the user's own classes are
    return f"PYTHONPATH={shlex.quote(path)} {line}" if path else line


def _choices(
    hydra: Any, script: str, words: Sequence[str], settings: Mapping[str, Any], carry: Sequence[str]
) -> Iterator[str]:
    """The groups whose choice differs from the next command's default."""
    default = compose_command(CONF, script, words).choices
    for group in carry:
        choice = hydra.runtime.choices.get(group)
        if group in default and group not in settings and choice not in (None, default[group]):
            yield _override(group, choice)


def _told(
    config: DictConfig,
    own: str,
    hydra: Any,
    script: str,
    words: Sequence[str],
    carry: Sequence[str],
) -> Iterator[str]:
    """The settings that this run was told and that the next command would have otherwise."""
    chosen = {group: hydra.runtime.choices.get(group) for group in carry}
    ours = [f"{group}={choice}" for group, choice in chosen.items() if choice is not None]
    ours += [word for word in words if word.startswith("hydra.searchpath=")]
    if "experiment" in hydra.runtime.choices:  # what it sets is no default of the command
        ours.append("~experiment")
    own_defaults = leaves(compose_command(CONF, own, ours).config)
    theirs = leaves(compose_command(CONF, script, words).config)
    given = {word.lstrip("+").partition("=")[0] for word in words}
    for key, raw in leaves(config).items():
        is_carried = key.partition(".")[0] in carry or (key == "paths.cache_dir" and carry)
        if key in given or not is_carried or not _has_section(theirs, key):
            continue
        if raw in (MISSING, own_defaults.get(key, MISSING), theirs.get(key, MISSING)):
            continue
        sign = "" if key in theirs else "+"
        yield _override(f"{sign}{key}", _plain(config, key))


def _has_section(leaves: Mapping[str, Any], key: str) -> bool:
    section = key.partition(".")[0]
    return any(each.partition(".")[0] == section for each in leaves)


def _plain(config: DictConfig, key: str) -> Any:
    """A setting's value, with its references resolved."""
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _override(key: str, value: Any) -> str:
    return f"{key}={typed_value(value)}"


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
