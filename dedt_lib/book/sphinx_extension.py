"""What the book adds to Sphinx: described figures, and links that stay on the page."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx


def complete(app: "Sphinx", page: "nodes.document") -> None:
    """Give figures an alternative text that names their section, and tables links that stay on the page.

    A number and its % stay on one line.
    Every figure of the notebooks is led by a paragraph that describes it, so a reader who hears the page is
    sent there.
    """
    from docutils import nodes

    for image in page.findall(nodes.image):
        if not image.get("alt"):
            above, section = image.parent, None
            while above is not None and section is None:
                section = above.next_node(nodes.title) if isinstance(above, nodes.section) else None
                above = above.parent
            image["alt"] = (
                f"Figure: {section.astext() if section else 'see the text'} (described in the text before)"
            )
    prefix = app.env.docname.rpartition("/")[2]
    for table in page.findall(nodes.raw):
        if table["format"] == "html":  # the book on paper is one page, with the ids of all
            own = re.sub(r"(?<=id='|f='#)run-", f"{prefix}-run-", table.astext())
            table.children = [nodes.Text(re.sub(r"(?<=\d) %", "&nbsp;%", own))]
    for text in list(page.findall(nodes.Text)):
        verbatim = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)
        if " %" in text and not isinstance(text.parent, verbatim):
            text.parent.replace(text, nodes.Text(re.sub(r"(?<=\d) %", "\u00a0%", text)))


def setup(app: "Sphinx") -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("doctree-read", complete)
    return {"parallel_read_safe": True}
