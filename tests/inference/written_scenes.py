"""A prediction's folder, written."""

from pathlib import Path

from object_reader import NAMES, Thing, draw, object_reader

from m2f.inference.image_sources import ImageSource
from m2f.inference.prediction_folder import PredictionFolder
from m2f.inference.prediction_summary import Summary, write_summary
from m2f.inference.segmenter import Segmenter

EVIL = '<img src=x onerror="alert(1)">&\'{{ 7 * 7 }}%41#?.png'
SIZE = (64, 96)


def write_scenes(path: Path) -> tuple[PredictionFolder, Summary]:
    """The folder and the summary of two scenes and a broken image, one of them with a name that is markup."""
    folder = PredictionFolder(path, {"checkpoint": "<i>x</i>", "task": None})
    folder.begin()
    model = object_reader()
    predict = Segmenter(model, model.processor)
    sources = [ImageSource(f"/in/{name}", name) for name in (EVIL, "2.png", "10.png", "broken.png")]
    entries = folder.entries(sources)
    small, large = Thing(1, 0, 0.9, 0, 0, 8, 8), Thing(2, 1, 0.6, 16, 16, 48, 80)
    for entry, things in zip(entries, ([small], [small, large], []), strict=False):
        folder.write(entry, predict(draw(SIZE, things)))
    folder.write_failure(entries[3], "a <script> of a message")
    return folder, write_summary(folder, entries, dict(enumerate(NAMES)), [0, 1])
