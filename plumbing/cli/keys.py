"""Which settings a command has, and what is wrong with the ones that were given.

Hydra says what it could not do; here it is said in the words of somebody who has mistyped a
setting: the name that was meant, the choices that there are, the new name of an old key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbing.cli.comments import read_comments
from plumbing.cli.renamed import RENAMED, new_settings
from plumbing.cli.values import typed_word

_COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError)


class CommandLineError(ValueError):
    """A setting on the command line that the command does not have."""


@dataclass(frozen=True)
class Composition:
    """A command's configuration with the overrides that were given.

    Attributes:
        config: The configuration, with Hydra's own part under ``hydra``.
        defaults: The files that it consists of, in the order in which they were merged.
        choices: The groups by the keys that select their options; Hydra's own are left out. The
            choice is None where nothing is chosen, and ``???`` where something must be.
        options: The options of each of these groups.
    """

    config: DictConfig
    defaults: Sequence[ResultDefault]
    choices: Mapping[str, str | None]
    options: Mapping[str, Sequence[str]]

    @property
    def keys(self) -> list[str]:
        """All settings, sections included, as they are given on a command line."""
        content = OmegaConf.to_container(self.config, resolve=False)
        return [key for key in _keys(content) if key.partition(".")[0] != "hydra"]

    @property
    def hydra_keys(self) -> list[str]:
        """Hydra's own settings."""
        content = OmegaConf.to_container(self.config.hydra, resolve=False)
        return list(_keys(content, "hydra."))


def compose_command(conf: Path, name: str, overrides: Sequence[str]) -> Composition:
    """Compose a command's configuration, as far as its groups have been chosen.

    Args:
        conf: The folder of all configurations.
        name: The name of the command's file, without ``.yaml``.
        overrides: The settings of the command line; sweeps are left out.

    Raises:
        HydraException: If an override does not fit; `find_fault` says in plain words which.
    """
    with _config_loader(conf) as loader:
        return _compose(loader, name, overrides)


