"""Keys of the last release and their names in this one: an old key is an error that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Keys of the last release and their names in this one. It is asked only about what a command does
# not know, so that an entry may stand here before its key goes. "old." and "new." with a dot stand
# for all keys below; "group=choice" for one choice of a group; a bare key for that key alone.
RENAMED: Mapping[str, str] = {
    "model=llama2_7b": "backbone=llama2_7b hypernet=paper_7b",
    "model=baichuan2_7b": "backbone=baichuan2_7b hypernet=paper_7b",
    "model": "backbone",
    "model.backbone.": "backbone.",
    "model.cache_frozen": "cache_frozen",
    "method.k": "method.experts",
    **{
        f"model.{key}": f"hypernet.{key}"
        for key in (
            *("rank", "hidden_width", "embedding_scaling", "initialization", "noise", "layer"),
        )
    },
    **{
        f"experiment={name}": f"experiment=genpoe/{name}"
        for name in (
            *("bios", "squad_smollm2", "nq_llama2_7b", "nq_baichuan2_7b"),
            *("triviaqa_llama2_7b", "triviaqa_baichuan2_7b"),
        )
    },
    **{
        f"experiment=dmoe_{name}": f"experiment=dmoe/{name}"
        for name in ("llama3_2_1b", "qwen2_5_1_5b")
    },
}


def new_settings(key: str, value: str, renamed: Mapping[str, str] = RENAMED) -> list[str]:
    """What to give today instead of ``key=value``; empty if the key has not been renamed."""
    if found := renamed.get(f"{key}={value}"):
        return found.split()
    if found := renamed.get(key):
        return [f"{found}={value}"]
    for old, new in renamed.items():
        if old.endswith(".") and key.startswith(old):
            return [f"{new}{key.removeprefix(old)}={value}"]
    return []


def uses_old_key(overrides: Sequence[str], renamed: Mapping[str, str] = RENAMED) -> bool:
    """True if an old key is among those that ``+`` would add without a question."""
    return any(one.startswith("+") and _is_renamed(one.lstrip("+"), renamed) for one in overrides)


def _is_renamed(setting: str, renamed: Mapping[str, str]) -> bool:
    key, _, value = setting.partition("=")
    return bool(new_settings(key, value, renamed))
