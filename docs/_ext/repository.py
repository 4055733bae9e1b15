"""Turns links between files of the repository into links between pages of the site.

Pages are written for GitHub: their links are relative to the file, or begin with the repository's address. Links to
files that are not pages of the site lead to the repository.
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
#: Files outside docs/ that are pages of the site, and their names there.
INCLUDED = {
    "README.md": "overview",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "examples/web/README.md": "browser",
}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: The repository's address
URL = str(PROJECT["urls"]["Source"]).rstrip("/")


class Links(SphinxTransform):
    default_priority = 5  # before the transforms that report missing targets

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
            within = re.match(rf"{re.escape(URL)}/(?:blob|tree)/[^/]+/(.+)", path)
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
            if reference:  # MyST reports the others
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
        else:
            made = nodes.reference("", "", *inside, refuri=f"{URL}/blob/main/{name}", internal=False)
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
