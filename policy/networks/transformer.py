"""The transformer of Diffusion Policy (Chi et al. 2023, section III.B): actions attend to time and observations.

Shapes: B batch, T steps, E size of a token, H heads, L layers; S tokens of conditioning of size Dc, one per observed
step. The memory of the cross-attention is the token of the time and these S tokens.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend, check_sizes, join_heads, split_heads
from .embedding import Sinusoids

POSITION_STD = 0.3
"""Standard deviation of the initial positions; tokens have about 1."""


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and an MLP, each after a layer norm and beside a skip connection.

    dropout: of the attention weights, of the hidden units, and of the output of each of the three.
    """

    def __init__(self, size: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.query_key_value = nn.Linear(size, 3 * size)
        self.self_output = nn.Linear(size, size)
        self.query = nn.Linear(size, size)
        self.cross_output = nn.Linear(size, size)
        self.expand = nn.Linear(size, 4 * size)
        self.contract = nn.Linear(4 * size, size)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
        """(B, T, E), keys and values of the memory (B, H, 1 + S, E / H) -> (B, T, E).

        visible: the part of the memory that each token sees (T, 1 + S); it sees no later tokens then. None for all.
        """
        dropout = self.dropout if self.training else 0.0
        before_self, before_cross, before_mlp = self.norms
        own = [split_heads(part, self.num_heads) for part in self.query_key_value(before_self(x)).chunk(3, dim=-1)]
        attended = attend(*own, causal=visible is not None, dropout=dropout)
        x = x + self._drop(self.self_output(join_heads(attended)))
        query = split_heads(self.query(before_cross(x)), self.num_heads)
        attended = attend(query, key, value, visible=visible, dropout=dropout)
        x = x + self._drop(self.cross_output(join_heads(attended)))
        hidden = self._drop(F.gelu(self.expand(before_mlp(x))))
        return x + self._drop(self.contract(hidden))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Transformer(nn.Module):
    """Denoises an action chunk of at most `num_steps` steps as a sequence of tokens of `patch` steps each.

    If it is causal, an action sees the earlier actions, the time, the context, and the observations up to its own step;
    the chunk starts at the oldest observed step. Otherwise it sees everything. Only then the network can be the score
    of a chunk: that of an action depends on all noisy actions, also on later ones.

    No layer mixes the tokens of the memory. The keys and values of the conditioning are therefore computed once per
    chunk for all layers, and those of a time once for all steps. One matrix projects for all layers, in their order.

    conditioning_shape: (S, Dc). num_context: the first tokens of conditioning, which are no observed steps. size: E.
    causal: as published. dropout: within the layers. embedding_dropout: of tokens with their positions.

    Raises ValueError if a size is impossible, or if a causal network has patches: an action would see the later ones of
    its token.
    """

    visible: Tensor | None

    def __init__(
        self,
        *,
        action_size: int,
        conditioning_shape: tuple[int, int],
        num_context: int = 0,
        num_steps: int,
        num_layers: int,
        num_heads: int,
        size: int,
        patch: int,
        causal: bool,
        dropout: float,
        embedding_dropout: float,
    ) -> None:
        super().__init__()
        num_tokens, token_size = conditioning_shape
        check_sizes(size, num_heads, num_layers)
        if not (0 <= dropout < 1 and 0 <= embedding_dropout < 1):
            raise ValueError(f"dropouts must be at least 0 and below 1, got {dropout} and {embedding_dropout}")
        if causal and num_tokens - num_context > num_steps:
            raise ValueError(
                f"the {num_tokens - num_context} tokens of conditioning must be among the {num_steps} steps of a "
                "causal chunk: each token is an observed step, which earlier actions do not see"
            )
        if causal and patch > 1:
            raise ValueError(f"patch must be 1 in a causal network, got {patch}: choose causal=false")
        self.num_steps, self.num_heads, self.patch = num_steps, num_heads, patch
        self.action = nn.Linear(patch * action_size, size)
        self.action_positions = nn.Parameter(torch.zeros(math.ceil(num_steps / patch), size))
        self.time = Sinusoids(size)
        self.observation = nn.Linear(token_size, size)
        self.memory_positions = nn.Parameter(torch.zeros(1 + num_tokens, size))
        self.memory = nn.Sequential(nn.Linear(size, 4 * size), nn.Mish(), nn.Linear(4 * size, size))
        self.keys_values = nn.Linear(size, 2 * num_layers * size)
        self.blocks = nn.ModuleList(DecoderBlock(size, num_heads=num_heads, dropout=dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, patch * action_size)
        self.dropout = nn.Dropout(embedding_dropout)
        # The time and the context come first.
        visible = torch.arange(num_steps)[:, None] >= torch.arange(1 + num_tokens) - 1 - num_context
        self.register_buffer("visible", visible if causal else None, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Start with weights that keep the variance of their inputs, so that the output depends on the memory.

        The published initialisation has a standard deviation of 0.02 everywhere, and four such layers lie behind the
        memory. The output then hardly depends on the observation at first, and training spends a few thousand steps on
        that. The 3 L outputs that are added are divided by sqrt(3 L), so their sum does not grow with L.
        """
        for positions in (self.action_positions, self.memory_positions):
            nn.init.normal_(positions, std=POSITION_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        num_added = 3 * len(self.blocks)
        for block in self.blocks:
            for added in (block.self_output, block.cross_output, block.contract):  # type: ignore[union-attr]
                nn.init.normal_(added.weight, std=(num_added * added.in_features) ** -0.5)  # type: ignore[union-attr]

    def forward(self, noisy: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        """Noisy chunk (B, T, Da), times (B,), conditioning (B, S, Dc) -> (B, T, Da)."""
        return self.denoise(noisy, self.embed(t, t), self.condition(conditioning))

    def embed(self, now: Tensor, then: Tensor) -> Tensor:
        """Keys and values of the time in every layer: (N,) -> (N, 2 L, H, 1, E / H)."""
        return self._project(self.time(now)[:, None], self.memory_positions[:1])

    def condition(self, conditioning: Tensor) -> Tensor:
        """Keys and values of the conditioning in every layer: (B, S, Dc) -> (B, 2 L, H, S, E / H)."""
        return self._project(self.observation(conditioning), self.memory_positions[1:])

    def _project(self, tokens: Tensor, positions: Tensor) -> Tensor:
        projected = self.keys_values(self.memory(self.dropout(tokens + positions)))
        return rearrange(projected, "b s (l h e) -> b l h s e", l=2 * len(self.blocks), h=self.num_heads)

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Noisy chunk (B, T, Da), keys and values of the time and of the conditioning -> (B, T, Da).

        Raises ValueError if the chunk has more steps than there are positions.
        """
        num_steps = noisy.shape[1]
        if num_steps > self.num_steps:
            raise ValueError(f"a chunk must have at most the {self.num_steps} steps with a position, got {num_steps}")
        memory = torch.cat([time, condition], dim=3).unbind(1)
        visible = None if self.visible is None else self.visible[:num_steps]
        whole = F.pad(noisy, (0, 0, 0, -num_steps % self.patch))
        tokens = self.action(rearrange(whole, "b (t p) d -> b t (p d)", p=self.patch))
        x = self.dropout(tokens + self.action_positions[: tokens.shape[1]])
        for block, key, value in zip(self.blocks, memory[0::2], memory[1::2], strict=True):
            x = block(x, key, value, visible)
        return rearrange(self.head(self.norm(x)), "b t (p d) -> b (t p) d", p=self.patch)[:, :num_steps]
