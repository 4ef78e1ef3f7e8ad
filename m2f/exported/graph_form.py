"""What an exported graph is: its format, sizes, type of weights and outputs."""

from dataclasses import dataclass
from importlib.util import find_spec

# Format -> ending of the graph's file.
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2", "aoti": ".pt2"}
# Packages beyond m2f's own that make a graph, and that run it; and the extra that brings both.
MADE_WITH = {"onnx": ("onnx", "onnxscript"), "openvino": ("openvino",), "torch-export": (), "aoti": ()}
COMPRESSED_WITH = "nncf"
RUN_WITH = {"onnx": ("onnxruntime",), "openvino": ("openvino",), "torch-export": (), "aoti": ()}
DTYPES = ("float32", "bfloat16", "float16")
COMPRESSIONS = ("none", "int8-weights")
POSTS = ("none", "semantic", "instance", "panoptic")
# What each kind of outputs is called, in the order of the graph.
OUTPUTS = {
    "none": ("class_queries_logits", "masks_queries_logits"),
    "semantic": ("labels",),
    "instance": ("scores", "labels", "masks"),
    "panoptic": ("ids", "segment_ids", "segment_labels", "segment_scores"),
}
SIZE_DIVISOR = 32
# Of a dynamic graph, in pixels and images. Of a map with one row torch takes other strides, and so another graph.
LEAST_EDGE, LARGEST_EDGE, LARGEST_BATCH = 64, 8192, 256


@dataclass(frozen=True)
class GraphForm:
    """
    format: of `FORMATS`.
    size: (height, width) of every input, multiples of 32; None: any multiples of 32.
    batch: images of every input; None: any number.
    dtype: of the weights in the file. ONNX and OpenVINO files with "float16" compute in float32 all the same.
    post: "none" for logits, else the finished results of a task at the input's size.
    padding: whether images may end before the input does, so that `sizes` is an input.
    compress: "int8-weights" keeps the weights of products in 8 bits and computes in float. Of OpenVINO's graphs.

    Raises:
        ValueError: a value is unknown, or two do not go together.
    """

    format: str = "onnx"
    size: tuple[int, int] | None = None
    batch: int | None = None
    dtype: str = "float32"
    post: str = "none"
    padding: bool = True
    compress: str = "none"

    def __post_init__(self):
        if self.compress == "int8":
            raise ValueError(
                "the whole network in int8 is not exported: others measured that such a decoder finds nothing in 8 "
                "bits (AP 0.0002); use int8-weights"
            )
        for name, value, known in (
            ("format", self.format, tuple(FORMATS)),
            ("dtype", self.dtype, DTYPES),
            ("post", self.post, POSTS),
            ("compress", self.compress, COMPRESSIONS),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; use one of {', '.join(known)}")
        if self.dtype == "bfloat16" and self.format in ("onnx", "openvino"):
            raise ValueError(f"{self.format} files of m2f have no bfloat16; use float32 or float16")
        if self.compress != "none" and self.format != "openvino":
            raise ValueError(f"{self.format} files are not compressed to {self.compress}; use the format openvino")
        if self.batch is not None and not 1 <= self.batch <= LARGEST_BATCH:
            raise ValueError(f"the batch is {self.batch}; from 1 to {LARGEST_BATCH} images can be exported")
        for edge in self.size or ():
            if edge % SIZE_DIVISOR or not SIZE_DIVISOR <= edge <= LARGEST_EDGE:
                nearest = min(max(SIZE_DIVISOR, round(edge / SIZE_DIVISOR) * SIZE_DIVISOR), LARGEST_EDGE)
                raise ValueError(
                    f"the size {'x'.join(map(str, self.size or ()))} has an edge of {edge}; multiples of "
                    f"{SIZE_DIVISOR} up to {LARGEST_EDGE} are needed, such as {nearest}"
                )

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("pixel_values", "sizes") if self.padding else ("pixel_values",)

    @property
    def outputs(self) -> tuple[str, ...]:
        return OUTPUTS[self.post]


def check_compression(form: GraphForm):
    """Raise ImportError where the package is missing that compresses a graph."""
    if form.compress != "none" and find_spec(COMPRESSED_WITH) is None:
        raise ImportError(f"{form.compress} needs {COMPRESSED_WITH}, which is not installed: pip install 'm2f[int8]'")


def check_packages(format: str, packages: dict[str, tuple[str, ...]]):
    """Raise ImportError where a package is missing that a format needs, with what installs it."""
    if missing := [name for name in packages[format] if find_spec(name) is None]:
        raise ImportError(
            f"the format {format} needs {', '.join(missing)}, which is not installed: pip install 'm2f[{format}]'"
        )
