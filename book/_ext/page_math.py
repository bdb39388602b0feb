"""Sphinx's formulas, through typeset.py instead of a script on the page."""

import re
from html import escape

from docutils import nodes
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator
from typeset import typeset

logger = logging.getLogger(__name__)


def formula(source: str, display: bool, node: nodes.Element) -> str:
    """The formula as HTML; a warning, and the build stops at those, where it cannot be read."""
    try:
        svg, mathml = typeset(source, display)
    except ValueError as error:
        logger.warning("formula %r: %s", source, error, location=node)
        return f"<code>{escape(source)}</code>"
    return f'{svg}<span class="formula-spoken">{mathml}</span>'


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(f'<span class="formula">{formula(node.astext(), False, node)}</span>')
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    source = node.astext().strip()
    # As Sphinx does for MathJax: lines and columns may be written without an environment around them.
    if not node["nowrap"] and re.search(r"\\\\|(?<!\\)&", re.sub(r"(?s)\\begin\{(\w+\*?)\}.*?\\end\{\1\}", "", source)):
        source = rf"\begin{{split}}{source}\end{{split}}"
    translator.body.append(translator.starttag(node, "div", CLASS="formula-block"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({node["number"]})</span>')
    translator.body.append(f"{formula(source, True, node)}</div>\n")
    raise nodes.SkipNode
