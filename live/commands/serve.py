"""``scripts/serve.py``: open a session, and serve it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backbone.model import Backbone
from dmoe.decoding.trigger import ConstantTrigger, FirstTrigger, UncertaintyTrigger
from live.folder import is_kept
from live.server.run import serve
from live.server.settings import ServerSettings
from live.session import KnowledgeSession
from live.settings import SessionSettings
from plumbing.mounts import SettingValueError, mounted
from plumbing.output import show
from retrieval.passage import Passage

_METHODS = {"genpoe.method.GenPoEMethod": "genpoe", "dmoe.method.load_dmoe": "dmoe"}
_KEY = "GENPOE_API_KEY"  # environment


def serve_command(config: DictConfig) -> None:
    """Serve a session until the process is told to stop.

    Args:
        config: Composed from ``conf/serve.yaml``.

    Raises:
        ValueError: If a setting, the data or a folder is at fault.
        OSError: If the address is taken.
    """
    settings = server_settings(config)
    session = open_session(config)
    show(f"{len(session.passages)} passages, {session.backbone.name}")
    serve(session, settings)


def server_settings(config: DictConfig) -> ServerSettings:
    """The settings of the server; the key may be in the environment.

    Raises:
        SettingValueError: If one is mistyped or out of range.
    """
    names = ("host", "port", "max_batch", "max_queue", "drain_seconds")
    values = {name: config[name] for name in names}
    values["api_key"] = config.api_key or os.environ.get(_KEY) or None
    values["max_tokens"] = config.max_new_tokens
    limits: Any = OmegaConf.to_container(config.limits)
    return ServerSettings(**values, **limits)


def open_session(config: DictConfig, backbone: Backbone | None = None) -> KnowledgeSession:
    """Open the session of a configuration, and fill it if it is new.

    Args:
        config: Composed from ``conf/serve.yaml``.
        backbone: The model; None: the one that the configuration names.

    Raises:
        ValueError: If a setting, the data or a folder is at fault.
    """
    method = _method(config)
    given: dict[str, Any] = {"settings": _session_settings(config)}
    if config.passages_dir is not None:
        given["folder"] = Path(config.passages_dir)
    bank_dir = OmegaConf.select(config, "bank.dir")
    if config.ckpt_path is None and method == "genpoe":
        raise SettingValueError(
            "ckpt_path",
            "method=genpoe needs a trained hypernetwork, got none",
            "set {} to a checkpoint of scripts/train_hypernet.py",
        )
    # The data come first, so that what is wrong with them shows before the model is loaded.
    first = _first_passages(config)
    if not is_kept(given.get("folder")):
        _check_room(len(first), config.limits.max_stored)
    given["backbone"] = backbone or instantiate(config.backbone)
    given["reranker"] = instantiate(config.reranker)
    if config.ckpt_path is not None:
        session = KnowledgeSession.from_checkpoint(config.ckpt_path, **given)
    else:
        with mounted("bank"):
            session = KnowledgeSession.from_bank(
                bank_dir, learn=config.learn, surrogates=_surrogates(config), **given
            )
    if not session.was_there:
        session.fill(first.values())
    return session


def _check_room(passages: int, most: int) -> None:
    if passages > most:
        raise SettingValueError(
            "limits.max_stored",
            f"the session holds at most {most} passages, and would begin with {passages}",
            "raise {}, or begin with fewer passages",
        )


def _method(config: DictConfig) -> str:
    chosen = config.method
    method = _METHODS.get(chosen.get("_target_"))
    if method is None:
        raise SettingValueError(
            "method", "only method=genpoe and method=dmoe have experts that can be served"
        )
    unused: dict[str, dict[str, Any]] = {
        "genpoe": {"experts": "own", "codes_dir": None},
        "dmoe": {"control": None, "fraction": 1.0},
    }
    for name, value in unused[method].items():
        if chosen[name] != value:
            raise SettingValueError(
                f"method.{name}", f"{name} changes nothing here, got {chosen[name]}", "leave {} out"
            )
    return method


def _session_settings(config: DictConfig) -> SessionSettings:
    values: dict[str, Any] = {"k": config.k, "temperature": config.session.temperature}
    values["rerank"] = config.session.rerank
    trigger = instantiate(config.trigger) if "trigger" in config else FirstTrigger()
    match trigger:
        case UncertaintyTrigger():
            values |= {"trigger": "uncertainty", "threshold": trigger.threshold}
        case ConstantTrigger(active=True):
            values |= {"trigger": "always"}
        case FirstTrigger():
            values |= {"trigger": "first"}
        case _:
            raise SettingValueError(
                "trigger", "trigger must be uncertainty, first or always here, got another"
            )
    return SessionSettings(**values)


def _first_passages(config: DictConfig) -> Mapping[str, Passage]:
    """The passages of a corpus or a data set with which a new session begins."""
    first: Mapping[str, Passage] = {}
    if config.corpus.path is not None:
        first = instantiate(config.corpus)
    elif config.get("data") is not None:
        first = instantiate(config.data).passages
    return first


def _surrogates(config: DictConfig) -> Mapping[str, Passage] | None:
    if OmegaConf.is_missing(config.router.corpus, "path"):
        return None
    surrogates: Mapping[str, Passage] = instantiate(config.router.corpus)
    return surrogates
