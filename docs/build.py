"""Write the API reference, docs/api/, from the docstrings and the pages in PAGES: what `nox -s docs` runs.

Fails where pdoc warns, a public name is missing or without a docstring, or a link leads nowhere.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shutil
import sys
import warnings
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock
from urllib.parse import unquote

import pdoc.doc
import pdoc.render
from pdoc.render_helpers import to_html

from bilateral_ops._core import types

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "docs" / "api"
#: Pages beside the modules': the file, where it goes, its title.
PAGES = {
    "README.md": ("index.html", "bilateral_ops"),
    "docs/how-it-works.md": ("how-it-works.html", "How HDRnet works"),
    "docs/model.md": ("model.html", "The model in the package"),
    "docs/radiance-fields.md": ("radiance-fields.html", "Radiance fields"),
    "docs/deployment-glsl.md": ("deployment-glsl.html", "Shaders in browsers and on phones"),
    "docs/ports.md": ("ports.html", "Models of PyTorch ports"),
    "docs/deployment.md": ("deployment.html", "Other runtimes"),
    "docs/cuda.md": ("cuda.html", "CUDA kernels"),
    "docs/benchmarks/README.md": ("benchmarks.html", "Benchmarks"),
    "CHANGELOG.md": ("changelog.html", "Changelog"),
}
#: Packages that are no part of the interface, and those whose modules are not.
ROOMS = ("bilateral_ops.cli", "bilateral_ops.photo")
CLOSED = ("bilateral_ops.hdrnet.train",)
#: Modules that have every operation, and its VJP, without saying so in ``__all__``.
REFERENCES = [f"bilateral_ops.reference.{name}" for name in ("numpy", "numba", "cupy")]
#: Annotations of arrays; a record of arrays, which is shown without their types.
RECORD = re.compile(r"(\w+Gradients)\[.*\]")
ARRAYS = re.compile(rf"^Any$|\b(NDArray|{'|'.join(types.__all__)})\b")


def main() -> None:
    if find_spec("cupy") is None:  # which is large, and of which only the name is needed
        sys.modules["cupy"] = MagicMock()
    warnings.simplefilter("error")
    shutil.rmtree(OUTPUT, ignore_errors=True)

    documented = public_modules("bilateral_ops")
    for name in documented:
        module = importlib.import_module(name)
        for late in set(getattr(module, "__all__", ())) - vars(module).keys():  # which are imported when asked for
            setattr(module, late, getattr(module, late))
        leave_out_noise(module)
    pdoc.render.configure(
        docformat="numpy",
        include_undocumented=False,
        show_source=False,
        template_directory=ROOT / "docs" / "templates",
    )
    pages = [(where, title) for where, title in PAGES.values()]
    pdoc.render.env.globals.update(prose=pages, modules=documented)
    modules = {name: pdoc.doc.Module.from_name(name) for name in documented}
    for name, module in modules.items():
        html = pdoc.render.html_module(module, modules)
        write(page_of(name), re.sub(r":(\s*(</p>)?\s*</li>)", r"\1", html))  # after arguments that need no sentence
    write("search.js", pdoc.render.search_index(modules))
    for source, (where, title) in PAGES.items():
        write_page(source, where, title)

    problems = [*missing_names(documented), *broken_links()]
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(documented)} modules and {len(PAGES)} pages: {OUTPUT / 'index.html'}")


def leave_out_noise(module: ModuleType) -> None:
    """Annotations of arrays, whose docstrings say what they are; what Python says of a NamedTuple's fields."""
    classes = [member for member in vars(module).values() if inspect.isclass(member)]
    for member in [*vars(module).values(), *(inside for kind in classes for inside in vars(kind).values())]:
        if inspect.isfunction(member) and member.__module__.startswith("bilateral_ops"):
            kept = {}
            for name, kind in member.__annotations__.items():
                said = RECORD.sub(r"\1", kind if isinstance(kind, str) else inspect.formatannotation(kind))
                if not ARRAYS.search(said):
                    kept[name] = said if isinstance(kind, str) else kind
            member.__annotations__ = kept
    for kind in classes:
        if kind.__module__ == module.__name__ and hasattr(kind, "_fields"):
            kind.__new__.__doc__ = None
            for name in kind._fields:
                getattr(kind, name).__doc__ = None


def page_of(module: str) -> str:
    return f"{module.replace('.', '/')}.html"


def write(where: str, text: str) -> None:
    file = OUTPUT / where
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def public_modules(name: str) -> list[str]:
    module = importlib.import_module(name)
    path = () if name in CLOSED else getattr(module, "__path__", ())
    inside = [f"{name}.{entry.name}" for entry in pkgutil.iter_modules(path) if entry.name[0] != "_"]
    return [name, *(found for each in inside if each not in ROOMS for found in public_modules(each))]


def write_page(source: str, where: str, title: str) -> None:
    """One of PAGES, its links to others of them and its pictures brought along."""
    folder = (ROOT / source).parent

    def relocated(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        path, _, fragment = target.partition("#")
        file = (folder / path).resolve()
        if picture:
            place = OUTPUT / "images" / file.name
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place)
            return f"![{text}](images/{file.name})"
        if not file.exists():
            sys.exit(f"{source}: there is no {target}")
        page = PAGES.get(file.relative_to(ROOT).as_posix())
        # What is only in the repository is named, not linked to.
        return f"[{text}]({page[0]}{'#' * bool(fragment)}{fragment})" if page else text

    text = re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", relocated, (ROOT / source).read_text(encoding="utf-8"))
    template = pdoc.render.env.get_template("page.html.jinja2")
    write(where, template.render(title=title, content=to_html(text), base=""))


class Page(HTMLParser):
    """What an HTML file links to, and the places in it that can be linked to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.places.add(value)
            elif name in ("href", "src") and value:
                self.links.append(unquote(value))


def missing_names(modules: list[str]) -> list[str]:
    from bilateral_ops.ops import OPERATIONS

    operations = {f.__name__ for operation in OPERATIONS.values() for f in (operation.function, operation.vjp) if f}
    found = []
    for name in modules:
        module: ModuleType = importlib.import_module(name)
        public = operations if name in REFERENCES else set(getattr(module, "__all__", ()))
        places = Page(OUTPUT / page_of(name)).places
        found += [f"{name}.{missing} has no docstring" for missing in sorted(public - places)]
    return found


def broken_links() -> list[str]:
    pages = {file.resolve(): Page(file) for file in OUTPUT.rglob("*.html")}
    broken = []
    for file, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, fragment = link.partition("#")
            target = (file.parent / path).resolve() if path else file
            if not target.exists() or (fragment and target in pages and fragment not in pages[target].places):
                broken.append(f"{file.relative_to(OUTPUT)}: there is no {link}")
    return broken


if __name__ == "__main__":
    main()
