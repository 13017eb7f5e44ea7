"""The frozen language model: loading, decoding, likelihood, its FFNs, and LoRA on it.

* `backbone.model`: the adapter for every family of models; `backbone.loading` makes one.
* `backbone.embedded`: the embedded default weights.
* `backbone.tokens`: token ids of prompts and answers; `backbone.token_tree`: many sequences whose
  shared beginning is computed once.
* `backbone.decoding`: greedy decoding; `backbone.kv_cache`: its KV cache; `backbone.likelihood`:
  the likelihood of an answer.
* `backbone.split`: the decoder, cut below one layer or below its final FFN; `backbone.final_ffn`:
  the final FFN and all that follows it; `backbone.projections`: the linear maps of FFNs.
* `backbone.edits`: changes of weights that can be taken back bit for bit.
* `backbone.lora`: one LoRA adapter on the FFNs or the attention.
"""

from __future__ import annotations

from backbone.loading import load_backbone
from backbone.model import Backbone, UnsupportedBackboneError

__all__ = ["Backbone", "UnsupportedBackboneError", "load_backbone"]
