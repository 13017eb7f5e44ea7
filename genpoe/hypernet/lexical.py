"""Finds the places in a passage whose surroundings have the words of the question.

States from a lower layer say what kind of thing stands somewhere, but not about whom: names that
were never trained on need the words themselves.

Shapes: P passages, S passage tokens, U key width, F words before a place, V vocabulary, D d_model,
N rows, T positions, L tokens so far, "..." any positions.
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
    words that are near, and more for those of the same sentence. The key of what follows words is
    the vectors of the F words before, without their weights.

    Args:
        backbone: The frozen model.
        width: U, the width of a word's vector.
        follows: F, how many words before a place its key has.
    """

    idf: Tensor
    ends: Tensor
    mean: Tensor

    def __init__(self, backbone: Backbone, width: int, follows: int = 1) -> None:
        super().__init__()
        D = backbone.d_model
        self._backbone = backbone
        self.projection = nn.Parameter(nn.init.orthogonal_(torch.empty(D, width)))
        self.importance = nn.Parameter(torch.zeros(D))
        # The scalars of the kernel: of the word itself, of words to the left and to the right, and
        # of the same sentence; the reach of both sides in tokens, as its logarithm; the strength of
        # the question's words, of the word before, and of those before it.
        self.near = nn.Parameter(torch.tensor([-1.0, 1.0, 0.5, 1.0]))
        self.log_reach = nn.Parameter(torch.tensor([8.0, 8.0]).log())
        self.strength = nn.Parameter(torch.tensor([3.0, *(4.0 / 2**m for m in range(follows))]))
        self._follows = follows
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
        embedded = functional.normalize(self._centred(ids), dim=-1)
        weight = self.idf[ids] * torch.exp(embedded @ self.importance)
        plain = functional.normalize(embedded @ self.projection, dim=-1)
        return plain * weight[..., None], plain

    def plain(self, ids: Tensor) -> Tensor:
        """The vectors of words ``[...]`` without their weight: ``[..., U]``."""
        return functional.normalize(self._centred(ids) @ self.projection, dim=-1)

    def _centred(self, ids: Tensor) -> Tensor:
        return self._backbone.embedding.weight[ids].to(self.mean.dtype) - self.mean

    def keys(self, ids_PS: Tensor, mask_PS: Tensor) -> tuple[Tensor, Tensor]:
        """The lexical keys of passages' places, and those of what follows words.

        Returns:
            ``[P, S, U]`` and ``[P, S, F U]``.
        """
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
        S = ids_PS.shape[1]
        before = [
            functional.pad(plain_PSU, (0, 0, back, 0))[:, :S]
            for back in range(1, 1 + self._follows)
        ]
        return near_PSU, torch.cat(before, -1)

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

    def written(self, ids_NL: Tensor, mask_NL: Tensor, positions: int) -> Tensor:
        """The query for keys of what follows words, with its strengths: ``[N, T, F U]``.

        Args:
            ids_NL: The tokens so far. Of those that are left out, nothing is known.
            mask_NL: 1 at tokens, 0 at padding.
            positions: T, the number of the last positions that ask.
        """
        L, more = ids_NL.shape[1], self._follows - 1
        last = min(L, positions + more)  # tokens, from the end
        plain_NLU = self.plain(ids_NL[:, L - last :]) * mask_NL[:, L - last :, None]
        if positions + more > last:
            plain_NLU = functional.pad(plain_NLU, (0, 0, positions + more - last, 0))
        each = [
            plain_NLU[:, more - back :][:, :positions] * self.strength[1 + back]
            for back in range(self._follows)
        ]
        return torch.cat(each, -1) if more else each[0]
