"""The icons that the pages use, taken out of the theme's Font Awesome into one small style sheet.

The theme ships Font Awesome as a script (543 kB compressed) and as three fonts (300 kB). The pages use about
fifteen icons of its two thousand. The font stands inside the style sheet, because a browser loads no font from a
page opened as a file.
"""

import base64
import re
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import pydata_sphinx_theme
from fontTools import subset
from fontTools.ttLib import TTFont

FAMILIES = {"solid": "fa-solid-900.ttf", "brands": "fa-brands-400.ttf", "regular": "fa-regular-400.ttf"}
SHORT = {"fas": "solid", "fab": "brands", "far": "regular", "fa": "solid"}
USED = re.compile(r"\b(fa[sbr]?|fa-(?:solid|brands|regular)) fa-([a-z0-9-]+)")
CODE = re.compile(r"\\(f[0-9a-f]{3})|([\ue000-\uf8ff])")  # icons that a style sheet shows by itself
COMMON = """\
{classes} {{ font-family: "{family}"; font-weight: {weight}; display: inline-block; line-height: 1;
  font-style: normal; text-rendering: auto; -webkit-font-smoothing: antialiased; }}
"""


def used_icons(texts: Iterable[str]) -> set[tuple[str, str]]:
    """The pairs (family, icon) that pages and scripts name as classes, such as `fa-solid fa-moon`."""
    found = {pair for text in texts for pair in USED.findall(text)}
    return {(SHORT.get(family, family.removeprefix("fa-")), name) for family, name in found}


def subset_font(file: Path, codes: set[int]) -> str:
    """The font with these characters only, as the base64 of a WOFF."""
    font = TTFont(file)
    options = subset.Options(layout_features=[], name_IDs=[0, 13, 14], notdef_outline=False)  # keeps its license
    work = subset.Subsetter(options)
    work.populate(unicodes=codes)
    work.subset(font)
    font.flavor = "woff"
    made = BytesIO()
    font.save(made)
    return base64.b64encode(made.getvalue()).decode()


def style_sheet(fontawesome: Path, texts: Iterable[str], theme_css: str) -> str:
    """Fonts and rules for the icons that `texts` and `theme_css` use.

    Raises:
        ValueError: a page names an icon that the theme's Font Awesome does not have.
    """
    rules = (fontawesome / "css/all.min.css").read_text(encoding="utf-8")
    icons: dict[str, dict[str, int]] = {family: {} for family in FAMILIES}
    for family, name in sorted(used_icons(texts)):
        code = re.search(rf'\.fa-{name}:before[^{{}}]*\{{content:"\\([0-9a-f]+)"', rules)
        if code is None:
            raise ValueError(f'a page uses the icon "fa-{name}", which Font Awesome of the theme does not have')
        icons[family][name] = int(code[1], 16)
    in_css = {int(code, 16) if code else ord(char) for code, char in CODE.findall(theme_css)}
    parts = ["/* Made from Font Awesome Free (icons CC BY 4.0, fonts SIL OFL 1.1), https://fontawesome.com */\n"]
    for family, file in FAMILIES.items():
        codes = set(icons[family].values()) | (in_css if family == "solid" else set())
        if not codes:
            continue
        name, weight = f"Icons {family}", 900 if family == "solid" else 400
        data = subset_font(fontawesome / "webfonts" / file, codes)
        parts.append(f':root {{ --fa-font-{family}: normal {weight} 1em/1 "{name}"; }}\n')
        parts.append(
            f'@font-face {{ font-family: "{name}"; font-weight: {weight}; font-display: block;\n'
            f'  src: url("data:font/woff;base64,{data}") format("woff"); }}\n'
        )
        classes = [f".fa-{family}", *(f".{short}" for short, long in SHORT.items() if long == family)]
        parts.append(COMMON.format(classes=", ".join(classes), family=name, weight=weight))
        parts += [f'.fa-{icon}::before {{ content: "\\{code:x}"; }}\n' for icon, code in icons[family].items()]
    return "".join(parts)


def write_icons(html: Path) -> None:
    """Write _static/icons.css for all pages of a built book."""
    static = html / "_static"
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme/pydata_sphinx_theme/static"
    fontawesome = next((theme / "vendor/fontawesome").glob("[0-9]*"))
    texts = [file.read_text(encoding="utf-8") for file in html.rglob("*.html")]
    texts += [file.read_text(encoding="utf-8") for file in (static / "scripts").glob("*.js")]
    css = "".join(file.read_text(encoding="utf-8") for file in (static / "styles").glob("*.css"))
    (static / "icons.css").write_text(style_sheet(fontawesome, texts, css), encoding="utf-8")
