"""Types of settings: a mistyped value is named before anything is done with it.

The annotation of a setting says what it may be, and here it is enforced: `check_types` compares the
fields of a class of settings with their annotations, and `typed` does the same for the arguments of
a function that a configuration names. `read_section` makes settings of a section of a composed
configuration.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from plumbing.mounts import SettingValueError, mounted

MAX_SEED = 2**32 - 1  # NumPy's

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")

_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
    NoneType: "null",
}


def check_types(settings: Any, section: str = "") -> None:
    """Check the fields of a dataclass against their annotations.

    Args:
        settings: An instance; call it first in ``__post_init__``.
        section: Where the configuration has the settings, if the caller knows it. A class that can
            be mounted in several places leaves it out; see `plumbing.mounts`.

    Raises:
        SettingValueError: If a value has another type. The message names the setting, what was
            expected and what was given.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        check_fits(field.name, getattr(settings, field.name), hints[field.name], section)


def check_values(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Check values against the annotations of a function that is to take them by their names.

    Names that the function does not have are left to the call.

    Raises:
        SettingValueError: If a value has another type.
    """
    hints = get_type_hints(function)
    for name, value in values.items():
        check_fits(name, value, hints.get(name, Any))


def check_names(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Check that a function that is to take values by their names has all of these names.

    Raises:
        SettingValueError: If it lacks one.
    """
    known = inspect.signature(function).parameters
    unknown = [name for name in values if name not in known]
    if unknown and not any(one.kind is one.VAR_KEYWORD for one in known.values()):
        problem = f"there is no setting {unknown[0]!r} among {', '.join(known)}"
        raise SettingValueError(unknown[0], problem, "leave {} out")


def typed(function: F) -> F:
    """Decorate a function so that each call checks its arguments against their annotations."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_values(function, signature.bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    return cast(F, checked)


def read_section(config: DictConfig, name: str, settings: Callable[..., S]) -> S:
    """Make typed settings of one section of a composed configuration.

    Args:
        config: The configuration.
        name: The section's key, such as ``optim``.
        settings: The class of the settings, or another function that takes them by their names.

    Raises:
        SettingValueError: If a value is mistyped or out of range; it names the full key.
    """
    values: Any = OmegaConf.to_container(config[name], resolve=True)
    with mounted(name):
        check_names(settings, values)
        return settings(**values)


def check_positive(settings: Any, *names: str) -> None:
    """Check that some numbers among the settings of an object are larger than 0.

    Raises:
        SettingValueError: If a number is not positive; the message names the first such setting.
    """
    for name in names:
        if not (value := getattr(settings, name)) > 0:
            raise SettingValueError(name, f"{name} must be positive, got {value}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check that a setting is one of the possible names.

    Raises:
        SettingValueError: If it is not.
    """
    if value not in choices:
        raise SettingValueError(name, f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_seed(seed: Any, key: str = "seed") -> None:
    """Check that random numbers can be drawn from a seed.

    Raises:
        SettingValueError: If they cannot.
    """
    if not _fits(seed, int) or not 0 <= seed <= MAX_SEED:
        raise SettingValueError(key, f"seed must be a whole number in 0 … {MAX_SEED}, got {seed!r}")


def check_limit(limit: Any, key: str = "limit") -> None:
    """Check a limit to how much is taken of something.

    Args:
        limit: The limit; None: all of it.
        key: What the setting is called.

    Raises:
        SettingValueError: If it is neither null nor a positive whole number.
    """
    if limit is not None and (not _fits(limit, int) or limit < 1):
        raise SettingValueError(
            key, f"limit must be a positive whole number or null (all), got {limit!r}"
        )


def check_fits(name: str, value: Any, hint: Any, section: str = "") -> None:
    """Check one value against an annotation.

    Raises:
        SettingValueError: If it has another type.
    """
    if not _fits(value, hint):
        error = SettingValueError(name, f"{name} must be {_described(hint)}, got {value!r}")
        error.mount(section)
        raise error


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(v, inner[1]) for v in value.values())
    if origin is not None and issubclass(origin, Sequence):
        return _is_list(value) and all(_fits(one, inner[0]) for one in value)
    if isinstance(value, bool):
        return hint is bool
    if hint in _NAMES:
        return isinstance(value, (int, float) if hint is float else hint)
    return not (type(value) in _NAMES or _is_list(value))  # settings of its own


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _described(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_described, inner))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is not None and issubclass(origin, Mapping):
        return f"a mapping, each value {_described(inner[1])}"
    if origin is not None and issubclass(origin, Sequence):
        return f"a list, each entry {_described(inner[0])}"
    return _NAMES.get(hint, "a section of settings")
