"""Links between files of the repository, which lead to pages of the site where these are its pages.

A page is written for GitHub: its links are relative to its file, or begin with the repository's address. What is no
page of the site is linked to in the repository, or only named where ``pyproject.toml`` has no address of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import tomllib
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)
ROOT = Path(__file__).parent.parent.parent
#: Files beside docs/ that are pages, and as which.
INCLUDED = {
    "README.md": "overview",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "examples/web/README.md": "browser",
}


def address() -> str:
    """The repository's, of ``[project.urls]``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Source"]).rstrip("/")


URL = address()


class Links(SphinxTransform):
    default_priority = 5  # before those that complain of targets that they do not find

    def apply(self, **_: Any) -> None:
        for kind in (addnodes.pending_xref, addnodes.download_reference, nodes.reference):
            for node in list(self.document.findall(kind)):
                self.mend(node)
        for node in self.document.findall(nodes.image):
            self.mend_image(node)

    def mend(self, node: nodes.Element) -> None:
        reference = isinstance(node, nodes.reference)
        target = node.get("refuri" if reference else "reftarget", "")
        path, _, fragment = target.partition("#")
        if reference:
            within = re.match(rf"{re.escape(URL)}/(?:blob|tree)/[^/]+/(.+)", path) if URL else None
            if not within:
                return
            file = ROOT / within[1]
        elif node.get("reftype") == "myst" and node.get("refdomain") == "doc" and target not in self.env.found_docs:
            file, fragment = Path(self.env.srcdir, f"{target}.md"), node.get("reftargetid") or ""
        elif isinstance(node, addnodes.download_reference) or (
            node.get("reftype") == "myst" and node.get("refdomain") != "doc" and path
        ):
            file = Path(os.path.normpath(Path(self.source(node)).parent / path))
        else:
            return
        if not file.exists():
            if reference:  # MyST complains of the others
                logger.warning("there is no %s", target, location=node, type="repository")
            return
        inside = node.deepcopy().children
        name = file.relative_to(ROOT).as_posix()
        page = INCLUDED.get(name) or (self.env.path2doc(file) if file.suffix == ".md" else None)
        if page in self.env.found_docs:
            made: Any = addnodes.pending_xref(
                "", *inside, refdoc=self.env.docname, refdomain="doc", reftype="myst", reftarget=page
            )
            made["reftargetid"] = fragment or None
            made["refexplicit"] = True
        elif URL:
            made = nodes.reference("", "", *inside, refuri=f"{URL}/blob/main/{name}", internal=False)
        else:
            made = nodes.inline("", "", *inside)
        made.source, made.line = node.source, node.line
        node.replace_self(made)

    def mend_image(self, node: nodes.image) -> None:
        raw = r"https://(?:raw\.githubusercontent\.com/[^/]+/[^/]+|github\.com/[^/]+/[^/]+/raw)/[^/]+/(.+)"
        within = re.match(raw, node["uri"])
        if within and (ROOT / within[1]).exists():
            node["uri"] = "/" + os.path.relpath(ROOT / within[1], self.env.srcdir)

    def source(self, node: nodes.Element) -> str:
        while node is not None and not node.source:
            node = node.parent
        return str(self.document["source"] if node is None else node.source)


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(Links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
