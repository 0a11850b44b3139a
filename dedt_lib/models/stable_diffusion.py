"""Stable Diffusion (Rombach et al., 2022): a text-to-image pipeline fine-tuned on the classes of a data set.

Only the U-Net is trained.  Images are given as scaled latents of the pipeline's autoencoder.  A caption is a
template with the class name filled in, so that the frozen text encoder runs only once per class.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..errors import DedtError
from ..files import address, atomic_folder
from ..randomness import seeded
from ..weights import ask_hub, published, reason, refuse_pickles
from .autoencoder import downsampling
from .batch import Batch

VERSION_1_4 = "CompVis/stable-diffusion-v1-4"
TEMPLATE = "a photo of a {}"
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
SAMPLING = {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
WHAT = "the Stable Diffusion pipeline"
FILES = "model_index.json, scheduler, text_encoder, tokenizer, unet and vae (weights as safetensors)"
INDEX = "model_index.json"
READ = re.compile(
    rf"{re.escape(INDEX)}|(scheduler|tokenizer)/[^/]+\.(json|txt)"
    r"|(text_encoder|unet|vae)/(config\.json|(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?)"
)
"""Relative paths of the files read from a pipeline's folder: no safety checker, no half precision."""


class StableDiffusion(nn.Module):
    """The U-Net of a StableDiffusionPipeline as a class-conditional model of latents.

    Args:
        pipeline: The pipeline whose U-Net is used.  It is not copied: two models need two pipelines.
        class_names: K names; their underscores become spaces.
        template: Template of the captions, with ``{}`` for the class name.
        image_size: Side of the images in pixels, a multiple of 8; by default the size of the pipeline.

    Raises:
        DedtError: The template has no place for a class name, a caption is too long for the text encoder, the
            size does not fit, or the pipeline predicts neither noise nor velocity.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        class_names: Sequence[str],
        template: str = TEMPLATE,
        *,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        if "{}" not in template:
            raise DedtError(
                f"The caption '{template}' has no placeholder for the class name. Write {{}} "
                "where the name belongs."
            )
        self.prompts = tuple(template.replace("{}", name.replace("_", " ")) for name in class_names)
        self.null_label = len(self.prompts)
        self.net = pipeline.unet
        size = latent_size(pipeline.vae, image_size) if image_size else self.net.config.sample_size
        self.sample_shape = (self.net.config.in_channels, size, size)
        self.schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        predicted = self.schedule.config.prediction_type
        if predicted not in ("epsilon", "v_prediction"):
            raise DedtError(
                f"This pipeline predicts '{predicted}'. Choose one that predicts epsilon or v_prediction."
            )
        self.velocity = predicted == "v_prediction"
        captions = embed_prompts(pipeline, [*self.prompts, ""])
        self.register_buffer("captions", captions, persistent=False)

    def compile_network(self) -> None:
        """Compile the network in place; its parameter names do not change."""
        self.net.compile()

    def ddim_scheduler(self) -> DDIMScheduler:
        """A DDIMScheduler with Stable Diffusion's settings, for the noise estimate of :meth:`predict`."""
        return DDIMScheduler.from_config(self.schedule.config, prediction_type="epsilon", **SAMPLING)

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Noise estimate for latents x_t float [b, c, h, w] at t int [b] with labels int [b]."""
        output = self._output(x_t, t, labels)
        if self.velocity:
            return self.schedule.get_velocity(-x_t, output, t)  # eps = sqrt(a) v + sqrt(1 - a) x_t
        return output

    def element_losses(self, batch: Batch) -> torch.Tensor:
        """(eps_theta(x_t, c, t) - eps)^2 for every element: float [b, c, h, w].

        If the pipeline predicts the velocity, this is the squared error of the velocity.
        """
        x_t = self.schedule.add_noise(batch.images, batch.noise, batch.t)
        labels = torch.where(batch.drop, self.null_label, batch.labels)
        target = batch.noise
        if self.velocity:
            target = self.schedule.get_velocity(batch.images, batch.noise, batch.t)
        return (self._output(x_t, batch.t, labels) - target).square()

    def losses(self, batch: Batch) -> torch.Tensor:
        """||eps_theta(x_t, c, t) - eps||^2 averaged over the latent, one per sample (paper, Eq. 1)."""
        return self.element_losses(batch).mean(dim=(1, 2, 3))

    def _output(self, x_t, t, labels):
        return self.net(x_t, t, encoder_hidden_states=self.captions[labels]).sample.float()


@torch.no_grad()
def embed_prompts(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings of n prompts: float [n, L, D], with L the context length of the text encoder.

    Raises:
        DedtError: A prompt has more than L tokens.
    """
    tokenizer, longest = pipeline.tokenizer, pipeline.tokenizer.model_max_length
    for prompt in prompts:
        if len(tokenizer(prompt).input_ids) > longest:
            raise DedtError(
                f"The prompt '{prompt}' is longer than the {longest} tokens that the text encoder reads. "
                "Shorten the template or the class name."
            )
    device = pipeline.text_encoder.device
    return torch.cat([pipeline.encode_prompt([prompt], device, 1, False)[0] for prompt in prompts]).float()


def latent_size(vae: nn.Module, image_size: int) -> int:
    """Side of the latents of square images; raises DedtError for a size that the pipeline cannot halve so often."""
    factor = downsampling(vae)
    if image_size % max(factor, 8):
        raise DedtError(
            f"The image size for Stable Diffusion must be a multiple of {max(factor, 8)}, not {image_size}."
        )
    return image_size // factor


