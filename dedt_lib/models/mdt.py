"""Masked Diffusion Transformer, version 2 (Gao et al., 2023): class-conditional diffusion on latents.

Every training step uses each image twice: once whole, and once with 30 to 50 % of its tokens hidden from the
encoder, so that the network has to infer parts from their surroundings.

A profile can choose the optimiser and the fixed mask ratio of version 1 (``mdt.optimizer = "adamw"``,
``mdt.mask_range = 0``).  The decoder of two plain blocks and the unweighted loss of version 1 are not
implemented.
"""

import math
from functools import partial

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed, get_timestep_embedding
from timm.layers import Attention, Mlp, PatchEmbed, gen_relative_position_index
from torch import Tensor, nn

from ..errors import DedtError
from ..randomness import torch_generator
from .batch import Batch
from .schedule import NoiseSchedule, power_cosine

FREQUENCIES = 256  # size of the sinusoidal timestep embedding
GUIDED_CHANNELS = 3
"""Latent channels to which guidance applies.  The code that MDT derives from guided three, the colours of a
pixel; the published numbers were sampled with the fourth latent channel unguided."""


class RelativePositionBias(nn.Module):
    """A learned attention bias for each head and offset between two tokens (BEiT; Bao et al., 2022)."""

    def __init__(self, side: int, num_heads: int) -> None:
        super().__init__()
        # The last three rows are for a class token; MDT has none, but its public checkpoints contain them.
        rows = (2 * side - 1) ** 2 + 3
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, offsets: Tensor) -> Tensor:
        """Bias float [b, heads, n, n]; ``offsets`` int64 [b, n, n]: the table row of each pair of tokens."""
        b, n, _ = offsets.shape
        table = self.relative_position_bias_table.T.expand(b, -1, -1)
        rows = offsets.view(b, 1, n * n).expand(-1, table.shape[1], -1)
        # Gathering from the small table keeps the gradient small; from all pairs it would be n^2 per sample.
        return table.gather(2, rows).view(b, -1, n, n)


class BiasedAttention(Attention):
    """timm's self-attention with a relative position bias."""

    def __init__(self, width: int, num_heads: int, side: int) -> None:
        super().__init__(width, num_heads, qkv_bias=True)
        self.rel_pos_bias = RelativePositionBias(side, num_heads)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """Tokens float [b, n, width] to the same shape; ``offsets`` as in RelativePositionBias."""
        return super().forward(x, attn_mask=self.rel_pos_bias(offsets))


