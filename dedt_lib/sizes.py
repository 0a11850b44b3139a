"""How many parameters the networks of a profile have, without building them, and without PyTorch."""

LATENT_CHANNELS = 4
STABLE_DIFFUSION = {"published": (2, 768), "tiny": (1, 32)}
"""Of version 1 and of the tiny pipeline: the U-Net's layers at each level, and the text encoder's width."""


def latent_shape(profile):
    """(side, channels) of the latents under a profile."""
    return profile.autoencoder.image_size // 2 ** (len(profile.autoencoder.channels) - 1), LATENT_CHANNELS


def unet_parameters(profile, classes):
    """Number of parameters of the profile's U-Net (diffusers' UNet2DModel), without building it.

    classes: K; the null label comes on top.
    """
    p = profile
    embedding = 4 * p.unet.channels[0]
    backbone = _backbone(p.data.channels, p.unet.channels, p.unet.layers, p.unet.attention, _attention)
    return backbone + (classes + 1) * embedding


def stable_diffusion_parameters(profile):
    """Number of parameters of Stable Diffusion's U-Net (diffusers' UNet2DConditionModel), 1.x or tiny."""
    widths = profile.stable_diffusion.channels
    layers, text_width = STABLE_DIFFUSION["published" if profile.stable_diffusion.weights else "tiny"]

    def transformer(c):
        ends = 2 * c + 2 * _convolution(c, c, 1)
        feed_forward = (c + 1) * 8 * c + (4 * c + 1) * c
        own_attention, cross_attention = 4 * c * c + c, 2 * c * c + 2 * text_width * c + c
        return ends + 3 * 2 * c + own_attention + cross_attention + feed_forward

    attends = [True] * (len(widths) - 1) + [False]
    return _backbone(LATENT_CHANNELS, widths, layers, attends, transformer)


def mdt_parameters(profile, classes):
    """Number of parameters of the profile's MDTv2; classes: K, and the null label comes on top."""
    p, width = profile, profile.mdt.hidden_size
    side = latent_shape(p)[0] // p.mdt.patch_size
    values = LATENT_CHANNELS * p.mdt.patch_size**2
    positions = ((2 * side - 1) ** 2 + 3) * p.mdt.heads
    # Attention, an MLP four times as wide, and six modulations.
    block = 4 * (width + 1) * width + positions + (8 * width + 5) * width + 6 * (width + 1) * width
    skips = (p.mdt.depth - p.mdt.decode_layers) // 2 + p.mdt.decode_layers
    blocks = (p.mdt.depth + 1) * block + skips * (2 * width + 1) * width
    time = (256 + 1) * width + (width + 1) * width
    first = (
        (values + 1) * width + 2 * side**2 * width + width
    )  # patches, two tables of positions, the mask token
    last = (width + 1) * 2 * values + 2 * (width + 1) * width  # noise and variance, and two modulations
    return first + time + (classes + 1) * width + blocks + last


def autoencoder_parameters(profile):
    """Number of parameters of the autoencoder that a profile trains (``latents.small_autoencoder``)."""
    images, widths, z = profile.data.channels, profile.autoencoder.channels, LATENT_CHANNELS
    middle = 2 * _residual(widths[-1], widths[-1]) + _attention(widths[-1])
    total = _convolution(2 * z, 2 * z, 1) + _convolution(z, z, 1) + 2 * middle
    total += _convolution(images, widths[0]) + 2 * widths[-1] + _convolution(widths[-1], 2 * z)
    total += _convolution(z, widths[-1]) + 2 * widths[0] + _convolution(widths[0], images)
    total += sum(_convolution(c, c) for c in (*widths[:-1], *widths[1:]))
    down, up = (widths[0], *widths), (widths[-1], *widths[::-1])
    total += sum(_residual(a, b) for a, b in zip(down, down[1:]))
    return total + sum(_residual(a, b) + _residual(b, b) for a, b in zip(up, up[1:]))


def _convolution(a, b, size=3):
    return a * b * size * size + b


def _residual(a, b, embedding=0):
    """Two normalised convolutions with a way around them; embedding: width of the timestep's, 0 for none."""
    shortcut = _convolution(a, b, 1) if a != b else 0
    condition = (embedding + 1) * b if embedding else 0
    return 2 * a + _convolution(a, b) + condition + 2 * b + _convolution(b, b) + shortcut


def _attention(c):
    return 2 * c + 4 * (c + 1) * c


def _backbone(channels, widths, layers, attends, attention):
    """What diffusers' U-Nets have in common; attention(c): the parameters of one at width c."""
    embedding = 4 * widths[0]
    total = _convolution(channels, widths[0]) + 2 * widths[0] + _convolution(widths[0], channels)
    total += (widths[0] + 1) * embedding + (embedding + 1) * embedding
    total += 2 * _residual(widths[-1], widths[-1], embedding) + attention(widths[-1])
    skips, before = [widths[0]], widths[0]
    for width, attended in zip(widths, attends):
        for _ in range(layers):
            total += _residual(before, width, embedding) + attended * attention(width)
            before = width
            skips.append(width)
        if len(skips) < (layers + 1) * len(widths):
            total += _convolution(width, width)
            skips.append(width)
    for level, (width, attended) in enumerate(zip(widths[::-1], attends[::-1])):
        for _ in range(layers + 1):
            total += _residual(before + skips.pop(), width, embedding) + attended * attention(width)
            before = width
        total += _convolution(width, width) if level < len(widths) - 1 else 0
    return total