# ---- Pipelines on disk -------------------------------------------------------------------------------


def load_pipeline(where: Path | str = VERSION_1_4) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline in single precision, on the CPU, that samples with DDIM as in the paper.

    Only safetensors are read.  The safety checker is left out, because it blackens images, which would
    distort the metrics.  The pipeline's attribute ``published`` records its files.

    Args:
        where: A folder in diffusers' layout, or a name on the Hugging Face hub, which is searched in
            ``weights_folder()`` and in the hub's cache before it is downloaded (``weights.published``).

    Raises:
        DedtError: Weights are missing, damaged or pickles.
    """
    files = published(where, WHAT, FILES, _fetch, _used)
    pipeline = _open_folder(files.folder)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **SAMPLING)
    pipeline.published = pipeline.vae.published = files
    return pipeline


def pipeline_key(pipeline: StableDiffusionPipeline) -> str:
    """Key of a loaded pipeline in sixteen hex digits: U-Net, text encoder, tokenizer and scheduler.

    It covers all their files, including the settings.  The autoencoder has a separate key, since another one
    may be used.
    """
    files = pipeline.published.files
    return address("pipeline", {name: digest for name, digest in files.items() if name[:4] != "vae/"})


def save_pipeline(model: StableDiffusion, pipeline: StableDiffusionPipeline, folder: Path | str) -> None:
    """Write ``pipeline`` with the U-Net of ``model`` into ``folder``, as safetensors.

    StableDiffusionPipeline.from_pretrained can load it; its default image size is that of ``model``.  An
    existing folder is replaced only when the new one is complete.

    Raises:
        DedtError: The disk is full, or the folder holds something else.
    """
    model.net.register_to_config(sample_size=model.sample_shape[-1])
    pipeline.unet = model.net
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / INDEX).exists():
        raise DedtError(f"{folder} is not empty and holds no pipeline. Choose another folder.")
    with atomic_folder(folder) as partial:
        pipeline.save_pretrained(partial)
        mode = (partial / INDEX).stat().st_mode
        for weights in partial.glob("*/*.safetensors"):
            weights.chmod(mode)  # safetensors makes files that only their owner can read


WITHOUT_CHECKER = {"safety_checker": None, "feature_extractor": None}


def _fetch(name, revision, local):
    """The folder in the hub's cache with the pipeline, downloaded unless ``local``."""
    if not local:
        ask_hub(name, revision, INDEX)
    how = {"revision": revision, "local_files_only": local, "use_safetensors": True}
    return Path(StableDiffusionPipeline.download(name, **how, **WITHOUT_CHECKER))


def _used(folder):
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(filter(READ.fullmatch, names))


def _open_folder(folder):
    for part in ("unet", "vae", "text_encoder"):
        refuse_pickles(folder / part)
    try:
        how = {"dtype": torch.float32, "use_safetensors": True, "requires_safety_checker": False}
        return StableDiffusionPipeline.from_pretrained(folder, **how, **WITHOUT_CHECKER)
    except Exception as error:
        raise DedtError(
            f"{folder} is not a complete Stable Diffusion pipeline ({reason(error)}). It needs {FILES}."
        ) from error


# ---- A small pipeline --------------------------------------------------------------------------------


def tiny_pipeline(
    vae: nn.Module,
    *,
    image_size: int,
    block_channels: Sequence[int] = (32, 64),
    layers: int = 1,
    text_width: int = 32,
    text_length: int = 24,
    groups: int = 8,
    seed: int = 0,
) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline with a small untrained U-Net and text encoder around a given autoencoder.

    Args:
        vae: An AutoencoderKL.
        image_size: Side of the images in pixels, a multiple of 8.
        block_channels: Width of each level of the U-Net; all levels but the last have cross-attention.
        layers: Residual blocks per level.
        text_width: Width of the text encoder.
        text_length: Length of the longest prompt, in tokens.
        groups: Groups of the U-Net's normalisation.
        seed: Seed of the U-Net and of the text encoder.  The text encoder is never trained: its embeddings
            differ from prompt to prompt, and the U-Net needs no more.

    Raises:
        DedtError: The image size does not fit.
    """
    tokenizer = _byte_tokenizer(text_length)

    def make():
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=text_width,
                intermediate_size=2 * text_width,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=text_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        # With CLIP's initialisation the layers outweigh the small token embeddings, and prompts look alike.
        nn.init.normal_(text_encoder.get_input_embeddings().weight)
        unet = UNet2DConditionModel(
            sample_size=latent_size(vae, image_size),
            in_channels=vae.config.latent_channels,
            out_channels=vae.config.latent_channels,
            block_out_channels=tuple(block_channels),
            layers_per_block=layers,
            down_block_types=("CrossAttnDownBlock2D",) * (len(block_channels) - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(block_channels) - 1),
            attention_head_dim=4,
            cross_attention_dim=text_width,
            norm_num_groups=groups,
        )
        return text_encoder.eval(), unet.eval()

    text_encoder, unet = seeded(seed, "tiny pipeline", make)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**NOISE_SCHEDULE, **SAMPLING),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _byte_tokenizer(length):
    """A CLIPTokenizer without merges: one token for each byte, and another for each byte that ends a word."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)
