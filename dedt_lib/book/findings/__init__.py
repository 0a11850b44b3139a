"""Findings: what the results say, as tables and sentences.

``frame`` is the DataFrame of ``results.read_cells`` or a part of it, unless said otherwise.  Missing rows
give empty tables and sentences such as "No results yet.", never an error, so that a page shows what there is.
"""

from ..comparisons import Page
from .classes import (
    Classes,
    by_class,
    claims_in_words,
    class_gains,
    gains_in_words,
    heaviness_in_words,
    heavy_and_easy,
)
from .compared import concluded, metrics_in_words, networks_in_words, of_networks, traded_in_words
from .costs import copies_in_words, cost_in_words, faster_in_words
from .made import (
    fid_network_in_words,
    floor_in_words,
    made_in_words,
    reconstruction_in_words,
    shared_in_words,
    steps_in_words,
)
from .orders import order_in_words, same_order
from .weights import agreement, clipped_in_words, information_in_words, options, proxies, steady_in_words
from .words import p_in_words

__all__ = [
    "Classes",
    "Page",
    "agreement",
    "by_class",
    "claims_in_words",
    "class_gains",
    "clipped_in_words",
    "concluded",
    "copies_in_words",
    "cost_in_words",
    "faster_in_words",
    "fid_network_in_words",
    "floor_in_words",
    "gains_in_words",
    "heaviness_in_words",
    "heavy_and_easy",
    "information_in_words",
    "made_in_words",
    "metrics_in_words",
    "networks_in_words",
    "of_networks",
    "options",
    "order_in_words",
    "p_in_words",
    "proxies",
    "reconstruction_in_words",
    "same_order",
    "shared_in_words",
    "steady_in_words",
    "steps_in_words",
    "traded_in_words",
]
