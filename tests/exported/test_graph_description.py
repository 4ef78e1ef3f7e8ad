"""The json beside a graph: what it says, and what is refused."""

import json

import pytest
from small_models import small_config

from m2f.exported.graph_description import describe, description_path, read_description, write_description
from m2f.exported.graph_form import GraphForm, check_compression, check_packages
from m2f.image_processing.image_processing_m2f import M2FImageProcessor


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a graph")
    processor = M2FImageProcessor(size={"max_height": 64, "max_width": 96}, thing_label_ids=[1])
    form = GraphForm("onnx", (64, 96), 1, post="panoptic")
    write_description(describe(form, small_config(), processor, "user/model", "mit"), path)
    return path


def test_all_that_is_needed_is_there(graph):
    fields, form = read_description(graph)
    assert form == GraphForm("onnx", (64, 96), 1, post="panoptic")
    assert fields["inputs"]["pixel_values"]["shape"] == [1, 3, 64, 96] and "sizes" in fields["inputs"]
    assert fields["outputs"]["names"] == ["ids", "segment_ids", "segment_labels", "segment_scores"]
    assert fields["preprocessing"]["resize"] == {"max_height": 64, "max_width": 96}
    assert fields["preprocessing"]["multiple_of"] == 32 and fields["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert fields["results"]["in_the_graph"]["fused"] == [0, 2, 3, 4]
    assert fields["labels"]["4"] == "LABEL_4" and fields["license"] == "mit" and fields["versions"]["torch"]


def test_the_licence_that_a_config_records_goes_before_a_card(graph):
    config = small_config(weights_license="cc-by-nc-4.0")
    fields = describe(GraphForm(), config, M2FImageProcessor(), "user/model", "mit")
    assert fields["license"] == "cc-by-nc-4.0"
    assert describe(GraphForm(padding=False), config, M2FImageProcessor(), "", None)["inputs"].keys() == {
        "pixel_values"
    }


def change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_changed_is_refused(graph):
    path = description_path(graph)
    before = path.read_text()
    for text, message in [
        (before.replace('"overlap_threshold": 0.8', '"overlap_threshold": 0.1', 1), "was changed after"),
        ("[" * 200_000, "is no json"),
        ("{", "is no json"),
        ("[]", "was not written by `m2f export`"),
        ('{"program": "another"}', "was not written by `m2f export`"),
        (before + " " * 2**22, "at most"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_description(graph)
    path.write_text(before)
    change(path, version=2)
    with pytest.raises(ValueError, match="has the form 2, and this version of m2f reads 1"):
        read_description(graph)
    path.write_text(before)
    graph.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"is not the file that model\.json describes"):
        read_description(graph)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.json beside it"):
        read_description(graph)
    with pytest.raises(FileNotFoundError, match="there is no graph"):
        read_description(graph.with_name("nothing.onnx"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "tflite"}, "unknown format 'tflite'; use one of onnx"),
        ({"dtype": "int8"}, "unknown dtype"),
        ({"post": "boxes"}, "unknown post"),
        ({"dtype": "bfloat16"}, "no bfloat16"),
        ({"size": (640, 650)}, "edge of 650; multiples of 32 up to 8192 are needed, such as 640"),
        ({"size": (0, 64)}, "edge of 0"),
        ({"size": (64, 10**9)}, "such as 8192"),
        ({"batch": 0}, "the batch is 0"),
        ({"batch": 10**6}, "from 1 to 256"),
        (
            {"compress": "int8", "format": "openvino"},
            "the whole network in int8 is not exported: .* use int8-weights",
        ),
        ({"compress": "int4", "format": "openvino"}, "unknown compress 'int4'"),
        ({"compress": "int8-weights"}, "onnx files are not compressed to int8-weights; use the format openvino"),
    ],
)
def test_forms_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        GraphForm(**fields)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("m2f.exported.graph_form.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"needs onnx, onnxscript, which is not installed: pip install 'm2f\[onnx\]'"
    ):
        check_packages("onnx", {"onnx": ("onnx", "onnxscript")})
    with pytest.raises(
        ImportError, match=r"int8-weights needs nncf, which is not installed: pip install 'm2f\[int8\]'"
    ):
        check_compression(GraphForm("openvino", compress="int8-weights"))
    check_compression(GraphForm("openvino"))


def test_other_channels_have_a_number_each():
    """A single mean and standard deviation are for all of them."""
    form = GraphForm("onnx", (64, 96), 1)
    fields = describe(form, small_config(), M2FImageProcessor(num_channels=4), "user/model", None)
    steps = fields["preprocessing"]
    assert fields["inputs"]["pixel_values"]["shape"] == [1, 4, 64, 96]
    assert (steps["mean"], steps["std"], steps["channels"][:1]) == ([0.5] * 4, [0.5] * 4, "4")
