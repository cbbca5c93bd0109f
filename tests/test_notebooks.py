"""The notebooks: that each has the form of a chapter, that its outputs are those of its code, and that it runs.

Cells tagged `raises-exception` are demonstrations of what goes wrong, and have to fail as they did. Cells tagged `exact` give the same
text on every machine.
"""

import importlib.util
import pathlib
import re

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"), reverse=True)  # the last ones take longest, and two run at a time
CHINESE = re.compile(r"[\u4e00-\u9fff]")
LONGEST = 15

specification = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(specification)
specification.loader.exec_module(execute)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(output):
    return output.get("text") or output.get("data", {}).get("text/plain", "") or "\n".join(output.get("traceback", []))


def test_headings_are_chinese_with_an_english_line_below(notebook):
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        lines = [line for line in cell.source.splitlines() if line.strip()]
        for heading, below in zip(lines, [*lines[1:], ""], strict=True):
            if re.match("#+ ", heading):
                assert CHINESE.search(heading), heading
                assert re.fullmatch(r"\*[^*]+\*", below) and not CHINESE.search(below), f"no English line under {heading!r}"


def test_every_section_is_told_in_both_languages(notebook):
    sections, current = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            if re.match("#+ ", cell.source):
                sections.append(current)
                current = ""
            current += cell.source + "\n"
    for section in [*sections, current][1:]:
        prose = "\n".join(line for line in section.splitlines() if not re.match(r"#+ |\*[^*]+\*$", line))
        if CHINESE.search(prose):
            assert len(re.findall(r"\b[a-z]{2,}\b", re.sub(r"`[^`]*`|\$[^$]*\$", "", prose))) >= 8, f"no English in {section[:40]!r}"


def test_cells_are_short(notebook):
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= LONGEST, cell.source.splitlines()[0]


def test_the_first_code_installs_what_is_missing_and_there_is_a_short_form(notebook):
    cells = code_cells(notebook)
    assert "find_spec" in cells[0].source and "%pip install" in cells[0].source
    assert any("KERAS_LM_FAST" in cell.source for cell in cells)


def test_there_are_exercises_with_folded_solutions_and_pictures(notebook):
    folded = [cell for cell in code_cells(notebook) if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert 2 <= len(folded) <= 3
    assert all(cell.metadata.get("cellView") == "form" and "答案" in cell.source for cell in folded)  # folded in Colab as well
    pictures = [output for cell in code_cells(notebook) for output in cell.outputs if "image/png" in output.get("data", {})]
    assert pictures


def test_outputs_are_of_the_present_code(notebook):
    assert notebook.metadata["keras_lm"]["code"] == execute.fingerprint(notebook), "run python notebooks/execute.py on it"
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))


def test_only_demonstrations_fail(notebook):
    for cell in code_cells(notebook):
        failed = any(output.output_type == "error" for output in cell.outputs)
        assert failed == ("raises-exception" in cell.metadata.get("tags", [])), cell.source


def test_outputs_name_no_machine(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert not re.search(r"/(home|root|work|Users|opt)/|site-packages", text_of(output)), text_of(output)[:500]


def test_pictures_of_the_documents_are_those_of_the_notebook(notebook):
    for name, picture in execute.pictures(notebook).items():
        assert (execute.PICTURES / f"{name}.png").read_bytes() == picture


def test_links_lead_somewhere(path, notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", cell.source):
                assert (path.parent / target).exists(), target


@pytest.mark.notebooks
def test_it_runs_as_it_did(path, notebook):
    """Each cell gives outputs of the kinds that are in the file."""

    def kinds(cell):
        outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        return [(output.output_type, output.get("ename"), *sorted(output.get("data", {}))) for output in outputs]

    for fresh, committed in zip(code_cells(execute.executed(path)), code_cells(notebook), strict=True):
        assert kinds(fresh) == kinds(committed), fresh.source
        if "exact" in committed.metadata.get("tags", []):
            assert list(map(text_of, fresh.outputs)) == list(map(text_of, committed.outputs)), fresh.source
