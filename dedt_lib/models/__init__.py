"""Diffusion models with one small common interface.

A model is a ``torch.nn.Module`` with

    losses(batch) -> float [b]          per-sample training losses of a :class:`~dedt_lib.models.batch.Batch`
    predict(x_t, t, labels) -> noise    the noise estimate; label K (``null_label``) means "no class"
    null_label, sample_shape            K, and (channels, height, width) of images or latents
    element_losses(batch)               squared errors of every element, for group DRO with clip "element"
    compile_network()                   torch.compile, for profiles that ask for it

and, where the defaults do not fit,

    draws(n, generator, device)         further random tensors of a training step, for ``Batch.extra``
    margin_losses(batch) -> float [b]   the losses that group DRO compares, by default ``losses``
    ddim_scheduler()                    the DDIM scheduler, by default the one for pixels

``parameters()`` are trained and ``state_dict()`` is saved.  Class weights, DRO, annealing, checkpoints and
sampling need nothing else.
"""

from typing import Any

from torch import nn

from ..arrays import check_choice


def build_model(name: str, **settings: Any) -> nn.Module:
    """A freshly initialised model by name, "unet" or "mdt".

    Stable Diffusion is built from a pipeline instead:
    :class:`dedt_lib.models.stable_diffusion.StableDiffusion`.

    Raises:
        DedtError: The name is unknown.
    """
    check_choice("model", name, ("unet", "mdt"))
    if name == "unet":
        from .unet import ConditionalUNet

        return ConditionalUNet(**settings)
    from .mdt import MDTv2

    return MDTv2(**settings)
