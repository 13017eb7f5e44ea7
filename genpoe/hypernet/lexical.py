"""Finds the places in a passage whose surroundings have the words of the question.

States from a lower layer say what kind of thing stands somewhere, but not about whom: names that
were never trained on need the words themselves.

Shapes: P passages, S passage tokens, U key width, V vocabulary, D d_model, "..." any positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbone.model import Backbone
from genpoe.hypernet.question import ends_sentence, is_word, spelled


class WordMatch(nn.Module):
    """Keys and queries of words: who stands near the question's words, and what follows a word.

    A word's vector is ``e_t = idf_t · exp(w·Ê_t) · Pᵀ Ê_t / |Pᵀ Ê_t|``, where Ê_t is its embedding
    after centring, with norm 1. A place's lexical key is the sum of the vectors around it: more for
    words that are near, and more for those of the same sentence. The key of what follows a word is
    the vector of the word before, without its weight.

    Args:
        backbone: The frozen model.
        width: U, the width of a word's vector.
    """

    idf: Tensor
    ends: Tensor
    mean: Tensor

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__()
        D = backbone.d_model
        self._backbone = backbone
        self.projection = nn.Parameter(nn.init.orthogonal_(torch.empty(D, width)))
        self.importance = nn.Parameter(torch.zeros(D))
        # The scalars of the kernel: of the word itself, of words to the left and to the right, and
        # of the same sentence; the reach of both sides in tokens, as its logarithm; the strength of
        # the question's words and of the word before.
        self.near = nn.Parameter(torch.tensor([-1.0, 1.0, 0.5, 1.0]))
        self.log_reach = nn.Parameter(torch.tensor([8.0, 8.0]).log())
        self.strength = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.register_buffer("idf", torch.zeros(backbone.vocab_size))
        self.register_buffer("ends", torch.zeros(backbone.vocab_size, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(D))

    def scalars(self) -> list[nn.Parameter]:
        """The kernel's few scalars, which need larger steps than matrices."""
        return [self.near, self.log_reach, self.strength]

    @torch.no_grad()
    def fit(self, frequency_V: Tensor, passages: int) -> None:
        """Weigh the words by how rare they are in passages, from 0 (in all, or no word) to 1.

        Args:
            frequency_V: The number of passages that have each token.
            passages: The number of passages.
        """
        texts = spelled(self._backbone.tokenizer, len(self.idf))
        words = torch.tensor([is_word(text) for text in texts], device=self.idf.device)
        rarity = torch.log((passages + 1) / (frequency_V.to(self.idf) + 1))
        self.idf.copy_(rarity / torch.log(torch.tensor(passages + 1.0)) * words)
        self.ends.copy_(torch.tensor([ends_sentence(text) for text in texts]))
        self.mean.copy_(self._backbone.embedding.weight.float().mean(0))

    def words(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of words ``[...]``, with their weight and without it, both ``[..., U]``."""
        plain, embedded = self._plain(ids)
        weight = self.idf[ids] * torch.exp(embedded @ self.importance)
        return plain * weight[..., None], plain

    def _plain(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of words without their weight, and the embeddings that they are made of."""
        embedded = self._backbone.embedding.weight[ids].to(self.mean.dtype) - self.mean
        embedded = functional.normalize(embedded, dim=-1)
        return functional.normalize(embedded @ self.projection, dim=-1), embedded

    def keys(self, ids_PS: Tensor, mask_PS: Tensor) -> tuple[Tensor, Tensor]:
        """The lexical keys of passages' places, and those of what follows a word: ``[P, S, U]``."""
        weighted_PSU, plain_PSU = self.words(ids_PS)
        inside = mask_PS.to(weighted_PSU.dtype)[..., None]
        place = torch.arange(ids_PS.shape[1], device=ids_PS.device)
        ahead_SS = place[:, None] - place  # how far the column's word stands before the row's
        own, left, right, same = self.near
        reach_left, reach_right = self.log_reach.exp()
        kernel_SS = own * (ahead_SS == 0)
        kernel_SS = kernel_SS + left * torch.exp(-ahead_SS.abs() / reach_left) * (ahead_SS > 0)
        kernel_SS = kernel_SS + right * torch.exp(-ahead_SS.abs() / reach_right) * (ahead_SS < 0)
        sentence_PS = self.ends[ids_PS].long().cumsum(1) - self.ends[ids_PS].long()
        same_PSS = sentence_PS[:, :, None] == sentence_PS[:, None]
        near_PSU = (kernel_SS + same * same_PSS) @ (weighted_PSU * inside)
        before_PSU = functional.pad(plain_PSU[:, :-1], (0, 0, 1, 0))
        return near_PSU, before_PSU

    def about(self, ids_NL: Tensor, question_NTL: Tensor) -> Tensor:
        """The query for lexical keys, with its strength: ``[N, T, U]``.

        Args:
            ids_NL: The tokens so far.
            question_NTL: Which tokens are words of the question, as each position sees it.
        """
        some_L = question_NTL.any(0).any(0)
        weighted_NLU, _ = self.words(ids_NL[:, some_L])
        about_NTU: Tensor = question_NTL[..., some_L].to(weighted_NLU.dtype) @ weighted_NLU
        return about_NTU * self.strength[0]

    def current(self, ids_NT: Tensor) -> Tensor:
        """The query for keys of what follows a word, with its strength: ``[N, T, U]``."""
        return self._plain(ids_NT)[0] * self.strength[1]
