"""The book by plain Sphinx and MyST-NB: one page for the PDF, and the proof that no other tool is needed."""

from pathlib import Path

import yaml

BOOK = yaml.safe_load(Path(__file__).with_name("_config.yml").read_text())
SPHINX = BOOK["sphinx"]

globals().update(SPHINX["config"])
project, author, copyright = BOOK["title"], BOOK["author"], BOOK["copyright"]
extensions = ["myst_nb", "sphinx_external_toc", "sphinxcontrib.bibtex", *SPHINX["extra_extensions"]]
external_toc_path, external_toc_exclude_missing = "_toc.yml", BOOK["only_build_toc_files"]
exclude_patterns = ["_build", *BOOK["exclude_patterns"]]
bibtex_bibfiles = ["references.bib"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
nb_execution_mode, nb_output_stderr = BOOK["execute"]["execute_notebooks"], BOOK["execute"]["stderr_output"]
html_theme, html_theme_options = "basic", {}
html_static_path, templates_path = ["_static"], ["_templates"]
html_css_files = ["custom.css", "print.css"]
