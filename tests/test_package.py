"""Light to import, explained, and built in one direction."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import kdtutor

ROOT = Path(kdtutor.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "shipped" not in path.parts)
MODULES = {"kdtutor." + ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}
HEAVY = (
    "matplotlib",
    "torchvision",
    "ipywidgets",
    "pandas",
    "PIL",
    "sklearn",
    "scipy",
    "tyro",
    "IPython",
    "jupyterlab",
)


def loaded_by(statement: str) -> set[str]:
    """The top-level packages in a fresh interpreter after a statement."""
    script = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_kdtutor_loads_nothing():
    assert loaded_by("import kdtutor") - loaded_by("pass") == {"kdtutor"}


def test_the_losses_load_torch_alone():
    assert loaded_by("import kdtutor.losses") - loaded_by("import torch") == {"kdtutor"}


def test_no_part_that_trains_or_audits_loads_what_only_draws_or_reads_files():
    """Nor what `import torch, tqdm.auto` loads already: tqdm looks for ipywidgets where there is a notebook."""
    parts = "data, models, methods, memory, finite, evaluate, records, train, audit"
    assert (loaded_by(f"from kdtutor import {parts}") - loaded_by("import torch, tqdm.auto")) & set(HEAVY) == set()


# --- Arrows ---


def imports(path: Path, module: str, inside_functions: bool = True) -> set[str]:
    """The full names of the modules that a file imports; relative ones resolved by hand."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if inside_functions else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else base)
    return found


GRAPH = {module: imports(path, module) for module, path in MODULES.items()}


def of_ours(module: str) -> set[str]:
    """The parts of kdtutor that a module imports, one level deep: losses, train, ..."""
    return {name.split(".")[1] for name in GRAPH[module] if name.startswith("kdtutor.")}


def within(part: str) -> list[str]:
    return [module for module in MODULES if module == f"kdtutor.{part}" or module.startswith(f"kdtutor.{part}.")]


def test_losses_import_torch_the_standard_library_and_each_other():
    for module in within("losses"):
        assert of_ours(module) <= {"losses"}, module
        foreign = {name.split(".")[0] for name in GRAPH[module]} - {"kdtutor", "torch"} - set(sys.stdlib_module_names)
        assert foreign == set(), module


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ("papers", set()),
        ("models", {"losses"}),
        ("distributed", {"models"}),
        ("records", {"distributed"}),
        ("data", {"losses", "records", "data"}),
        ("methods", {"losses", "papers", "models"}),
        ("audit", {"losses", "audit", "methods"}),  # a set-up has a method
        ("figures", {"figures", "losses"}),
    ],
)
def test_lower_parts_know_nothing_of_higher_ones(part, allowed):
    for module in within(part):
        assert of_ours(module) <= allowed, module


@pytest.mark.parametrize(
    ("part", "above"),
    [("memory", {"train"}), ("evaluate", {"train"}), ("finite", {"train"}), ("train", set()), ("compare", set())],
)
def test_nothing_imports_what_stands_above_it(part, above):
    highest = {"compare", "cli", "lab", "figures", "explorers", "exercises", "teachers"} - ({part} if part else set())
    if part == "compare":
        highest -= {"figures", "teachers"}
    for module in within(part):
        assert of_ours(module) & (highest | above) == set(), module


def test_notebooks_import_the_package_and_never_the_other_way():
    for module, names in GRAPH.items():
        assert not any(name.split(".")[0] == "notebooks" for name in names), module


def test_there_is_no_circle():
    """Among top-level imports."""
    graph = {}
    for module, path in MODULES.items():
        names = imports(path, module, inside_functions=False)
        graph[module] = {
            name for name in names if name in MODULES and name != module and not module.startswith(name + ".")
        }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in graph[module]:
                # A package's __init__ gathers its own parts; that is no circle.
                if not name.startswith(module + "."):
                    visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


# --- Words ---


def public_names(module: str) -> list[str]:
    """A package's own list, or the functions and classes of a file without an underscore."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]


@pytest.mark.parametrize("module", MODULES)
def test_every_file_is_explained(module):
    if module != "kdtutor.__main__":
        assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", [name for name in MODULES if name.count(".") == 1 and name != "kdtutor.__main__"])
def test_what_is_public_is_explained(module):
    """Also what a dataclass would only be given its signature for."""
    loaded = importlib.import_module(module)
    for name in public_names(module):
        value = getattr(loaded, name)
        if callable(value):
            assert value.__doc__ and not value.__doc__.startswith(f"{name}("), name


def test_what_could_run_code_is_not_called():
    """No pickle, no eval or exec: reading a file or an argument must not be able to run anything."""
    for module, path in MODULES.items():
        assert not GRAPH[module] & {"pickle", "marshal", "shelve", "dill", "joblib"}, module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "compile", "torch.load", "os.system"), f"{module}: {name}"
                shell = [keyword for keyword in node.keywords if keyword.arg == "shell"]
                assert not shell, f"{module}: {name} with shell"


def test_the_version_is_that_of_the_project():
    import tomllib

    project = Path(__file__).parents[1] / "pyproject.toml"
    assert tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"] == kdtutor.__version__
