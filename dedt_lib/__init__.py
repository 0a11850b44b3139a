"""Pruning then reweighting: data-efficient training of diffusion models.

The modules follow the data: ``data``, ``encoders``, ``selection``, ``reweighting``, ``training``,
``sampling``, ``evaluation``, ``book.tables``.  ``experiment`` ties them into one run, and ``book.figures``
draws the figures.  Nothing heavy is imported here, so that ``import dedt_lib`` stays quick.
"""

import warnings

# diffusers imports tqdm.auto, which warns about missing widgets; the progress bars here are plain text.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
