"""The surrogate encoders, and the features that they extract from the images."""

from .features import Clusters, Embed, number_of_clusters, seconds_to_embed
from .given import OwnEncoder, PretrainedEncoder, PublishedEncoder
from .registry import ENCODERS, LABELS, encoder
from .trained import DDAE, Encoder, InceptionV3, ResNet18, SmallClip, TrainedEncoder
