"""The glossary says what the notebooks say, and all that they say."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
GLOSSARY = (FOLDER / "glossary.md").read_text(encoding="utf-8")
PATHS = sorted(FOLDER.glob("*.ipynb"))


def rows(text, *head):
    """The cells of each row of all tables that begin with these column names."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        inside = line.startswith("|") and (inside or cells[: len(head)] == list(head))
        if inside and cells[: len(head)] != list(head) and set(cells[0]) != {"-"}:
            found.append(cells)
    return found


def prose(path):
    notebook = nbformat.read(path, as_version=4)
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


WORDS = {word: (meaning, origin) for word, meaning, origin in rows(GLOSSARY, "word", "meaning", "from")}
SYMBOLS = rows(GLOSSARY, "symbol", "meaning", "shape", "in code", "notebooks")
main = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def test_tables_are_read_as_they_are():
    text = "| word | meaning here |\n|---|---|\n| a | b \\| c |\n| d | e |\n\n| other | x |\n|---|---|\n| f | g |\n"
    assert rows(text, "word", "meaning here") == [["a", "b \\| c"], ["d", "e"]]
    assert rows(text, "other") == [["f", "g"]]


@main
def test_every_word_of_a_notebook_is_in_the_glossary_with_its_meaning(path):
    table = rows(prose(path), "word", "meaning here")
    assert len(table) >= 3
    for word, meaning in table:
        assert WORDS[word][0] == meaning, word


@main
def test_every_symbol_of_a_notebook_is_in_the_glossary(path):
    known = {(symbol, code): notebooks for symbol, _, _, code, notebooks in SYMBOLS}
    for symbol, code, _ in rows(prose(path), "symbol", "in code", "meaning"):
        assert path.name[:2] in known[symbol, code], symbol


def test_each_word_stands_once_in_order_and_leads_to_its_notebook():
    table = rows(GLOSSARY, "word", "meaning", "from")
    words = [word for word, _, _ in table]
    assert len(words) == len(WORDS) >= 20
    assert words == sorted(words, key=lambda word: word.lower().lstrip("$\\"))
    for word, meaning, origin in table:
        number, name = re.fullmatch(r"\[(\d\d)\]\((\d\d_\w+\.ipynb)\)", origin).groups()
        assert meaning and name.startswith(number) and (FOLDER / name).exists()
        listed = [path.name for path in PATHS if word in [row[0] for row in rows(prose(path), "word", "meaning here")]]
        if listed:
            assert name == listed[0], f"{word} is introduced in {listed[0]}"
        else:
            text = nbformat.read(FOLDER / name, as_version=4)
            everything = "\n".join(cell.source for cell in text.cells).lower()
            assert all(part in everything for part in word.lower().split()), word


def test_each_symbol_is_explained():
    for symbol, meaning, _, _, notebooks in SYMBOLS:
        assert meaning and re.fullmatch(r"all|\d\d(, \d\d)*|\d\d to \d\d", notebooks), symbol


def test_notebook_00_leads_to_the_glossary():
    assert "(glossary.md)" in prose(PATHS[0])
