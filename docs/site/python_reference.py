"""The Python reference: a page per public module, from the docstrings."""

import ast
import importlib
import importlib.util
import inspect
import os
import re
import sys
from functools import partial
from pathlib import Path
from types import FunctionType

from prose import restructured

ROOT = Path(os.environ["CHUNKGRPO_ROOT"])

TITLES = {  # of the package's own page, by the module that defines a name; in this order
    "schedule": "Schedules",
    "sampler": "Samplers",
    "window": "Windows",
    "noise": "Noise",
    "trajectory": "Trajectories",
    "chunks": "Chunks",
    "objective": "Objective",
    "weights": "Weights of steps",
    "_divergences": "Divergences",
    "credit": "Credit",
    "norms": "Norms",
    "_diversity": "Diversity",
    "recipes": "Recipes",
    "_self_check": "Self-check",
    "_metrics": "Metrics",
    "_generated": "Statistics and reports",
    "training": "Embedded trainer",
    "_part": "Shards and lengths",
    "process": "Process",
    "errors": "Errors",
}

ALIASES = ("ArrayLike", "NDArray", "AnyArray", "Doubles", "Numbers", "Guidance", "Step", "VelocityFunction", "Penalty", "RatioBias")


def public_modules(package):
    """(dotted name, file) of each public module, the package first: all but those whose names their package re-exports."""

    def walk(name, folder):
        init = folder / "__init__.py"
        yield name, init
        hidden = set(origins(init).values())
        for path in sorted(folder.iterdir()):
            if path.name.startswith("_") or path.stem in hidden:
                continue
            if (path / "__init__.py").exists():
                yield from walk(f"{name}.{path.name}", path)
            elif path.suffix == ".py":
                yield f"{name}.{path.stem}", path

    return walk(package.name, package)


def absent(package):
    """The top-level packages that the binding imports and that are not installed here: Sphinx stands in for them."""
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
    found -= {package.name, *sys.stdlib_module_names}
    return sorted(name for name in found if importlib.util.find_spec(name) is None)


def exported(path):
    """The names in a module's __all__, read without importing it; None without one."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
            return [ast.literal_eval(item) for item in node.value.elts]
    return None


def origins(path):
    """{name: the sibling module that it is imported from} of a package's __init__.py."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {alias.asname or alias.name: node.module or "" for alias in node.names}
    return found


def heading(text, mark="="):
    return f"{text}\n{mark * len(text)}\n\n"


def package_page(package):
    """`chunkgrpo` itself: its manual, then its names by topic."""
    init = package / "__init__.py"
    where, topics = origins(init), {}
    for name in exported(init):
        topics.setdefault(where.get(name), []).append(name)
    page = heading(package.name) + f".. automodule:: {package.name}\n    :no-members:\n\n"
    for module in [*TITLES, *sorted(topics.keys() - TITLES.keys() - {None})]:
        if module in topics:
            page += heading(TITLES.get(module, module), "-")
            page += "".join(directive(package.name, name) for name in sorted(topics[module], key=str.lower))
    return page


def directive(module, name):
    """The directive that documents a name of an imported module."""
    what = getattr(importlib.import_module(module), name)
    if inspect.isclass(what):
        kind = "exception" if issubclass(what, BaseException) else "class"
        return f".. auto{kind}:: {module}.{name}\n    :members:\n\n"
    return f".. auto{'function' if callable(what) else 'data'}:: {module}.{name}\n\n"


def module_page(name, path, documented):
    """Another module: the names of its __all__, or those that it defines; not those that a page before has."""
    page = heading(name) + f".. automodule:: {name}\n    :members:\n"
    if exported(path) is None:
        return page
    parents = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    mine = {each: definition(parents, path, each) for each in exported(path)}
    again = [each for each, where in mine.items() if where in documented]
    documented |= set(mine.values())
    return page + "    :imported-members:\n" + (f"    :exclude-members: {', '.join(again)}\n" if again else "")


def definition(parents, path, name):
    """(module, name) that a name of a module's __all__ is imported from."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level and name in (a.asname or a.name for a in node.names):
            base = parents[: len(parents) - node.level + 1]
            return ".".join([*base, *filter(None, [node.module])]), name
    return ".".join(parents), path.stem, name


def pages(package):
    """{docname: reStructuredText} of the whole reference."""
    found, documented = {}, set()
    for name, path in public_modules(package):
        page = package_page(package) if name == package.name else module_page(name, path, documented)
        found[f"python/{name}"] = page
    return found


class Links:
    """Names in `code` of a docstring that the reference has a place for."""

    def __init__(self, package):
        self.modules = {name for name, _ in public_modules(package)}
        self.names = {
            module: {each: f"{module}.{each}" for each in exported(path) or ()} for module, path in public_modules(package)
        }
        self.package = package.name

    def within(self, place):
        """The links of a docstring: names of its own module come before those of the package."""
        module = max((m for m in self.modules if f"{place}.".startswith(f"{m}.")), key=len)
        return partial(self.link, {**self.names[self.package], **self.names[module]})

    def link(self, names, name):
        page = re.fullmatch(r"docs/([\w-]+)\.md", name)
        if page:
            return f":doc:`/{page[1]}`"
        bare = re.sub(r"\(.*\)$", "", name)
        if bare in self.modules:
            return f":py:mod:`{name} <{bare}>`"
        head, dot, rest = bare.partition(".")
        if head in names:
            return f":py:obj:`{name} <{names[head]}{dot}{rest}>`"
        return None


def setup(app):
    from sphinx.ext.autodoc.mock import _MockObject as Mock
    from sphinx.pycode import ModuleAnalyzer
    from sphinx.util.inspect import stringify_signature

    package = ROOT / "bindings" / "python" / "chunkgrpo"
    links = Links(package)

    def docstring(app, what, name, obj, options, lines):
        if what == "module":  # Sphinx takes the indentation away where nothing but a program follows the first line
            lines[:] = obj.__doc__.splitlines()
        lines[:] = restructured("\n".join(lines), links.within(name)).splitlines()

    def signature(app, what, name, obj, options, signature, returns):
        """A class whose base is absent has the signature of its own __init__, not that of the stand-in."""
        if what == "class" and issubclass(obj, Mock) and "__init__" in vars(obj):
            own = inspect.signature(obj.__init__)
            own = own.replace(parameters=list(own.parameters.values())[1:], return_annotation=own.empty)
            return stringify_signature(own), returns
        return None

    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-process-signature", signature)
    Mock.__sub__ = Mock.__or__ = Mock.__ror__ = lambda self, other: self
    Mock.__call__ = undecorated(Mock.__call__)
    ModuleAnalyzer.analyze = without_overloads(ModuleAnalyzer.analyze)


def without_overloads(analyze):
    """Sphinx would print a function's overloads, for type checkers, in place of the signature with every keyword."""

    def analyzed(self):
        analyze(self)
        self.overloads = {}

    return analyzed


def undecorated(call):
    """A decorator of a package that is not installed gives the function back, so that it is documented."""

    def called(self, *arguments, **keywords):
        if len(arguments) == 1 and not keywords and isinstance(arguments[0], FunctionType):
            return arguments[0]
        return call(self, *arguments, **keywords)

    return called
