"""A page in the browser that segments one's own pictures: what `m2f demo` serves. Made with Gradio, an extra."""

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from m2f.image_processing.image_processing_m2f import TASKS
from m2f.inference.segmentation_result import SegmentationResult
from m2f.inference.segmenter import Segmenter

COLUMNS = ("number", "class", "score", "pixels")
JSON_NAME = "segments.json"
_AUTO = "as trained"
_LIVE_MODELS = 2  # in memory
_HEIGHT = 360  # of the pictures on the page, in its pixels


def make_page(checkpoints: Sequence[str], device: str | None, dtype: str, examples: Sequence[Path] = ()) -> Any:
    """The page, a `gradio.Blocks`; `launch` of it serves it.

    Args:
        checkpoints: folders, Hub ids or bundled names that can be chosen. A visitor cannot name others.
        device, dtype: see `Segmenter.from_pretrained`.
        examples: pictures to try.

    Raises:
        ValueError: Gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ValueError('the page needs Gradio, which is not installed: pip install "m2f[demo]"') from error
    segment = segmenting(gradio, lru_cache(_LIVE_MODELS)(_loading(device, dtype)))
    with gradio.Blocks(title="m2f", analytics_enabled=False) as page:
        gradio.Markdown("# m2f\nDrop a picture, and see its segments.")
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(
                    type="filepath", label="picture", sources=["upload", "clipboard"], height=_HEIGHT
                )
                checkpoint = gradio.Dropdown(list(checkpoints), value=checkpoints[0], label="checkpoint")
                task = gradio.Radio([_AUTO, *TASKS], value=_AUTO, label="task")
                own = gradio.Checkbox(True, label="the checkpoint's own thresholds", elem_id="own-thresholds")
                step: dict[str, Any] = {"step": 0.05, "visible": False}
                threshold = gradio.Slider(0, 1, 0.5, label="threshold", info="lowest score of a segment", **step)
                mask = gradio.Slider(0, 1, 0.5, label="mask threshold", info="of a pixel in a segment", **step)
                button = gradio.Button("Segment", variant="primary", elem_id="segment")
            with gradio.Column():
                overlay = gradio.Image(
                    label="segments",
                    format="png",
                    elem_id="overlay",
                    interactive=False,
                    height=_HEIGHT,
                    buttons=["download", "fullscreen"],  # by default also one that sends the picture to a server
                )
                table = gradio.Dataframe(
                    headers=list(COLUMNS),
                    datatype=["number", "str", "number", "number"],
                    label="segments",
                    elem_id="table",
                    interactive=False,
                )
                file = gradio.File(label="COCO json", elem_id="json")
        inputs = [picture, checkpoint, task, own, threshold, mask]
        own.change(lambda checked: [gradio.update(visible=not checked)] * 2, [own], [threshold, mask])
        if examples:
            gradio.Examples([[str(path)] for path in examples], inputs=[picture], elem_id="examples")
        button.click(segment, inputs, [overlay, table, file], api_name="segment")
    return page


def launch(page: Any, host: str, port: int, in_browser: bool = False) -> str:
    """Serves the page in a thread, on this machine or network alone, and gives its address.

    Raises:
        OSError: the port is taken.
    """
    import gradio

    # Fonts of the system: the default theme asks a server for its own.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=in_browser,
        prevent_thread_lock=True,
        quiet=True,
        theme=theme,
    )
    return url


def rows_of(result: SegmentationResult) -> list[list[Any]]:
    """A row for each segment, in the order of `COLUMNS`."""
    return [
        [number, segment.label, round(segment.score, 3), segment.area]
        for number, segment in enumerate(result.segments, start=1)
    ]


def coco_of(result: SegmentationResult, name: str, id2label: dict[int, str]) -> dict[str, Any]:
    """One image in COCO's format, with its categories."""
    height, width = result.size
    annotations = [{"id": number, **entry} for number, entry in enumerate(result.to_coco(1), start=1)]
    return {
        "images": [{"id": 1, "file_name": name, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": label, "name": text} for label, text in sorted(id2label.items())],
    }


def _loading(device: str | None, dtype: str) -> Callable[[str], Segmenter]:
    return lambda checkpoint: Segmenter.from_pretrained(checkpoint, device=device, dtype=dtype)


def segmenting(gradio: Any, loaded: Callable[[str], Segmenter]) -> Callable[..., tuple[Image.Image, list, str]]:
    """What the button does: (path of the picture, checkpoint, task, whether its own thresholds are kept, threshold,
    mask threshold) to (overlay, rows, path of the json). What is wrong with a picture or a setting is shown, in one
    line."""

    kept = tempfile.TemporaryDirectory(prefix="m2f-demo-")  # until the page is gone

    def segment(picture: str | None, checkpoint: str, task: str, own: bool, threshold: float, mask_threshold: float):
        if picture is None:
            raise gradio.Error("drop a picture first", print_exception=False)
        try:
            base = loaded(checkpoint)
            chosen = None if task == _AUTO else task
            # Semantic maps have no thresholds.
            keeps = own or (chosen or base.task) == "semantic"
            given: dict[str, Any] = {"threshold": threshold, "mask_threshold": mask_threshold}
            segmenter = Segmenter(base.model, base.processor, chosen, **({} if keeps else given))
            result: Any = segmenter(picture)
        except (ValueError, OSError) as error:
            raise gradio.Error(" ".join(str(error).split()), print_exception=False) from error
        path = Path(tempfile.mkdtemp(dir=kept.name)) / JSON_NAME
        path.write_text(json.dumps(coco_of(result, Path(picture).name, segmenter.id2label)), encoding="utf-8")
        return result.plot(), rows_of(result), str(path)

    return segment
