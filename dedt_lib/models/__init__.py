"""Diffusion models behind one small interface.

A model is a ``torch.nn.Module`` with

    losses(batch) -> float [b]          per-sample training losses of a :class:`~dedt_lib.models.batch.Batch`
    predict(x_t, t, labels) -> noise    the noise estimate; label K (``null_label``) means "no class"
    null_label, sample_shape            K, and (channels, height, width) of images or latents
    element_losses(batch)               squared errors of the noise, element by element; for the DRO clip "element"
    compile_network()                   torch.compile, for profiles that ask for it

and, where it differs from the others,

    draws(n, generator, device)         what else it draws in a training step, for ``Batch.extra``
    margin_losses(batch) -> float [b]   what group DRO compares, if that is not ``losses``
    ddim_scheduler()                    the schedule of DDIM, if that is not the one for pixels

``parameters()`` are what is trained, ``state_dict()`` what is kept.  Class weights, DRO, annealing,
checkpoints and sampling need nothing else.
"""

from typing import Any

from torch import nn

from ..arrays import check_choice


def build_model(name: str, **settings: Any) -> nn.Module:
    """A freshly initialised model by name, "unet" or "mdt".

    Stable Diffusion starts from a pipeline: :class:`dedt_lib.models.stable_diffusion.StableDiffusion`.

    Raises:
        DedtError: Unknown name.
    """
    check_choice("model", name, ("unet", "mdt"))
    if name == "unet":
        from .unet import ConditionalUNet

        return ConditionalUNet(**settings)
    from .mdt import MDTv2

    return MDTv2(**settings)
