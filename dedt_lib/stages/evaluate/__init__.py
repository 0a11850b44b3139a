"""The metrics of samples against the training images, and the networks and statistics that they need."""

from .cmmd import CmmdReal, CmmdWithin, PublishedViT, cmmd_network
from .fid_network import FidClassifier, FidInception, FidResNet18, extractor, features, width
from .metrics import COMPARISON, Compare, Evaluate, check_names, compares
from .real import Floor, HeldOut, KidWithin, NeighbourRadii, Real, distances_to_training, viewed
