"""Configuration of the site, which `nox -s docs` builds in docs/_build/html with warnings as errors."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# Inherited by the processes that run notebooks, several at once: no window, and few threads each.
os.environ.update(MPLBACKEND="module://matplotlib_inline.backend_inline", OMP_NUM_THREADS="2")
if find_spec("cupy") is None:  # large, and only its name is needed
    sys.modules["cupy"] = MagicMock()

import repository
from sphinx.errors import ExtensionError

import bilateral_ops

# --- what is built

project = "bilateral_ops"
author = "The bilateral_ops developers"
copyright = author
version = release = bilateral_ops.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax from the site itself
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "equations",
    "repository",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
nitpicky = True
#: Names that the documentation of other packages describes.
nitpick_ignore_regex = [(r"py:.*", r"(torch|jax|numpy|np|typing|collections|pathlib)\..*")]

# --- pages

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4  # as GitHub names them
myst_links_external_new_tab = False
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_execution_show_tb = True
nb_merge_streams = True

# --- external links: `sphinx-build -b linkcheck`, once a week in .github/workflows/links.yml

linkcheck_ignore = [r"http://localhost", r".*/security/advisories/new$", r"https://www\.npmjs\.com/"]  # need a person
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]  # made by scripts
linkcheck_timeout = 20
linkcheck_retries = 3

# --- the API

autosummary_ignore_module_all = False
autosummary_generate_overwrite = True
autodoc_typehints = "none"  # docstrings say what arrays are
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
add_module_names = False
toc_object_entries_show_parents = "hide"

# --- how it looks

html_theme = "pydata_sphinx_theme"
html_title = "bilateral_ops"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_sidebars: dict[str, list[str]] = {page: [] for page in ("index", "how-it-works", "gallery", "contributing")}
html_show_sourcelink = False
html_copy_source = False
html_theme_options: dict[str, Any] = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_nav_level": 2,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "icon_links": [
        {"name": "Source", "url": repository.URL, "icon": "fa-solid fa-code-branch", "type": "fontawesome"},
    ],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "show_prev_next": True,
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
}
copybutton_exclude = ".linenos, .gp, .go"

# --- public names

#: Packages that are not public, and a module that needs TensorFlow and has nothing to call.
ROOMS = ("bilateral_ops.cli", "bilateral_ops.photo", "bilateral_ops.frameworks.tensorflow")
#: Public packages whose modules are not public.
CLOSED = ("bilateral_ops.hdrnet.train",)
#: Modules that define every operation and its VJP without an ``__all__``.
REFERENCES = [f"bilateral_ops.reference.{name}" for name in ("numpy", "numba", "cupy")]


def public_modules(name: str) -> list[str]:
    module = importlib.import_module(name)
    path = () if name in CLOSED else getattr(module, "__path__", ())
    inside = [f"{name}.{entry.name}" for entry in pkgutil.iter_modules(path) if entry.name[0] != "_"]
    return [name, *(found for each in inside if each not in ROOMS for found in public_modules(each))]


def prepare(module: ModuleType) -> None:
    """Import lazily imported names now, and drop the docstrings that Python gives a NamedTuple's fields."""
    for late in set(getattr(module, "__all__", ())) - vars(module).keys():
        setattr(module, late, getattr(module, late))
    for kind in vars(module).values():
        if inspect.isclass(kind) and kind.__module__ == module.__name__ and hasattr(kind, "_fields"):
            kind.__new__.__doc__ = None
            for name in kind._fields:
                getattr(kind, name).__doc__ = None


def check_public_names(app: Any, env: Any) -> None:
    """Every public module and name has a docstring and a place in the API reference."""
    from bilateral_ops.ops import OPERATIONS

    operations = {f.__name__ for operation in OPERATIONS.values() for f in (operation.function, operation.vjp) if f}
    described = set(env.get_domain("py").objects)
    missing = []
    for module in public_modules("bilateral_ops"):
        names = operations if module in REFERENCES else set(getattr(importlib.import_module(module), "__all__", ()))
        missing += {module, *(f"{module}.{name}" for name in names)} - described
    if missing:
        raise ExtensionError(f"not in the API reference, or without a docstring: {', '.join(sorted(missing))}")


def check_scripts(app: Any, exception: Exception | None) -> None:
    """Pages load nothing from other sites."""
    if exception or app.builder.name != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        loads = r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"((?:https?:)?//[^\"]*)"
        if foreign := re.findall(loads, page.read_text(encoding="utf-8")):
            raise ExtensionError(f"{page.relative_to(app.outdir)} loads {', '.join(foreign)}")


def setup(app: Any) -> None:
    for name in public_modules("bilateral_ops"):
        prepare(importlib.import_module(name))
    app.connect("env-check-consistency", check_public_names)
    app.connect("build-finished", check_scripts)
