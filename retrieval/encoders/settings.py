"""The settings of the encoders that are built in, by the name of their kind.

A question and a passage each become one vector, and their inner product is the passage's score.
Three kinds of models are built in: ``sentence``, any sentence-transformers model; ``dpr``, DPR's
pair of BERT encoders (Karpukhin et al. 2020), with which GenPoE retrieves; and ``sgpt``, decoders
with position-weighted pooling (Muennighoff 2022), with which DMoE routes in its Table 7. Any other
encoder is named in a configuration by its own ``_target_``; see
`retrieval.encoders.encoder.EncoderMaker`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plumbing.settings import check_choice
from retrieval.encoders.dpr import DPRSettings
from retrieval.encoders.pretrained import PretrainedSettings
from retrieval.encoders.sentence import SentenceSettings
from retrieval.encoders.sgpt import SGPTSettings

KINDS: Mapping[str, type[PretrainedSettings]] = {
    settings.kind: settings for settings in (SentenceSettings, DPRSettings, SGPTSettings)
}


def encoder_settings(kind: str = "sentence", **settings: Any) -> PretrainedSettings:
    """Make the settings of a built-in encoder.

    Args:
        kind: "sentence", "dpr" or "sgpt".
        **settings: The fields of `PretrainedSettings`.

    Raises:
        SettingValueError: If there is no such kind, or a value is mistyped or impossible.
    """
    check_choice("kind", kind, tuple(KINDS))
    return KINDS[kind](**settings)


# The name in configurations that version 0.1 wrote. It goes when their indexes need not open any
# more, and with it the fixture tests/fixtures/old/dense_run.
EncoderSettings = encoder_settings