def find_fault(
    conf: Path,
    name: str,
    overrides: Sequence[str],
    renamed: Mapping[str, str] = RENAMED,
    *,
    sweeps: bool = False,
) -> str | None:
    """Say what is wrong with the first setting at fault.

    Args:
        conf: The folder of all configurations.
        name: The name of the command's file, without ``.yaml``.
        overrides: The settings of the command line, sweeps included.
        renamed: Old keys and their new names, in the form of `RENAMED`.
        sweeps: Whether sweeps are run (``-m``).

    Returns:
        One line, or None if the fault is not one of those that are looked for here.
    """
    with _config_loader(conf) as loader:
        parser = OverridesParser.create(loader)
        parsed: list[Override] = []
        for text in overrides:
            try:
                parsed.append(parser.parse_override(text))
            except HydraException as error:
                return _malformed(text, error)
            parsed[-1].config_loader = loader
        groups = [one for one in parsed if any(_options(loader, one.key_or_group))]
        fitting, others = _fitting(loader, name, groups)
        composed = _compose(loader, name, fitting)
        for one in parsed:
            if one in others:
                return _unfit_choice(conf, loader, composed, name, one, renamed)
            if one not in groups and not _is_known(composed, one, renamed):
                return _unknown_key(conf, composed, name, one, renamed)
            if one.is_sweep_override() and not sweeps:
                key, value = _split(str(one.input_line))
                return (
                    f"expected one value for {key}, got {value}; give {key}=[{value}] if it is a "
                    f"list, {typed_word(key, value)} if it is a text, or -m to run once for each "
                    "value"
                )
        missing = [key for key, choice in composed.choices.items() if choice == MISSING]
        if missing:
            options = composed.options[missing[0]]
            return (
                f"expected a choice for {missing[0]}: {', '.join(options)}; "
                f"give {missing[0]}={options[0]} or another of them"
            )
    return None


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The known words that are closest, as a question; empty if none is close."""
    last = word.rpartition(".")[2]
    same = [one for one in known if one.rpartition(".")[2] == last]
    near = get_close_matches(word, known, n=3, cutoff=0.75)
    lasts = {one.rpartition(".")[2] for one in known}
    for each in get_close_matches(last, lasts, n=2, cutoff=0.75):
        near += [one for one in known if one.rpartition(".")[2] == each]
    found = list(dict.fromkeys([*same, *near]))[:3]
    return f"did you mean {' or '.join(found)}? " if found else ""


@contextmanager
def _config_loader(conf: Path) -> Iterator[ConfigLoader]:
    hydra = GlobalHydra.instance()
    running = hydra.hydra  # of the command, where one is running
    hydra.clear()
    try:
        with initialize_config_dir(str(conf), job_name="app", version_base="1.3"):
            yield hydra.config_loader()
    finally:
        GlobalHydra.instance().hydra = running  # the one above is a copy's original by now


def _compose(loader: ConfigLoader, name: str, overrides: Sequence[str]) -> Composition:
    # As for a sweep: groups without a choice are left out, and so are the values of sweeps.
    given = list(overrides)
    defaults = loader.compute_defaults_list(name, given, RunMode.MULTIRUN)
    known = {
        key: choice
        for key, choice in reversed(defaults.overrides.known_choices.items())
        if key.partition("/")[0] not in ("hydra", "hydra@hydra")
    }
    return Composition(
        loader.load_configuration(name, given, RunMode.MULTIRUN, from_shell=False),
        [one for one in defaults.defaults if not (one.config_path or "").startswith("hydra/")],
        known,
        {key: list(_options(loader, key.partition("@")[0])) for key in known},
    )


def _options(loader: ConfigLoader, group: str) -> Iterator[str]:
    """The options of a group, those in folders below it as ``folder/option``."""
    yield from loader.get_group_options(group, ObjectType.CONFIG)
    for below in loader.list_groups(group):
        for option in _options(loader, f"{group}/{below}"):
            yield f"{below}/{option}"


def _fitting(
    loader: ConfigLoader, name: str, groups: Sequence[Override]
) -> tuple[list[str], list[Override]]:
    """The choices of groups that the command can compose, and those that it cannot.

    One choice may bring the group of another one along, wherever it stands in the command line. Of
    a sweep the first choice is taken if all fit.
    """
    fitting: list[str] = []
    others = list(groups)
    while others:
        for one in others:
            texts = _each_choice(one)
            if all(_fits(loader, name, [*fitting, text]) for text in texts):
                fitting.append(texts[0])
                others.remove(one)
                break
        else:
            break
    return fitting, others


def _fits(loader: ConfigLoader, name: str, choices: Sequence[str]) -> bool:
    try:
        loader.compute_defaults_list(name, list(choices), RunMode.MULTIRUN)
    except _COMPOSITION_ERRORS:
        return False
    return True


def _each_choice(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={value}" for value in _values(override)]


def _is_known(composed: Composition, override: Override, renamed: Mapping[str, str]) -> bool:
    if override.is_add() or override.is_force_add():
        return not _renamed(composed, override, renamed)
    return _has(composed, override.key_or_group)


def _has(composed: Composition, key: str) -> bool:
    node: Any = OmegaConf.to_container(composed.config, resolve=False)
    for part in key.split("."):
        if not isinstance(node, dict):
            # Interpolations and lists are looked into when their values are asked for.
            return isinstance(node, str | list)
        if part not in node:
            return False
        node = node[part]
    return True


def _renamed(composed: Composition, override: Override, renamed: Mapping[str, str]) -> str | None:
    """What to give instead of a setting that the last release had; None if it had none."""
    key, value = _split(str(override.input_line).lstrip("+~"))
    adds = override.is_add() or override.is_force_add()
    if _has(composed, key.partition(".")[0]) and adds:
        return None
    sign = str(override.input_line).partition(key)[0]
    found = []
    for setting in new_settings(key, value, renamed):
        new, _, choice = setting.partition("=")
        has = _has(composed, new.partition(".")[0] if adds else new)
        if choice in composed.options.get(new, [choice]) and (has or new in composed.choices):
            found.append(setting if _has(composed, new) else f"{sign}{setting}")
    if not found:
        return None
    return f"{key} has been renamed; give {' '.join(found)} instead of {override.input_line}"


def _unfit_choice(
    conf: Path,
    loader: ConfigLoader,
    composed: Composition,
    name: str,
    override: Override,
    renamed: Mapping[str, str],
) -> str | None:
    if found := _renamed(composed, override, renamed):
        return found
    key = override.get_key_element().lstrip("+~")
    if key not in composed.choices and not override.is_add():
        return _no_setting(conf, composed, name, key)
    known = list(_options(loader, override.key_or_group))
    for value in _values(override):
        if value not in known:
            guess = did_you_mean(value, known)
            return f"{key} has no choice {value!r}; {guess}there are {', '.join(known)}"
    return None


def _unknown_key(
    conf: Path,
    composed: Composition,
    name: str,
    override: Override,
    renamed: Mapping[str, str],
) -> str:
    if found := _renamed(composed, override, renamed):
        return found
    return _no_setting(conf, composed, name, override.key_or_group)


def _no_setting(conf: Path, composed: Composition, name: str, key: str) -> str:
    start = f"scripts/{name}.py has no setting {key!r}"
    if found := ", ".join(_choices_with(conf, composed, key)):
        return f"{start} as it is composed; it comes with {found}; {_list_all(name)}"
    known = composed.keys if key.partition(".")[0] != "hydra" else composed.hydra_keys
    return f"{start}; {did_you_mean(key, [*known, *composed.choices])}{_list_all(name)}"


def _choices_with(conf: Path, composed: Composition, key: str) -> Iterator[str]:
    """The choices that would bring a setting along."""
    section = re.compile(rf"^ *- /?{re.escape(key.partition('.')[0])}\b", re.MULTILINE)
    for group, options in composed.options.items():
        folder, _, package = group.partition("@")
        for option in options:
            path = conf / folder / f"{option}.yaml"
            if not path.is_file():
                continue
            text = path.read_text(encoding="utf-8")
            comments = read_comments(text)
            prefix = "" if comments.is_global else f"{package or folder}."
            if key in (f"{prefix}{own}" for own in comments.order) or (
                comments.is_global and section.search(text)
            ):
                yield f"{group}={option}"


def _list_all(name: str) -> str:
    return f"python scripts/{name}.py --help lists all settings"


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(each) for each in override.sweep_string_iterator()]
    value = override.value()
    values = value if isinstance(value, list) else [value]
    return ["null" if each is None else str(each) for each in values]


def _malformed(text: str, error: HydraException) -> str:
    if "=" not in text:
        return f"expected KEY=VALUE, got {text!r}; give {text}=…"
    key, value = _split(text)
    reason = " ".join(str(error).split())
    return (
        f"cannot read the value of {key}, got {value!r} ({reason}); close its brackets and quotes, "
        f"or, if it is a path or another text, put it into quotes twice: {typed_word(key, value)}"
    )


def _split(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, part in node.items():
            if not str(name).startswith("_"):
                yield f"{prefix}{name}"
                yield from _keys(part, f"{prefix}{name}.")
