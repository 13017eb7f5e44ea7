"""What a backbone is: hashes of its weights, its settings and its tokenizer.

* `backbone.identity.identity`: the fingerprint that artefacts keep, and what differs from one.
* `backbone.identity.weights`: the hash of all weights, from their files or from memory.
* `backbone.identity.parts`: the hashes of the settings and of the tokenizer.
* `backbone.identity.legacy`: the fingerprint of version 0.1, by which its artefacts still open.
"""

from __future__ import annotations

from backbone.identity.identity import Identity, WeightsIdentity

__all__ = ["Identity", "WeightsIdentity"]
