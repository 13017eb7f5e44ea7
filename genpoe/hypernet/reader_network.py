"""A hypernetwork that reads: an expert finds places in its passage and writes the words there.

Beside the last FFN stands an FFN of one unit for each passage token, with a softmax for the ReLU.
A unit's key is made of a lower layer's states at the token, and of the words around it. Its value
is the direction that writes the word. The query is made of states that decoding has anyway, and of
the question's words. One more unit, the null unit, writes nothing.

Shapes: P passages, S passage tokens, N questions, B expert sets, K experts a set, T tokens, L
tokens so far, M = slots · T, D d_model, H hidden width, U key width, Q a unit's key.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbone.final_ffn import FinalFFN
from backbone.model import Backbone
from backbone.split import SplitBackbone
from genpoe.experts import Around, Experts, GeneratedExperts, Looked, Looks, Site
from genpoe.hypernet.common import CommonExpert
from genpoe.hypernet.copying import copy_loss
from genpoe.hypernet.hypernet import Hypernet, PassageTokens, StartSample
from genpoe.hypernet.lexical import WordMatch
from genpoe.hypernet.question import QuestionWords
from genpoe.hypernet.reader_experts import Query, ReaderCode, ReaderExperts, seen
from genpoe.hypernet.reader_steps import FoldedReader, ReaderInSteps
from genpoe.hypernet.states import dropped, standardize, with_previous
from genpoe.hypernet.words import WordWriter, root_mean_square

if TYPE_CHECKING:
    from genpoe.hypernet.reader import ReaderSettings

_GATE = 8.0  # logits that a word gains at first if all attention is on it
_BATCHES_TO_START = 8  # batches of passages whose states are measured before a training


class ReaderHypernet(Hypernet):
    """Makes an expert of keys and words from each passage.

    * A **key** is ``Linear(LN(Linear([x_j; x_j−1])))`` of the passage's states x at a token and at
      the one before, beside what `WordMatch` adds.
    * The **query** is ``Linear(GELU(Linear([u; h…])))`` of the FFN's input u and of earlier states
      h at the same position.
    * All states are divided by their root mean square, then centred and scaled by statistics of the
      training data.
    * The expert's output is ``g(u) · Σ_j a_j V_j + common(u)``: the attention a, the words' writing
      directions V (`WordWriter`), a gate g in logits, and an expert that is common to all passages.

    All of it stands beside the last FFN, which nothing but the final norm and the head follows.

    Args:
        backbone: The frozen model for which the experts are made.
        settings: The hypernetwork's settings.

    Raises:
        UnsupportedBackboneError: If words cannot be written through the backbone's last layer.
    """

    settings: ReaderSettings
    looks: Looks
    state_mean: Tensor
    state_scale: Tensor
    query_mean: Tensor
    query_scale: Tensor

    def __init__(self, backbone: Backbone, settings: ReaderSettings) -> None:
        super().__init__(backbone, settings)
        self.reads_layer = settings.read_layer
        self._below = SplitBackbone(backbone, settings.read_layer)
        final = FinalFFN(backbone)
        self.looks = Looks(tuple(settings.query_layers), final.pre or final.ffn)
        D, H, U = backbone.d_model, settings.hidden_width, settings.key_width
        sources = 1 + len(settings.query_layers)
        for name, size in (("state", D), ("query", sources * D)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self.key1 = nn.Linear(2 * D, H)
        self.key_norm, self.key2 = nn.LayerNorm(H), nn.Linear(H, U)
        self.query1, self.query2 = nn.Linear(sources * D, H), nn.Linear(H, U)
        self.null, self.gate = nn.Linear(H, 1), nn.Linear(D, 1)
        for linear, bias in ((self.null, 0.0), (self.gate, _GATE)):
            nn.init.zeros_(linear.weight)
            nn.init.constant_(linear.bias, bias)
        matches = settings.lexical or settings.follow
        self.match = WordMatch(backbone, U, settings.follow_words) if matches else None
        if self.match is not None and not settings.lexical:  # DDP wants no unused parameters
            for parameter in (self.match.importance, self.match.near, self.match.log_reach):
                parameter.requires_grad_(False)
        self.writer = WordWriter(final)
        self.common = CommonExpert(D, settings.common_rank)
        self.question = QuestionWords(backbone.tokenizer)
        self.folded: tuple[object, FoldedReader] | None = None  # what `FoldedReader.of` keeps

    @property
    def mixing(self) -> str:
        """How K passages are mixed; see `ReaderSettings`."""
        return self.settings.mixing

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which everything is computed."""
        return self.gate.weight.dtype

    def common_parameters(self) -> list[nn.Parameter]:
        """The parameters of the expert that is common to all passages."""
        return list(self.common.parameters())

    def fast_parameters(self) -> list[tuple[list[nn.Parameter], float]]:
        """The scalars of the units' scores."""
        scalars = self.match.scalars() if self.match is not None else []
        return [(scalars, self.settings.scalar_lr_scale)] if scalars else []

    def common_expert(self) -> Experts:
        """The expert that is added for every passage, without the words of any."""
        return self.common.expert()

    def cast(self, dtype: torch.dtype) -> ReaderHypernet:
        """Stay in float32: there are few parameters, and a softmax needs the precision."""
        return self

    def encode(self, passages: PassageTokens) -> PassageTokens:
        """The passages with their states ``[P, S, D]`` from the lower layers of the backbone."""
        ids, mask = passages.input_ids_PS, passages.attention_mask_PS
        if passages.states_PSD is not None:
            return passages
        return PassageTokens(ids, mask, self._below.below(ids, mask))

    def _states(self, encoded: PassageTokens) -> Tensor:
        states: Any = self.encode(encoded).states_PSD
        return states.to(self.dtype)

    def code(self, encoded: PassageTokens, noise: torch.Generator | None = None) -> ReaderCode:
        """The keys of passages, which are kept with their token ids.

        Args:
            encoded: What `encode` returned.
            noise: Draws the dropout of training; None: no dropout.
        """
        x = self._states(encoded)
        x = (x / root_mean_square(x) - self.state_mean) * self.state_scale
        x = dropped(x, self.settings.dropout, noise)
        keys_PSU = self.key2(self.key_norm(self.key1(with_previous(x))))
        return ReaderCode(keys_PSU, encoded.input_ids_PS, encoded.attention_mask_PS)

    def experts(
        self, code: PassageTokens | ReaderCode, noise: torch.Generator | None = None
    ) -> ReaderExperts:
        """Make an expert for each passage.

        Args:
            code: What `encode` returned, or codes that were kept.
            noise: Draws the dropout of training; None outside training.

        Returns:
            P sets of K = 1 expert.
        """
        kept = code if isinstance(code, ReaderCode) else self.code(code, noise)
        ids_PS, mask_PS = kept.ids_PS, kept.mask_PS
        keys = [kept.keys_PSU]
        if self.match is not None:
            lexical, before = self.match.keys(ids_PS, mask_PS)
            keys += [lexical] * self.settings.lexical + [before] * self.settings.follow
        keys_PSQ, values_PSD = torch.cat(keys, -1), self.writer.values(ids_PS)
        each = (keys_PSQ, values_PSD, ids_PS, mask_PS.bool())
        keys_P1SQ, values_P1SD, ids_P1S, mask_P1S = (tensor[:, None] for tensor in each)
        return ReaderExperts(keys_P1SQ, values_P1SD, ids_P1S, mask_P1S, self, noise)

    def ready(self, experts: GeneratedExperts) -> GeneratedExperts:
        """Experts that do the same, up to rounding, in fewer operations at each token."""
        if not isinstance(experts, ReaderExperts):
            return experts
        return replace(experts, reader=ReaderInSteps(self))

    def query(self, site: Site, noise: torch.Generator | None = None) -> Query:
        """What the experts look for at each position, and how strongly words are written.

        Args:
            site: What is known there.
            noise: Draws the dropout of training; None: no dropout.
        """
        around, _ = seen(site)
        states = [state.to(self.dtype) for state in (site.hidden_NTD, *around.earlier)]
        z = torch.cat([state / root_mean_square(state) for state in states], -1)
        z = (z - self.query_mean) * self.query_scale
        inner = functional.gelu(self.query1(dropped(z, self.settings.dropout, noise)))
        queries = [self.query2(inner) * self.settings.key_width**-0.5]
        queries += self.matched(around, z.shape[1])
        gate = functional.relu(self.gate(z[..., : site.hidden_NTD.shape[-1]]))
        return Query(torch.cat(queries, -1), self.null(inner)[..., 0], gate)

    def matched(self, around: Around, positions: int) -> list[Tensor]:
        """What queries have of words at the last T positions: the question's, and the last ones."""
        found: list[Tensor] = []
        if self.match is not None and self.settings.lexical:
            known = around.asked_NTU
            asked = self.asked(around, positions) if known is None else known
            found += [] if asked is None else [asked]
        if self.match is not None and self.settings.follow:
            found.append(self.match.written(around.ids_NL, around.mask_NL, positions))
        return found

    def asked(self, around: Around, positions: int) -> Tensor | None:
        """What queries have of the question's words at the last T positions: ``[N, T, U]``.

        None, if keys have no words around a place.
        """
        if self.match is None or not self.settings.lexical:
            return None
        question_NTL = self.question.mask(around.ids_NL, around.mask_NL, positions)
        return self.match.about(around.ids_NL, question_NTL)

    def write(self, site: Site, gate_NT1: Tensor, read_NTD: Tensor, total_NT: Tensor) -> Tensor:
        """What is added to the FFN's output.

        Args:
            site: What is known at the FFN.
            gate_NT1: How strongly words are written.
            read_NTD: The sum of the units' values by their weights.
            total_NT: The sum of the relevance of a row's passages: 1, or 0 if it has none.
        """
        _, stream = seen(site)
        stream, output = stream.to(self.dtype), site.output_NTD.to(self.dtype)
        written = self.writer(read_NTD, stream, output)
        common = self.common(site.hidden_NTD.to(self.dtype))
        return gate_NT1 * written + total_NT[..., None] * common

    def extra_loss(
        self,
        experts: GeneratedExperts,
        looked: Looked | None,
        rows_N: Tensor | None,
        targets_NT: Tensor,
        wrong_N: Tensor | None = None,
    ) -> Tensor | None:
        """The copy loss ``[N]``, by its weight; see `genpoe.hypernet.copying.copy_loss`."""
        if not self.settings.copy_loss or looked is None or not isinstance(experts, ReaderExperts):
            return None
        loss_N = copy_loss(looked, experts.ids, experts.mask, rows_N, targets_NT, wrong_N)
        return self.settings.copy_loss * loss_N

    @torch.no_grad()
    def start(self, sample: StartSample) -> None:
        """Measure the states, the words and the FFN on a sample of the training data."""
        batches = list(sample.passages())
        some = batches[:: -(-len(batches) // _BATCHES_TO_START)]
        x_MD = torch.cat([self._states(b)[b.attention_mask_PS.bool()] for b in some])
        standardize(self.state_mean, self.state_scale, x_MD / root_mean_square(x_MD))
        seen = [state.float() for state in sample.seen(self.looks)]
        z_MD = torch.cat([state / root_mean_square(state) for state in seen], -1)
        standardize(self.query_mean, self.query_scale, z_MD)
        self.common.fit(*sample.ffn())
        self.writer.fit()
        if self.match is not None:
            frequency_V = torch.zeros_like(self.match.idf)
            for batch in batches:
                for ids, mask in zip(batch.input_ids_PS, batch.attention_mask_PS, strict=True):
                    frequency_V[ids[mask.bool()].unique()] += 1
            self.match.fit(frequency_V, sum(len(batch.input_ids_PS) for batch in batches))
        self.started.fill_(True)
