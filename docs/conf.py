"""The site: `nox -s docs` writes it to docs/_build/html, and takes every warning for an error."""

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
# Notebooks run in processes of their own, which inherit these: no window, and few threads beside one another.
os.environ.update(MPLBACKEND="module://matplotlib_inline.backend_inline", OMP_NUM_THREADS="2")
if find_spec("cupy") is None:  # which is large, and of which only the name is needed
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
#: What other packages' documentation describes, and names of types that mean nothing outside the sources.
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
html_sidebars: dict[str, list[str]] = {"index": [], "how-it-works": [], "gallery": []}
html_show_sourcelink = False
html_copy_source = False
html_theme_options: dict[str, Any] = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_nav_level": 2,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "show_prev_next": True,
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
}
if repository.URL:
    html_theme_options["icon_links"] = [
        {"name": "Source", "url": repository.URL, "icon": "fa-solid fa-code-branch", "type": "fontawesome"}
    ]
copybutton_exclude = ".linenos, .gp, .go"

# --- public names

#: Packages that are no part of the interface, a module that needs TensorFlow and has nothing to call; and those whose
#: modules are no part of it.
ROOMS = ("bilateral_ops.cli", "bilateral_ops.photo", "bilateral_ops.frameworks.tensorflow")
CLOSED = ("bilateral_ops.hdrnet.train",)
#: Modules that have every operation, and its VJP, without saying so in ``__all__``.
REFERENCES = [f"bilateral_ops.reference.{name}" for name in ("numpy", "numba", "cupy")]


def public_modules(name: str) -> list[str]:
    module = importlib.import_module(name)
    path = () if name in CLOSED else getattr(module, "__path__", ())
    inside = [f"{name}.{entry.name}" for entry in pkgutil.iter_modules(path) if entry.name[0] != "_"]
    return [name, *(found for each in inside if each not in ROOMS for found in public_modules(each))]


def prepare(module: ModuleType) -> None:
    """Have the names that are imported when asked for, and leave out what Python says of a NamedTuple's fields."""
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
    """All that pages load comes from the site itself."""
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
