"""Runs notebooks from a fresh kernel and writes their outputs into them.

    python notebooks/execute.py                              # all of them
    python notebooks/execute.py notebooks/03_recurrent.ipynb

A fingerprint of the code goes into the file: tests/test_notebooks.py refuses outputs that are of other code. The picture of a cell that is
tagged `picture-NAME` is also written to docs/pictures/NAME.png, for the README.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import time
from pathlib import Path

import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parent
PICTURES = FOLDER.parent / "docs" / "pictures"
SECONDS = 900
"""After which a cell is given up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    for path in parser.parse_args().notebooks or sorted(FOLDER.glob("*.ipynb")):
        begin = time.perf_counter()
        print(f"{path.name} ...", end=" ", flush=True)
        notebook = executed(path)
        temporary = path.with_name(f".{path.name}.part")
        nbformat.write(notebook, temporary)
        os.replace(temporary, path)
        for name, picture in pictures(notebook).items():
            (PICTURES / f"{name}.png").write_bytes(picture)
        print(f"{time.perf_counter() - begin:.0f} s")


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run from a fresh kernel of this Python.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed that is not tagged `raises-exception`.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when, which is of no use to a reader
        if cell.cell_type == "code":
            shown = [output for output in cell.outputs if output.get("name") != "stderr"]  # logs of this machine, nothing for a reader
            cell.outputs = [_tidied(output) for output in _joined(shown)]
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    notebook.metadata["keras_lm"] = {"code": fingerprint(notebook)}
    return notebook


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Of the code in its cells, in their order."""
    code = "\n\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def pictures(notebook: nbformat.NotebookNode) -> dict[str, bytes]:
    """The PNG of each cell that is tagged `picture-NAME`, by its name."""
    found = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("picture-"):
                (image,) = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
                found[tag.removeprefix("picture-")] = base64.b64decode(image)
    return found


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Pieces of one stream made one: where a kernel cuts them is chance."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _tidied(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what a progress bar wrote over itself, and without the folders of this machine."""
    if output.output_type == "stream":
        lines = [re.split(r"[\r\x08]+", line.rstrip("\r\x08 "))[-1] for line in output.text.split("\n")]
        output.text = re.sub(r"/tmp/tmp\w+", "/tmp/scratch", "\n".join(lines))
    return output


if __name__ == "__main__":
    main()
