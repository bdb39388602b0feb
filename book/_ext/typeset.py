"""Formulas, typeset once while the book is built: the pages need no script and no font for them.

MathJax runs in V8, both from packages: sphinx-mathjax-offline carries MathJax's files, mini-racer the engine.
What it makes is an SVG in the text's color for the eye, and MathML for screen readers.
"""

import atexit
import json
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

MATHJAX = "sphinx-mathjax-offline"
SCRIPTS = ("loader", "core", "adaptors/liteDOM", "input/tex-full", "output/svg", "output/svg/fonts/tex")
BEFORE = "var global = globalThis; var MathJax = {startup: {ready() {}}, loader: {load: []}}; 0"
# noerrors and noundefined would print a faulty formula as it stands, in red: here it is an error.
AFTER = """
const adaptor = MathJax._.adaptors.liteAdaptor.liteAdaptor();
MathJax._.handlers.html_ts.RegisterHTMLHandler(adaptor);
const packages = MathJax._.input.tex.AllPackages.AllPackages.filter(p => p !== 'noerrors' && p !== 'noundefined');
const tex = new MathJax._.input.tex_ts.TeX({packages, formatError(input, error) { throw new Error(error.message); }});
const font = new MathJax._.output.svg.fonts.tex_ts.TeXFont();
const page = MathJax._.mathjax.mathjax.document('', {
  InputJax: tex, OutputJax: new MathJax._.output.svg_ts.SVG({fontCache: 'local', font}),
});
const mathml = new MathJax._.core.MmlTree.SerializedMmlVisitor.SerializedMmlVisitor();
const compiled = MathJax._.core.MathItem.STATE.COMPILED;
function typeset(source, display) {
  try {
    tex.reset();
    const svg = adaptor.innerHTML(page.convert(source, {display, em: 16, ex: 8, containerWidth: 1e5}));
    tex.reset();
    return JSON.stringify([svg, mathml.visitTree(page.convert(source, {display, end: compiled}))]);
  } catch (error) { return JSON.stringify([null, error.message]); }
}
0
"""
NOISE = re.compile(r' (?:data-(?!line|frame)[a-z-]+|focusable|role|xmlns(?::xlink)?)="[^"]*"')
GLYPH = re.compile(r'<path id="MJX-\d+-([^"]+)" d="[^"]*"></path>')
GLYPH_USED = re.compile(r'(?:xlink:href|href)="#MJX-\d+-')


@cache
def engine():  # type: ignore[no-untyped-def]  # mini-racer is only there where the book is built
    """V8 with MathJax in it. It must be closed: Python would wait for its thread at the end."""
    try:
        from py_mini_racer import MiniRacer

        folder = next(Path(str(file.locate())) for file in files(MATHJAX) or () if file.name == "core.js").parent
    except (ImportError, PackageNotFoundError, StopIteration) as error:
        raise ValueError(
            f"formulas need the packages mini-racer and {MATHJAX}, and one is not installed ({error}): run make setup"
        ) from error
    context = MiniRacer()
    atexit.register(context.close)
    context.eval(BEFORE)
    for script in SCRIPTS:
        context.eval((folder / f"{script}.js").read_text(encoding="utf-8") + "\n;0")
    context.eval(AFTER)
    return context


@cache
def typeset(source: str, display: bool) -> tuple[str, str]:
    """A TeX formula as (svg, mathml).

    Raises:
        ValueError: MathJax cannot read it; the text is MathJax's.
    """
    svg, mathml = json.loads(engine().eval(f"typeset({json.dumps(source)}, {json.dumps(display)})"))
    if svg is None:
        raise ValueError(mathml)
    svg = NOISE.sub("", svg).replace("xlink:href", "href").replace("<svg ", '<svg aria-hidden="true" ', 1)
    return svg, re.sub(r">\s+<", "><", mathml).replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")


def share_glyphs(body: str) -> str:
    """Let the formulas of a page share their letters: each outline stands once, in front."""
    outlines = {match[1]: match[0] for match in GLYPH.finditer(body)}
    if not outlines:
        return body
    once = "".join(re.sub(r'id="MJX-\d+-', 'id="MJX-', path) for path in outlines.values())
    body = GLYPH_USED.sub('href="#MJX-', GLYPH.sub("", body).replace("<defs></defs>", ""))
    return f'<svg style="display:none" aria-hidden="true"><defs>{once}</defs></svg>\n{body}'