class Block(nn.Module):
    """A transformer block with adaLN-Zero conditioning (DiT; Peebles & Xie, 2023).

    ``skip`` says whether a second sequence is merged into the input, as in a U-Net.
    """

    def __init__(self, width: int, num_heads: int, side: int, skip: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = BiasedAttention(width, num_heads, side)
        self.mlp = Mlp(width, 4 * width, act_layer=partial(nn.GELU, approximate="tanh"))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.skip_linear = nn.Linear(2 * width, width) if skip else None

    def forward(self, x: Tensor, condition: Tensor, offsets: Tensor, skip: Tensor | None = None) -> Tensor:
        """x, skip and result: float [b, n, width]; condition: [b, width]; offsets: int64 [b or 1, n, n]."""
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        modulation = self.adaLN_modulation(condition).unsqueeze(1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=-1)
        x = x + gate * self.attn(self.norm(x) * (1 + scale) + shift, offsets)
        return x + mlp_gate * self.mlp(self.norm(x) * (1 + mlp_scale) + mlp_shift)


class FinalLayer(nn.Module):
    """Output layer that maps each token to the values of its patch."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, values)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens float [b, n, width] with condition [b, width] to values [b, n, values]."""
        shift, scale = self.adaLN_modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


def variational_bits(
    schedule: NoiseSchedule, images: Tensor, t: Tensor, error: Tensor, fraction: Tensor
) -> Tensor:
    """Term t of the variational bound in bits per element: float [b] (Nichol & Dhariwal, 2021).

    For t > 0 the term is KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), for t = 0 the discretised
    -log p(x_0 | x_1).

    Args:
        schedule: The noise schedule.
        images: x_0, float [b, C, H, W].
        t: Timesteps, int64 [b].
        error: eps_theta - eps, float [b, C, H, W].
        fraction: The network's variance output, float [b, C, H, W]: it interpolates on a logarithmic scale
            between the variance of the posterior (-1) and beta (1).
    """
    reach, log_beta, log_posterior = schedule(t, "reach", "log_beta", "log_posterior")
    log_variance = log_posterior + (fraction + 1) / 2 * (log_beta - log_posterior)
    distance = reach * error
    ratio, square = (log_posterior - log_variance).exp(), distance.square() * (-log_variance).exp()
    divergence = 0.5 * (log_variance - log_posterior - 1 + ratio + square)
    likelihood = discretised_log_likelihood(images, distance, log_variance / 2)
    nats = torch.where(t.view(-1, 1, 1, 1) == 0, -likelihood, divergence)
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


def discretised_log_likelihood(images: Tensor, distance: Tensor, log_deviation: Tensor) -> Tensor:
    """Logarithm of the mass of a Gaussian in the bin around each value, of the same shape as the arguments.

    The bins are those of 256 grey levels in [-1, 1], with the outer two open.  Latents have no grey levels
    and leave [-1, 1], but MDT is trained with this formula.

    Args:
        images: The values.
        distance: Each value minus the mean of its Gaussian.
        log_deviation: Logarithm of the standard deviation of each Gaussian.
    """

    def below(x):
        """The normal cumulative distribution function, by the tanh approximation of the reference."""
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    precision = (-log_deviation).exp()
    upper = below(precision * (distance + 1 / 255))
    lower = below(precision * (distance - 1 / 255))
    mass = torch.where(images < -0.999, upper, torch.where(images > 0.999, 1 - lower, upper - lower))
    return mass.clamp(min=1e-12).log()


class MDTv2(nn.Module):
    """MDTv2 with the parameter names of the public checkpoints; size S/2 is the default.

    Args:
        input_size, in_channels: Side and channels of the latents.
        patch_size: Side of the square of latents that makes one token.
        hidden_size, num_heads: Width and attention heads of each block.
        depth, decode_layer: Number of blocks in all, and in the decoder.  The others form the encoder, whose
            second half has skip connections from the first.
        num_classes: Number of classes K; label K is the null label.
        class_dropout_prob: Probability that the masked pass hides the label.
        learn_sigma: Whether the variance is learned.
        mask_ratio, mask_range: The share of hidden tokens is drawn from [mask_ratio, mask_ratio + mask_range]
            at every step; in MDT's first version the range is 0.

    Raises:
        DedtError: The sizes do not fit together.
    """

    def __init__(
        self,
        *,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        num_classes: int = 1000,
        class_dropout_prob: float = 0.1,
        learn_sigma: bool = True,
        mask_ratio: float = 0.3,
        mask_range: float = 0.2,
        decode_layer: int = 6,
    ) -> None:
        super().__init__()
        side = input_size // patch_size
        self.tokens = side**2
        self.null_label = num_classes
        self.sample_shape = (in_channels, input_size, input_size)
        self.class_dropout_prob, self.learn_sigma = class_dropout_prob, learn_sigma
        self.mask_ratio, self.mask_range = mask_ratio, mask_range
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth, decode_layer)
        if not 0 <= mask_ratio <= mask_ratio + mask_range <= 1 - 1 / self.tokens:
            raise DedtError(
                f"MDT cannot mask a share of {mask_ratio} to {mask_ratio + mask_range} of {self.tokens} "
                "tokens. Choose mask_ratio >= 0 and mask_range >= 0 that leave at least one token visible."
            )

        def blocks(count, skip=False):
            return nn.ModuleList(Block(hidden_size, num_heads, side, skip) for _ in range(count))

        half = (depth - decode_layer) // 2
        self.x_embedder = PatchEmbed(input_size, patch_size, in_channels, hidden_size)
        layers = nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        self.t_embedder = nn.ModuleDict({"mlp": nn.Sequential(*layers)})
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(num_classes + 1, hidden_size)})
        self.pos_embed = nn.Parameter(torch.empty(1, self.tokens, hidden_size))
        self.decoder_pos_embed = nn.Parameter(torch.empty(1, self.tokens, hidden_size))
        self.mask_token = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.en_inblocks = blocks(half)
        self.en_outblocks = blocks(half, skip=True)
        self.sideblocks = blocks(1)
        self.de_blocks = blocks(decode_layer, skip=True)
        values = patch_size**2 * in_channels * (2 if learn_sigma else 1)
        self.final_layer = FinalLayer(hidden_size, values)
        self.schedule = NoiseSchedule()
        offsets = gen_relative_position_index((side, side)).unsqueeze(0)
        self.register_buffer("offsets", offsets, persistent=False)
        self._initialise(side)

    @torch.no_grad()
    def _initialise(self, side):
        """Initialise as published: sinusoidal positions, blocks that start as the identity, output zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        sines = torch.as_tensor(get_2d_sincos_pos_embed(self.pos_embed.shape[-1], side, base_size=side))
        self.pos_embed.copy_(sines)
        self.decoder_pos_embed.copy_(sines)
        time, classes = self.t_embedder["mlp"], self.y_embedder["embedding_table"]
        for weight in (time[0].weight, time[2].weight, classes.weight, self.mask_token):
            nn.init.normal_(weight, std=0.02)
        for layer in self.modules():
            if isinstance(layer, (Block, FinalLayer)):
                nn.init.zeros_(layer.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def load_reference_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the weights of a public MDTv2 checkpoint, by parameter name.

        Raises:
            DedtError: Names or shapes do not fit.
        """
        state = {name: value for name, value in state.items() if not name.endswith("relative_position_index")}
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise DedtError(
                f"These weights belong to another network ({first} ...). Choose the sizes of the "
                "network they were trained with."
            ) from error

    def compile_network(self) -> None:
        """Compile the network in place; its parameter names do not change."""
        self.compile()

    # ---- the network -------------------------------------------------------------------------------

    def forward(self, x: Tensor, t: Tensor, y: Tensor, kept: Tensor | None = None) -> Tensor:
        """Noise estimate and variance output: float [b, 2C, H, W], or [b, C, H, W] without ``learn_sigma``.

        Args:
            x: Noisy latents, float [b, C, H, W].
            t: Timesteps, int [b] in 0..999.
            y: Labels, int64 [b].
            kept: None for the unmasked pass; else int64 [b, m], indices of the tokens that the encoder sees.
        """
        tokens = self.x_embedder(x) + self.pos_embed
        frequencies = get_timestep_embedding(t, FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        condition = self.t_embedder["mlp"](frequencies) + self.y_embedder["embedding_table"](y)
        if kept is None:
            decoded = self._encode(tokens, condition, self.offsets) + self.decoder_pos_embed
        else:
            places = kept.unsqueeze(-1)
            visible = tokens.gather(1, places.expand(-1, -1, tokens.shape[-1]))
            offsets = self.offsets[0][places, kept.unsqueeze(1)]
            decoded = self._interpolate(self._encode(visible, condition, offsets), condition, places)
        for block in self.de_blocks:
            decoded = block(decoded, condition, self.offsets, skip=tokens)
        return self._unpatchify(self.final_layer(decoded, condition)).float()

    def _encode(self, tokens, condition, offsets):
        skips = []
        for block in self.en_inblocks:
            tokens = block(tokens, condition, offsets)
            skips.append(tokens)
        for block in self.en_outblocks:
            tokens = block(tokens, condition, offsets, skip=skips.pop())
        return tokens

    def _interpolate(self, visible, condition, places):
        """All tokens in order: visible ones plus their position, hidden ones predicted by the side block."""
        b, _, width = visible.shape
        blank = self.mask_token.to(visible.dtype).expand(b, self.tokens, width)
        known = blank.scatter(1, places.expand_as(visible), visible) + self.decoder_pos_embed
        hidden = torch.ones(b, self.tokens, 1, dtype=torch.bool, device=places.device)
        hidden = hidden.scatter(1, places, False)
        return torch.where(hidden, self.sideblocks[0](known, condition, self.offsets), known)

    def _unpatchify(self, patches):
        """Patches float [b, tokens, p * p * channels] to images [b, channels, H, W]."""
        side, p = math.isqrt(self.tokens), self.x_embedder.patch_size[0]
        patches = patches.unflatten(2, (p, p, -1)).unflatten(1, (side, side))
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def predict(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Noise estimate for x_t float [b, C, H, W] at t int [b] with labels int64 [b]."""
        return self(x_t, t, labels)[:, : self.sample_shape[0]]

    def guided(self, x_t: Tensor, t: Tensor, labels: Tensor, scale: float) -> Tensor:
        """Output with classifier-free guidance for x_t float [b, C, H, W], t int [b], labels int64 [b].

        Returns as :meth:`forward`: the first three channels are eps_u + g (eps_c - eps_u), with g from
        :func:`~dedt_lib.models.schedule.power_cosine`; the others are those of the conditional pass.
        """
        if scale == 1:
            return self(x_t, t, labels)
        null = torch.full_like(labels, self.null_label)
        both = self(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([labels, null]))
        conditional, unconditional = both.chunk(2)
        guidance = power_cosine(t, scale).view(-1, 1, 1, 1)
        guided = torch.lerp(unconditional, conditional, guidance)
        some = min(GUIDED_CHANNELS, self.sample_shape[0])
        return torch.cat([guided[:, :some], conditional[:, some:]], dim=1)

    # ---- training ----------------------------------------------------------------------------------

    def draws(self, n: int, generator: torch.Generator, device: torch.device | str) -> dict[str, Tensor]:
        """Random draws for the masked pass of n samples, for ``Batch.extra``.

        Returns:
            masked_noise: float [n, C, H, W].  masked_drop: bool [n], whether the label is hidden.  kept:
            int64 [n, m], the indices of the tokens that the encoder sees; m is the same for the whole batch.
        """
        # Drawn on the host, because reading a value from the device would wait for it.
        share = torch.rand((), generator=torch_generator(generator.initial_seed(), "mask")).item()
        ratio = self.mask_ratio + self.mask_range * share
        order = torch.rand(n, self.tokens, generator=generator, device=device).argsort(dim=1)
        return {
            "masked_noise": torch.randn(n, *self.sample_shape, generator=generator, device=device),
            "masked_drop": torch.rand(n, generator=generator, device=device) < self.class_dropout_prob,
            "kept": order[:, : int(self.tokens * (1 - ratio))],
        }

    def losses(self, batch: Batch) -> Tensor:
        """Loss of the unmasked pass plus loss of the masked pass for each sample: float [b].

        Each loss is the squared error of the noise, averaged over all elements and weighted by min(SNR, 5) /
        SNR, plus :func:`variational_bits`, which trains the variance only.
        """
        extra = batch.extra
        masked = self._pass_losses(batch, extra["masked_noise"], extra["masked_drop"], extra["kept"])
        return self._pass_losses(batch, batch.noise, batch.drop) + masked

    def margin_losses(self, batch: Batch) -> Tensor:
        """||eps_theta(x_t, c, t) - eps||^2 of the unmasked pass, averaged over elements: float [b].

        Group DRO compares these losses, which have no timestep weights and no masking.
        """
        return self.element_losses(batch).mean(dim=(1, 2, 3))

    def element_losses(self, batch: Batch) -> Tensor:
        """(eps_theta(x_t, c, t) - eps)^2 for every element of the unmasked pass: float [b, C, H, W]."""
        error, _ = self._pass(batch, batch.noise, batch.drop)
        return error.square()

    def _pass_losses(self, batch, noise, drop, kept=None):
        error, fraction = self._pass(batch, noise, drop, kept)
        weight = self.schedule(batch.t, "weight")[0].flatten()
        loss = weight * error.square().mean(dim=(1, 2, 3))
        if self.learn_sigma:
            loss = loss + variational_bits(self.schedule, batch.images, batch.t, error.detach(), fraction)
        return loss

    def _pass(self, batch, noise, drop, kept=None):
        """Noise error and variance output (empty without ``learn_sigma``): float [b, C, H, W] each."""
        signal, deviation = self.schedule(batch.t, "signal", "deviation")
        labels = torch.where(drop, self.null_label, batch.labels)
        output = self(signal * batch.images + deviation * noise, batch.t, labels, kept)
        estimate, fraction = output.tensor_split([self.sample_shape[0]], dim=1)
        return estimate - noise, fraction


def check_sizes(
    input_size: int, patch_size: int, hidden_size: int, num_heads: int, depth: int, decode_layer: int
) -> None:
    """Raise DedtError for sizes that do not fit together."""
    if input_size % patch_size:
        raise DedtError(f"Latents of {input_size} x {input_size} do not divide into patches of {patch_size}.")
    if hidden_size % 4 or hidden_size % num_heads:
        raise DedtError(f"The width {hidden_size} must be a multiple of 4 and of the {num_heads} heads.")
    if not 0 <= decode_layer <= depth or (depth - decode_layer) % 2:
        raise DedtError(
            f"The decoder cannot have {decode_layer} of {depth} blocks: the encoder needs an even number of "
            "blocks."
        )
