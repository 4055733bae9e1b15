"""What commands of the documentation find instead of pip and nox: `python programs.py pip install '.[demo]'`.

They say whether what is asked for is there: 0, 1 with a sentence, or ABSENT where it is an extra that is not installed,
or where the tests were taken along without what is asked about.
"""

from __future__ import annotations

import ast
import importlib.metadata
import shlex
import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
NOXFILE = ROOT / "noxfile.py"
ABSENT = 77


def extras() -> dict[str, list[str]]:
    """The requirements of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(project["optional-dependencies"])


def sessions() -> set[str]:
    """The names of nox's sessions."""
    found = set()
    nodes = ast.parse(NOXFILE.read_text(encoding="utf-8")).body
    assigned = [(node.targets[0], node.value) for node in nodes if isinstance(node, ast.Assign)]
    constants = {name.id: value for name, value in assigned if isinstance(name, ast.Name)}
    for node in nodes:
        for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            words = {word.arg: word.value for word in getattr(decorator, "keywords", ())}
            name = words["name"].value if "name" in words else node.name
            pythons = words.get("python", ast.Tuple([]))
            pythons = constants[pythons.id] if isinstance(pythons, ast.Name) else pythons
            found |= {name, *(f"{name}-{python.value}" for python in pythons.elts)}
    return found


def pip(*arguments: str) -> int:
    """`pip install`: the package's extras must be there. What other packages are is not asked."""
    for argument in arguments:
        name, bracket, rest = argument.partition("[")
        if name not in (".", "bilateral_ops") or not bracket:
            continue
        for extra in rest.rstrip("]").split(","):
            if extra not in extras():
                print(f"there is no extra {extra}", file=sys.stderr)
                return 1
            if not _installed(extra):
                return ABSENT
    return 0


def _installed(extra: str) -> bool:
    for text in extras()[extra]:
        requirement = Requirement(text)
        if requirement.name == "bilateral_ops":
            if not all(map(_installed, requirement.extras)):
                return False
        elif requirement.marker is None or requirement.marker.evaluate():
            try:
                importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                return False
    return True


def nox(*arguments: str) -> int:
    """`nox -s NAMES [-- …]`: the sessions must be there."""
    if not NOXFILE.exists():
        return ABSENT
    named = arguments[: arguments.index("--")] if "--" in arguments else arguments
    missing = [name for name in named if not name.startswith("-") and name not in sessions()]
    if missing:
        print(f"nox has no session {', '.join(missing)}", file=sys.stderr)
    return len(missing) and 1


def install(folder: Path, package: Path) -> None:
    """Put them, and the package's own command, into a folder for the PATH."""
    itself, python = shlex.quote(str(Path(__file__).resolve())), shlex.quote(sys.executable)
    main = f"import sys; sys.path.insert(0, {str(package)!r}); from bilateral_ops.cli import main; sys.exit(main())"
    commands = {name: f'{python} {itself} {name} "$@"' for name in ("pip", "nox")}
    commands |= {"bilateral-ops": f'{python} -c {shlex.quote(main)} "$@"', "python": f'{python} "$@"'}
    for name, command in commands.items():
        (folder / name).write_text(f"#!/bin/sh\nexec {command}\n", encoding="utf-8")
        (folder / name).chmod(0o755)


if __name__ == "__main__":
    program, *rest = sys.argv[1:]
    sys.exit({"pip": pip, "nox": nox}[program](*rest))
