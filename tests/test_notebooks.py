"""The notebooks: run from top to bottom with a shortened training, and what is stored in them.

The lowest number of each lies between what a run of this length reached, from the bundled checkpoint or a weaker one
of 300 steps, and what predicting nothing (AP and PQ 0) or background everywhere (mIoU 0.38) gives.
"""

import io
import json
import re
import sys
from base64 import b64decode
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))  # as for `python notebooks/run_notebooks.py`

from run_notebooks import run_notebook  # noqa: E402

from m2f.data.dataset_formats import open_dataset  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STEPS = 16
LOWEST = {"instance": ("AP", 0.04), "semantic": ("mIoU", 0.42), "panoptic": ("PQ", 0.03)}
LARGEST_BYTES = 300_000
NAMED = [path.stem for path in NOTEBOOKS]


def read(task: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{task}.ipynb", as_version=4)


def printed(notebook: nbformat.NotebookNode) -> str:
    """All text that the cells gave."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


def pictures(notebook: nbformat.NotebookNode) -> list[Image.Image]:
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [Image.open(io.BytesIO(b64decode(data["image/jpeg"]))) for data in outputs if "image/jpeg" in data]


def number(notebook: nbformat.NotebookNode, name: str) -> float:
    """As the evaluation's cell prints it."""
    return float(re.search(rf"^{name} (\d\.\d+)", printed(notebook), re.MULTILINE)[1])


@pytest.fixture(scope="module", params=NAMED)
def run(request, tmp_path_factory):
    """(task, the notebook after it was run, its temporary folder)."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("M2F_NOTEBOOK_STEPS", str(STEPS))
        notebook = run_notebook(task)
    (work,) = folder.glob(f"m2f_{task}_*")
    return task, notebook, work


def test_there_is_one_for_each_task():
    assert NAMED == sorted(LOWEST)


def test_run_gives_the_number_that_training_ended_with(run):
    task, notebook, work = run
    name, lowest = LOWEST[task]
    results = json.loads((work / "model" / "results.json").read_text())
    assert (results["step"], results["metric"]) == (STEPS, name)
    assert lowest < results["results"][name] <= 1
    assert number(notebook, name) == pytest.approx(results["results"][name], abs=0.0015)  # printed with 3 digits


def test_run_shows_pictures_and_saves_a_model_that_says_its_task(run):
    task, notebook, work = run
    data, prediction = pictures(notebook)
    assert data.width > 500 and prediction.width > 500
    for folder in (work / "model", work / "saved"):
        config = json.loads((folder / "config.json").read_text())
        assert config["task"] == task
        assert {"model.safetensors", "preprocessor_config.json"} <= {file.name for file in folder.iterdir()}


def test_run_makes_data_of_the_bundled_masks(run):
    """Each pixel of the semantic and panoptic data has the class that the instances give it."""
    task, _, work = run
    if task == "instance":
        assert not (work / "data").exists()
        return
    for split in ("train", "val"):
        instances, made = open_dataset(ROOT / "examples" / "nuclei", split), open_dataset(work / "data", split)
        assert (made.task, len(made)) == (task, len(instances))
        names = [Path(made.name_of(index)).name for index in range(len(made))]
        for index in (0, len(instances) - 1):
            sample = made[names.index(instances.name_of(index))]
            (layer,) = sample.segments.ids
            assert layer.min() == 0  # every pixel has a segment
            labels = np.array([made.id2label[label] for label in sample.segments.class_ids.tolist()])
            nuclei = instances[index].segments.masks().any(0)
            assert np.array_equal(labels[layer] == "nucleus", nuclei)
            if task == "panoptic":
                assert (labels == "background").sum() == 1
                assert (labels == "nucleus").sum() == len(instances[index].segments.class_ids)


@pytest.mark.parametrize("task", NAMED)
def test_stored_outputs_are_of_one_whole_run(task):
    notebook = read(task)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    name, lowest = LOWEST[task]
    assert lowest < number(notebook, name) <= 1
    assert len(pictures(notebook)) == 2
    assert (ROOT / "notebooks" / f"{task}.ipynb").stat().st_size < LARGEST_BYTES


@pytest.mark.parametrize("task", NAMED)
def test_stored_text_names_no_folder_of_the_machine_that_ran_it(task):
    text = (ROOT / "notebooks" / f"{task}.ipynb").read_text()
    assert not re.findall(r"(?<![\w.])/(?:home|root|work|usr|opt|Users|mnt)/[^\s\"]*", text)
