"""Diffusion models behind one small interface.

A model is a ``torch.nn.Module`` with

    losses(batch) -> float [b]          per-sample training losses of a ``training.Batch``
    predict(x_t, t, labels) -> noise    the noise estimate; label K (``null_label``) means "no class"
    null_label, sample_shape            K, and (channels, height, width)
    element_losses(batch)               the same losses before the mean; for the DRO clip "element" only
    compile_network()                   torch.compile, for profiles that ask for it

Class weights, DRO, annealing, checkpoints and sampling need nothing else.
"""

from ..errors import DedtError


def build_model(name, **settings):
    """A freshly initialised model by name; raises DedtError for an unknown one."""
    if name != "unet":
        raise DedtError(f"Unknown model '{name}'. Choose one of: unet.")
    from .unet import ConditionalUNet

    return ConditionalUNet(**settings)
