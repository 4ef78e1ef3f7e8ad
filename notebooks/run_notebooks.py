"""Runs the notebooks of this folder and stores what they give, for readers who look at them without running them.

    python notebooks/run_notebooks.py instance semantic panoptic

M2F_NOTEBOOK_STEPS shortens their training; what is stored should come from runs without it.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
SECONDS = 600  # that a cell may take


def run_notebook(task: str) -> nbformat.NotebookNode:
    """The notebook with its outputs, from a new kernel.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(FOLDER / f"{task}.ipynb", as_version=4)
    settings = {"timeout": SECONDS, "kernel_name": "python3", "coalesce_streams": True, "record_timing": False}
    NotebookClient(notebook, resources={"metadata": {"path": str(FOLDER)}}, **settings).execute()
    return notebook


def main(tasks: list[str]):
    # A kernel says here that a widget for progress bars is not installed, with the path of a package.
    os.environ["PYTHONWARNINGS"] = "ignore"
    for task in tasks:
        notebook = run_notebook(task)
        notebook.metadata.pop("language_info", None)  # of the Python that ran it
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # when each cell ran, which some Jupyters store
        nbformat.write(notebook, FOLDER / f"{task}.ipynb")
        print(f"{task}: {(FOLDER / f'{task}.ipynb').stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
