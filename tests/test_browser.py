"""The notebooks as a reader has them: in JupyterLab in Chromium, explorers moved by mouse and keyboard.

00 and 04 are run through; of the others, to save time, the cells that their explorers need (nbval runs them all).
Skipped where there is no browser; KDTUTOR_REQUIRE_BROWSER=1 makes that a failure.
"""

import ast
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import symtable
import sys
import time
import urllib.request
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
RUN_THROUGH = ("00", "04")
RUN_LIMIT_S = 600  # for the cells of a notebook, on a machine that is busy with other things


def skip_or_fail(reason: str):
    if os.environ.get("KDTUTOR_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and KDTUTOR_REQUIRE_BROWSER is 1")
    pytest.skip(f"{reason}; the explorers were not tried in a browser")


@pytest.fixture(scope="module")
def chromium():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_or_fail("playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        skip_or_fail(f"no browser found: none of {', '.join(BROWSERS)} is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks, with settings of its own; a token is part of it."""
    home = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(NOTEBOOKS, home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "solutions"))
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    places = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    command = [
        sys.executable, "-m", "jupyterlab", str(home / "notebooks"), "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    log = home / "log.txt"
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **{name: str(home / place) for name, place in places.items()}},
        )  # fmt: skip
    try:
        _wait_until_it_answers(f"http://127.0.0.1:{port}/api/status?token={token}", process, log)
        # A workspace for each: JupyterLab would otherwise open what the page before it had open.
        yield lambda name: f"http://127.0.0.1:{port}/lab/workspaces/{Path(name).stem}/tree/{name}?token={token}"
    finally:
        _end(process)


def _wait_until_it_answers(address, process, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            urllib.request.urlopen(address, timeout=10).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not answer: {log.read_text(encoding='utf-8')}")


def _end(process):
    """The server and the kernels it started."""
    stop = getattr(os, "killpg", None) or os.kill
    stop(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        stop(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()


@pytest.fixture(params=NAMES)
def page(request, chromium, server):
    """A notebook, open and with an idle kernel; its stored outputs are taken away, so that only new ones are seen."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.complaints = []
    page.notebook = request.param
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(server(request.param))
    page.wait_for_function(
        """name => {
            const panel = window.jupyterapp?.shell.currentWidget;
            return panel?.context?.path === name && panel.sessionContext.session?.kernel?.status === "idle";
        }""",
        arg=request.param,
    )
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    assert all(cell["execution_count"] is None and not cell["outputs"] for cell in page.evaluate(CELLS))
    yield page
    context.close()


RUN = """async ([numbers, limit]) => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    const code = notebook.widgets.map((cell, i) => [cell, i]).filter(([cell, _]) => cell.model.type === "code");
    const late = new Promise((_, no) => setTimeout(() => no(new Error("the notebook did not end in time")), limit));
    const run = async () => {
        for (const number of numbers) {
            notebook.activeCellIndex = code[number][1];
            notebook.deselectAll();
            if (!await window.jupyterapp.commands.execute("notebook:run-cell")) return false;
        }
        return true;
    };
    return await Promise.race([run(), late]);
}"""
RUN_ALL = """async limit => {
    const late = new Promise((_, no) => setTimeout(() => no(new Error("the notebook did not end in time")), limit));
    return await Promise.race([window.jupyterapp.commands.execute("notebook:run-all-cells"), late]);
}"""
CELLS = """() => window.jupyterapp.shell.currentWidget.model.toJSON().cells.filter(cell => cell.cell_type === "code")"""
SHOW_CELL = """async number => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    const code = notebook.widgets.map((cell, i) => [cell, i]).filter(([cell, _]) => cell.model.type === "code");
    notebook.activeCellIndex = code[number][1];
    await notebook.scrollToItem(code[number][1], "start");
}"""


def test_cells_run_and_every_explorer_follows(page):
    sources = ["".join(cell["source"]) for cell in page.evaluate(CELLS)]
    limit = 1000 * RUN_LIMIT_S
    if page.notebook.startswith(RUN_THROUGH):
        numbers = list(range(len(sources)))
        ended = page.evaluate(RUN_ALL, limit)
    else:
        numbers = needed_by_explorers(sources)
        ended = page.evaluate(RUN, [numbers, limit])
    cells = page.evaluate(CELLS)
    assert errors(cells) == []
    assert ended
    assert [cells[number]["execution_count"] for number in numbers] == list(range(1, len(numbers) + 1))

    explorers = [number for number, cell in enumerate(cells) if holds_widget(cell)]
    assert explorers == holding_explorers(sources)
    for number in explorers:
        explorer = scrolled_to(page, number)
        for slider in explorer.locator(".widget-slider").all():
            follows_keyboard(explorer, slider)
            follows_mouse(page, explorer, slider)
    assert page.locator(".jupyter-widgets-error-widget").count() == 0
    assert errors(page.evaluate(CELLS)) == []
    assert page.complaints == []


def holding_explorers(sources) -> list[int]:
    return [number for number, source in enumerate(sources) if re.search(r"\w+Explorer\(", source)]


def needed_by_explorers(sources) -> list[int]:
    """The cells that show an explorer, and before them those that make or change a name that is needed."""
    explorers = holding_explorers(sources)
    assert explorers, "every notebook has an explorer"
    needed, chosen = set(), []
    for number in reversed(range(explorers[-1] + 1)):
        made, used = names(sources[number])
        if number in explorers or number < 2 or made & needed:
            chosen.append(number)
            needed |= used
    return chosen[::-1]


def names(source) -> tuple[set[str], set[str]]:
    """The notebook's names that a cell makes or changes, and those that it uses; not what is local to a function."""
    made, used, inner = set(), set(), [symtable.symtable(source, "cell", "exec")]
    for symbol in inner[0].get_symbols():
        if symbol.is_assigned() or symbol.is_imported():
            made.add(symbol.get_name())
    for table in inner:
        inner += table.get_children()
        top = table is inner[0]
        used |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            made |= {root(node)} & used  # a.b = ..., a[b] = ...
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            made |= {root(node.value.func)} & used  # a.append(...)
    return made, used


def root(node) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return getattr(node, "id", "")


def test_what_explorers_need_is_found():
    sources = [
        "import torch", "from kdtutor import data", "x = torch.ones(3)\nnot_needed = 1", "print(x)", "x[0] = 2",
        "def f(y):\n    return y + z", "z = {}\nz.update(a=1)", "q = [x for x in range(5)]\ny = 1",
        "TemperatureExplorer(f(x), [y for y in (1, 2)])", "x = 7",
    ]  # fmt: skip
    assert needed_by_explorers(sources) == [0, 1, 2, 4, 5, 8]
    assert needed_by_explorers([*sources[:5], sources[6], sources[5], *sources[7:]]) == [0, 1, 2, 4, 5, 6, 8]


def scrolled_to(page, number: int):
    """The explorer of code cell `number`, in sight. Cells grow while others are drawn, so one scroll may miss."""
    explorer = page.locator(".kdtutor-explorer:visible")
    for _ in range(60):
        page.evaluate(SHOW_CELL, number)
        if explorer.count() == 1:
            return explorer
        page.wait_for_timeout(1000)
    raise AssertionError(f"code cell {number} never showed its explorer")


def errors(cells) -> list[str]:
    return [
        json.dumps(output)[:2000]
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]


def holds_widget(cell) -> bool:
    return any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in cell["outputs"])


