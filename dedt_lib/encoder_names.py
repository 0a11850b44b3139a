"""Names of published networks, trained on photographs; in a module of their own that needs no PyTorch."""

LITE0 = "efficientnet-lite0"
"""Its weights come inside a Python package, so it needs no download."""
SHORT = {
    "dinov2": "timm:timm/vit_small_patch14_dinov2.lvd142m",
    "clip": "open_clip:timm/vit_base_patch32_clip_224.openai",
    "siglip": "open_clip:timm/ViT-B-16-SigLIP",
}
"""Short names of networks on the Hugging Face hub."""
LIBRARIES = ("timm", "open_clip")
NAMES = (LITE0, *SHORT)


def is_pretrained(name: str) -> bool:
    """Whether a name is one of NAMES, or "timm:WHERE" or "open_clip:WHERE"."""
    return name in NAMES or (name.partition(":")[0] in LIBRARIES and ":" in name)
