"""The pages behind the chapters: what is made from docstrings, measurements and references.bib.

page_api.py, page_settings.py, page_results.py and page_references.py write Markdown or HTML. Here it gets into the
pages, by directives: `{api} MODULE`, `{settings} CLASS`, `{commands}`, `{measured} FILE`, `{measured-others}` and
`{works} GROUP`. The role `{chapter}` is page_chapters.py's.
"""

from html import escape
from pathlib import Path

import page_api
import page_references
import page_results
import page_settings
from docutils import nodes
from docutils.statemachine import StringList
from page_chapters import ChapterLink, chapters
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """A directive whose content is Markdown that a function writes."""

    required_arguments = 1
    final_argument_whitespace = True

    def markdown(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        box = nodes.container()
        lines = StringList(self.markdown().splitlines(), source=self.env.docname)
        self.state.nested_parse(lines, self.content_offset, box)
        return box.children

    @property
    def root(self) -> Path:
        return Path(self.env.srcdir)


class Api(Generated):
    """The public names of a module."""

    def markdown(self) -> str:
        uses = {chapter.number: chapter.names for chapter in chapters(self.env)}
        shown = self.env.temp_data.setdefault("api_shown", {})
        return page_api.module_markdown(self.arguments[0], uses, shown)

    def run(self) -> list[nodes.Node]:
        found = super().run()
        for entries in found:
            if isinstance(entries, nodes.definition_list):
                entries["classes"].append("api")  # for back_matter.css
                for term in entries.findall(nodes.term):
                    # Of code, Sphinx makes an element a word: too many for the arguments. The name stays as it is,
                    # so that the search finds it.
                    for call in list(term.findall(nodes.literal))[1:]:
                        text = f'<code class="api-call">{escape(call.astext())}</code>'
                        call.replace_self(nodes.raw("", text, format="html"))
        return found


class Settings(Generated):
    """The fields of a dataclass."""

    def markdown(self) -> str:
        return page_settings.settings_markdown(self.arguments[0])


class Commands(Generated):
    """The commands of the command line."""

    required_arguments = 0

    def markdown(self) -> str:
        return page_settings.commands_markdown()


class Works(Generated):
    """The works of one group in references.bib."""

    def markdown(self) -> str:
        file = self.root / "book/references.bib"
        self.env.note_dependency(str(file))
        return page_references.works_markdown(file, self.arguments[0], chapters(self.env))


class Measured(Generated):
    """One result file as tables."""

    def run(self) -> list[nodes.Node]:
        return [self.show(self.root / self.arguments[0])]

    def show(self, file: Path) -> nodes.Node:
        self.env.note_dependency(str(file))
        name = file.relative_to(self.root).as_posix()
        return nodes.raw("", page_results.result_html(name, file.read_text(encoding="utf-8")), format="html")


class MeasuredOthers(Measured):
    """Every result file that the page does not name, so that none is forgotten."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        page = Path(self.env.doc2path(self.env.docname)).read_text(encoding="utf-8")
        return [self.show(file) for file in page_results.files_not_named(self.root, page)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("chapter", ChapterLink())
    app.add_directive("api", Api)
    app.add_directive("settings", Settings)
    app.add_directive("commands", Commands)
    app.add_directive("works", Works)
    app.add_directive("measured", Measured)
    app.add_directive("measured-others", MeasuredOthers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