def picture(explorer) -> tuple[str, str]:
    """What the explorer shows: the picture's bytes, and the words for those who cannot see it."""
    return tuple(explorer.locator("img").evaluate("image => [image.src, image.alt]"))  # both of one and the same moment


def wait_for_another(explorer, before) -> tuple[str, str]:
    """The next picture; its words must have changed with it."""
    for _ in range(300):
        after = picture(explorer)
        if after[0] != before[0]:
            assert after[0].startswith("data:image/png;base64,")
            assert after[1] != before[1]
            loaded = "image => image.complete && image.naturalWidth > 0"
            assert explorer.locator("img").evaluate(loaded)
            return after
        time.sleep(0.1)
    raise AssertionError("the picture stayed as it was")


def settled(explorer) -> tuple[str, str]:
    """The picture once moves that are still on their way have arrived."""
    now = picture(explorer)
    for _ in range(100):
        time.sleep(0.3)
        before, now = now, picture(explorer)
        if now == before:
            return now
    raise AssertionError("the picture never came to rest")


def follows_keyboard(explorer, slider):
    handle = slider.get_by_role("slider")
    handle.focus()
    handle.press("Home")  # where it stands now depends on the notebook
    shown = settled(explorer)
    for key in ("ArrowRight", "PageUp", "ArrowLeft", "End", "PageDown", "Home"):
        handle.press(key)
        wait_for_another(explorer, shown)
        shown = settled(explorer)


def follows_mouse(page, explorer, slider):
    shown = settled(explorer)
    handle, track = slider.get_by_role("slider").bounding_box(), slider.locator(".noUi-base").bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + 0.6 * track["width"], handle["y"] + handle["height"] / 2, steps=5)
    page.mouse.up()
    wait_for_another(explorer, shown)
    settled(explorer)
