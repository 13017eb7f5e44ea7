"""Parts that a configuration names, and which of their settings is at fault.

Our own classes name the setting that they refuse (`plumbing.mounts`). Other people's do not: they
raise whatever their code comes upon. `build` finds the setting by trying: it is the one without
which the part can be built.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from plumbing.cli.keys import did_you_mean
from plumbing.mounts import SettingValueError

_TARGET = re.compile(r"^Error in call to target '([^']+)'")
_FULL_KEY = re.compile(r"^full_key: (\S+)$", re.MULTILINE)
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r"missing (?:a required|\d+ required [\w-]+) arguments?: (.*)$")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def build(config: DictConfig, key: str, refusals: tuple[type[Exception], ...], **given: Any) -> Any:
    """Build a part whose class does not say which of its settings is wrong.

    Args:
        config: The whole configuration.
        key: Where it has the part's settings, such as ``callbacks.checkpoint``.
        refusals: Exceptions by which the class refuses settings that are wrong together.
        **given: Arguments that are no settings; they replace settings of the same name.

    Raises:
        SettingValueError: If one of the part's own settings is refused; it names the full key.
        InstantiationException: If something else fails.
    """
    section = OmegaConf.select(config, key)
    if not isinstance(section, DictConfig) or "_target_" not in section:
        problem = f"expected a section with a _target_, got {section!r}"
        raise SettingValueError(key, problem, "change {}, or leave it out")
    try:
        return instantiate(section, _convert_="all", **given)
    except InstantiationException as error:
        fault = wrong_argument(error) or _refused(section, key, refusals, given, error)
        if fault is None:
            raise
        raise fault from error


def wrong_argument(error: BaseException) -> SettingValueError | None:
    """The setting that a part does not take or that it lacks, if this is why it was not built.

    Args:
        error: What Hydra raised. Its cause is then a ``TypeError`` of Python's own, and the
            signature of the part shows that no code of the part can be to blame.
    """
    cause = error.__cause__
    target, full_key = _TARGET.search(str(error)), _FULL_KEY.search(str(error))
    if not isinstance(cause, TypeError) or target is None:
        return None
    parameters = inspect.signature(get_object(target[1])).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return None  # its own code hands the settings on, and may be what is wrong
    name, section = target[1].rpartition(".")[2], f"{full_key[1]}." if full_key else ""
    if (unknown := _UNEXPECTED.search(str(cause))) and unknown[1] not in parameters:
        guess = did_you_mean(unknown[1], list(parameters))
        problem = f"{name} does not take the setting {unknown[1]!r}"
        return SettingValueError(f"{section}{unknown[1]}", problem, f"{guess}leave {{}} out")
    if missing := _MISSING.search(str(cause)):
        lacking = next(iter(re.findall(r"'(\w+)'", missing[1])), "")
        if lacking in parameters:
            problem = f"{name} needs a value for {lacking}"
            return SettingValueError(f"{section}{lacking}", problem, "give +{}=…")
    return None


def _refused(
    section: DictConfig,
    key: str,
    refusals: tuple[type[Exception], ...],
    given: Mapping[str, Any],
    error: InstantiationException,
) -> SettingValueError | None:
    """Name the setting without which the part can be built, or is refused for another reason."""
    cause = error.__cause__ or error
    if isinstance(cause, SettingValueError):
        return None
    settings: Any = OmegaConf.to_container(section, resolve=True)
    own = [name for name in settings if not name.startswith("_") and name not in given]
    # What was added on the command line is last, and the first to be suspected.
    for name in reversed(own):
        fewer = {other: value for other, value in settings.items() if other != name}
        if _complaint(fewer, given) != _said(cause):
            class_name = str(settings.get("_target_", key)).rpartition(".")[2]
            return SettingValueError(
                f"{key}.{name}", f"{class_name} refuses {name}={settings[name]!r}: {_reason(cause)}"
            )
    if isinstance(cause, refusals):
        return SettingValueError(key, _reason(cause), "change {}, or what it is built with")
    return None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".!")


def _complaint(settings: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What is said against some settings; "" if the part can be built with them."""
    try:
        instantiate(settings, _convert_="all", **given)
    except InstantiationException as error:
        return _said(error.__cause__ or error)
    return ""


def _said(error: BaseException) -> str:
    return _ADDRESS.sub("", str(error))
