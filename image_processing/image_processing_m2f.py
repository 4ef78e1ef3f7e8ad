"""M2FImageProcessor: images and label maps to model inputs, model outputs to segments.

Computes what the original does (facebookresearch/Mask2Former); names, arguments and return types are those of
transformers' Mask2FormerImageProcessor.
"""

import json
import os
import reprlib
from typing import TYPE_CHECKING, Any

from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils import cached_file, logging

from m2f.image_processing.batching import (
    canvas_sizes,
    check_map_sizes,
    check_three_channels,
    make_inputs,
    make_targets,
)
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.file_settings import FilePadSize, file_fields, pad_size_in_use, sizes_of
from m2f.image_processing.image_loading import load_images, load_label_maps, spatial_size
from m2f.image_processing.pixel_settings import check_pixel_settings
from m2f.image_processing.post_processing_mixin import PostProcessingMixin
from m2f.image_processing.processing_steps import ProcessingStepsMixin
from m2f.image_processing.resize_rule import resized_size
from m2f.image_processing.resolution_presets import PANOPTIC_THRESHOLD, get_preset
from m2f.image_processing.setting_types import check_setting_types
from m2f.image_processing.tile_setting import check_tile
from m2f.image_processing.white_level import check_white_level

logger = logging.get_logger(__name__)

TASKS = ("panoptic", "instance", "semantic")
# Written into every processor file by some version of transformers; they name classes and set nothing.
_SERVICE_KEYS = {"image_processor_type", "processor_class", "feature_extractor_type"}
_CHECKED_FIELDS = ("task", "panoptic_threshold")
# None given for one of these stays None, as in transformers: the step is off, or an error where it is on and needs the
# value. None for any other is the default: files of transformers' former fast processors have "do_pad": null and
# "do_convert_rgb": null, and mean what their class does.
_NONE_IS_KEPT = ("do_resize", "do_rescale", "do_normalize", "resample", "rescale_factor", "image_mean", "image_std")
_SIZES = ("size", "size_divisor", "num_channels")
_NONE_IS_DEFAULT = ("do_pad", "do_convert_rgb", "do_reduce_labels", *_SIZES, *_CHECKED_FIELDS)
_NORMALIZATION = ("do_normalize", "image_mean", "image_std")
_PIXEL_FIELDS = ("do_rescale", "rescale_factor", *_NORMALIZATION, "size_divisor", "num_channels")
# Of each channel of images that are not RGB, where nobody says it: 0..1 becomes -1..1, as by transformers'
# IMAGENET_STANDARD_MEAN and IMAGENET_STANDARD_STD.
_OTHER_MEAN = _OTHER_STD = 0.5
_HUB_KEYS = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "revision", "subfolder")


class M2FImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings beside those of transformers' ImagesKwargs.

    ignore_index: value in the segmentation maps of the pixels that belong to no mask, compared before
        `do_reduce_labels`; None (default) leaves nothing out. Most data sets use 255, which is a valid id where the
        maps hold segment ids.
    do_reduce_labels: whether class 0 means background and the others are to be reduced by 1.
    num_labels: number of classes to check the segmentation maps against; None does not check.
    size_divisor: the padded size is a multiple of this; 1 or 0 for any.
    task: "panoptic", "instance" or "semantic": what the model was trained for. Read by post-processing.
    thing_label_ids: labels that are things; None: all (none for the task "semantic"). Read by post-processing.
    panoptic_threshold: default class probability threshold of the panoptic post-processing.
    tile: pixels of the image; None: no tiles. `Segmenter`, `m2f predict` and `m2f val` cut images that are higher or
        wider into overlapping tiles of this size, unless told otherwise, and resize each tile as `size` says of an
        image of that size. For a model that saw images at one scale. The processor itself, and so transformers'
        pipeline, prepares whatever image it gets as a whole.
    tile_overlap: pixels that neighbouring tiles share at least, up to half of a tile; None: a quarter of it.
    white_level: which value is white in images of more than 8 bits: a number such as 4095, "type" (the highest of the
        type), "data" (the highest of the image), or None or "auto" for the rule in m2f.image_processing.white_level,
        which warns where it has to guess. Images of 8 bits stay as they are.
    num_channels: of the images, 3 by default: grey ones become RGB, and alpha is dropped. With another number images
        must have it, see `image_loading.exact_channels`; alpha counts. `image_mean` and `image_std` are then 0.5 for
        each channel, where none are given.

    Former names that transformers' examples still pass: max_size (size["longest_edge"]), reduce_labels
    (do_reduce_labels), size_divisibility (size_divisor), pad_and_return_pixel_mask (do_pad).
    """

    ignore_index: int | None
    do_reduce_labels: bool | None
    num_labels: int | None
    size_divisor: int | None
    task: str | None
    thing_label_ids: list[int] | None
    panoptic_threshold: float | None
    tile: int | None
    tile_overlap: int | None
    white_level: str | int | float | None
    num_channels: int | None
    max_size: int | None
    reduce_labels: bool | None
    size_divisibility: int | None
    pad_and_return_pixel_mask: bool | None


class M2FImageProcessor(PostProcessingMixin, ProcessingStepsMixin, BaseImageProcessor):
    """Prepares images and segmentation maps for M2F models and turns the models' outputs into segments.

    Images are resized by PIL with their aspect ratio kept (shortest edge 800, longest at most 1333, rounded half up),
    scaled to [0, 1], normalised, and padded with 0 at the right and at the bottom to the largest height and width of
    the batch, rounded up to `size_divisor`. Differences from transformers' Mask2FormerImageProcessor: it stretches the
    image to multiples of 32 in place of padding, truncates sizes, and pads the target masks with `ignore_index`.

    `size` is an int (the shortest edge, the longest without limit), {"shortest_edge"[, "longest_edge"]},
    {"longest_edge"}, {"height", "width"} or {"max_height", "max_width"}. `pad_size` {"height", "width"} is a fixed
    canvas in place of the batch's maximum; that of a file is void beside a `size`, `do_resize` or `size_divisor` that
    a caller gives without it. `do_pad=False` pads nothing. `do_convert_rgb=False` refuses images that do
    not have 3 channels. Images are decoded and resized on the CPU, several at once in as many threads as PyTorch has,
    and normalised and padded on `device`, where the outputs are; the results are the same on each. `disable_grouping`
    and `image_seq_length` are accepted, as the base class has them, and change nothing.

    `num_channels` other than 3 is for depth, stacks and multispectral images.

    Raises:
        TypeError: an unknown setting.
        ValueError: a setting outside its range.
    """

    valid_kwargs = M2FImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_mask"]

    do_convert_rgb = True
    do_resize = True
    size = {"shortest_edge": 800, "longest_edge": 1333}
    default_to_square = False
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_pad = True
    size_divisor = 32
    do_reduce_labels = False
    task = "panoptic"
    panoptic_threshold = PANOPTIC_THRESHOLD
    ignore_index = None
    num_labels = None
    thing_label_ids: list[int] | None = None
    tile = None
    tile_overlap = None
    white_level = None
    num_channels = USUAL_CHANNELS
    pad_size: SizeDict | None

    if TYPE_CHECKING:  # the base class has no name for all that `preprocess` takes

        def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature: ...

    def __init__(self, **kwargs):
        unknown = sorted(set(kwargs) - set(self.valid_kwargs.__annotations__) - _SERVICE_KEYS)
        if unknown:
            raise TypeError(f"unknown settings {unknown}; known: {sorted(self.valid_kwargs.__annotations__)}")
        super().__init__()
        given = dict(kwargs)
        if kwargs.get("num_channels") not in (None, USUAL_CHANNELS):
            others = {"image_mean": _OTHER_MEAN, "image_std": _OTHER_STD}
            given |= {name: value for name, value in others.items() if kwargs.get(name) is None}
        self._set_attributes(**given)
        for name in _NONE_IS_KEPT:
            if name in kwargs and kwargs[name] is None:
                setattr(self, name, None)
        if isinstance(self.pad_size, FilePadSize):
            self.pad_size.sizes = sizes_of(self)

    @classmethod
    def from_preset(cls, name: str, **kwargs) -> "M2FImageProcessor":
        """The paper's test-time settings for a data set and task, such as "coco-panoptic"; `kwargs` override them.

        Raises:
            ValueError: no such preset; the message lists them.
        """
        return cls(**{**get_preset(name).processor_fields(), **kwargs})

    @classmethod
    def from_model_config(cls, config: Any, **kwargs) -> "M2FImageProcessor":
        """A processor with the `task`, `thing_label_ids` and channels of a model configuration; `kwargs` override
        them."""
        fields = {name: getattr(config, name, None) for name in ("task", "thing_label_ids")}
        fields["num_channels"] = getattr(getattr(config, "backbone_config", None), "num_channels", None)
        return cls(**{**fields, **kwargs})

    @classmethod
    def get_image_processor_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict, dict]:
        """The saved fields; `task` and `thing_label_ids` from config.json where the processor's file lacks them."""
        try:
            fields, unused = super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        except (RecursionError, TypeError, UnicodeDecodeError) as error:  # of files that are no json of fields
            raise OSError(
                f"the image processor's file in {pretrained_model_name_or_path} cannot be read "
                f"({type(error).__name__}); write it anew with save_pretrained"
            ) from error
        _check_is_mapping(fields, f"the image processor's file in {pretrained_model_name_or_path}")
        if "task" not in fields:
            hub = {key: kwargs[key] for key in _HUB_KEYS if kwargs.get(key) is not None}
            config = _read_model_config(pretrained_model_name_or_path, hub)
            fields = {**{key: config[key] for key in ("task", "thing_label_ids") if key in config}, **fields}
        return fields, unused

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs):
        """A processor from saved fields. Fields that this class does not have are left out.

        An `auto_map` is left out too: saved again without the files that it names, it makes the folder unloadable.
        So is what `kwargs` make void, such as `pad_size` beside a `size`.
        """
        _check_is_mapping(image_processor_dict, "the image processor's file")
        fields = {key: value for key, value in image_processor_dict.items() if key in cls.valid_kwargs.__annotations__}
        fields = file_fields(fields, kwargs)
        if image_processor_dict.get("image_processor_type", cls.__name__) != cls.__name__:
            fields = _adopt_foreign_fields(fields)
        return super().from_dict(fields, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The fields to save; without a `pad_size` that is void."""
        fields = super().to_dict()
        return fields if pad_size_in_use(self, {}) else {k: v for k, v in fields.items() if k != "pad_size"}

    def preprocess(self, images, segmentation_maps=None, instance_id_to_semantic_id=None, **kwargs) -> BatchFeature:
        """Model inputs from images, and targets from segmentation maps.

        Args:
            images: one image or a list: paths, URLs, bytes, file objects, PIL images of any mode, arrays, tensors or
                objects with `__array__` of (H,W), (H,W,C) or (C,H,W) with C in 1, 3, 4, or else `num_channels`;
                uint8, 16-bit (see `white_level`), bool, or float in 0..255 (with do_rescale=False: as the caller
                likes). The EXIF orientation is applied.
            segmentation_maps: one integer per pixel for each image, of the image's size: paths, PIL images, arrays or
                tensors.
            instance_id_to_semantic_id: class of each id in the maps, one dict for all images or one for each; None if
                the maps hold classes.
            kwargs: settings for this call, see M2FImageProcessorKwargs and the class.

        Returns:
            pixel_values (B,num_channels,H,W) float32; pixel_mask (B,H,W) int64, 1 at real pixels; with maps the lists
            mask_labels, (N,H,W) uint8 of 0 and 1, padded with 0, and class_labels, (N,) int64, one entry per image.
            With `return_tensors` "pt" tensors, "np" arrays, None lists of tensors.

        Raises:
            TypeError: an unknown setting.
            ValueError: an image without pixels or with other than 1, 3, 4 channels, a map of another size than its
                image, an id without a class, a label outside the range, or an image larger than `pad_size`.
        """
        if "white_level" in kwargs:  # before the base class checks types, whose message has no choices
            kwargs["white_level"] = check_white_level(kwargs["white_level"])
        if pad_size_in_use(self, kwargs) is None:
            kwargs.setdefault("pad_size", None)
        return super().preprocess(images, segmentation_maps, instance_id_to_semantic_id, **kwargs)

    # The base class calls this and the next method by names alone.
    def _standardize_kwargs(  # type: ignore[override]
        self,
        max_size: int | None = None,
        reduce_labels: bool | None = None,
        size_divisibility: int | None = None,
        pad_and_return_pixel_mask: bool | None = None,
        **kwargs,
    ) -> dict:
        """Former names to today's, sizes to SizeDict; checks the fields that the base class does not know."""
        former = {
            "do_reduce_labels": reduce_labels,
            "size_divisor": size_divisibility,
            "do_pad": pad_and_return_pixel_mask,
        }
        kwargs.update({name: value for name, value in former.items() if value is not None})
        kwargs.update({name: getattr(self, name) for name in _NONE_IS_DEFAULT if kwargs.get(name) is None})
        check_setting_types({**kwargs, "max_size": max_size})
        kwargs["num_channels"] = int(kwargs["num_channels"])
        kwargs = super()._standardize_kwargs(**kwargs)
        if max_size is not None:
            kwargs["size"] = _limit_longest_edge(kwargs["size"], max_size)
        if kwargs["thing_label_ids"] is not None:
            kwargs["thing_label_ids"] = sorted({int(label) for label in kwargs["thing_label_ids"]})
        _check_own_fields(**{key: kwargs[key] for key in ("task", "thing_label_ids", "panoptic_threshold")})
        check_pixel_settings(**{name: kwargs[name] for name in _PIXEL_FIELDS})
        check_tile(kwargs["tile"], kwargs["tile_overlap"])
        kwargs["white_level"] = check_white_level(kwargs["white_level"])
        return kwargs

    def _validate_preprocess_kwargs(  # type: ignore[override]
        self, do_center_crop=None, data_format=None, return_tensors=None, **kwargs
    ) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        if do_center_crop:
            raise ValueError("do_center_crop=True is not supported: the paper's models see the whole image")
        if data_format is not None and str(getattr(data_format, "value", data_format)) != "channels_first":
            raise ValueError(f"data_format must be channels_first, the layout of the models, got {data_format!r}")
        if return_tensors not in (None, "pt", "np"):
            raise ValueError(f"return_tensors must be 'pt', 'np' or None, got {return_tensors!r}")

    def _preprocess_image_like_inputs(
        self, images, segmentation_maps, instance_id_to_semantic_id, **settings
    ) -> BatchFeature:
        """Everything is read and checked first; the base class has filled `settings` with the processor's fields."""
        images = load_images(images, settings["input_data_format"], settings["num_channels"])
        if not settings["do_convert_rgb"]:
            check_three_channels(images, settings["num_channels"])
        if segmentation_maps is not None:
            segmentation_maps = load_label_maps(segmentation_maps, len(images))
            check_map_sizes(images, segmentation_maps)
        sizes = [spatial_size(image) for image in images]
        if settings["do_resize"]:
            sizes = [resized_size(size, dict(settings["size"])) for size in sizes]
        canvases = canvas_sizes(sizes, settings["do_pad"], settings["pad_size"], settings["size_divisor"])
        targets = {}
        if segmentation_maps is not None:
            targets = make_targets(segmentation_maps, instance_id_to_semantic_id, sizes, canvases, settings)
        return BatchFeature(data={**make_inputs(images, sizes, canvases, settings), **targets})


def _limit_longest_edge(size: SizeDict, max_size: int) -> SizeDict:
    if size.shortest_edge is None:
        raise ValueError(f"max_size limits the longest edge where size has a shortest_edge; got size {dict(size)}")
    return SizeDict(shortest_edge=size.shortest_edge, longest_edge=max_size)


def _check_own_fields(task: str, thing_label_ids: list[int] | None, panoptic_threshold: float) -> None:
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {reprlib.repr(task)}")
    if thing_label_ids and thing_label_ids[0] < 0:
        raise ValueError(f"thing_label_ids must not be negative, got {thing_label_ids[0]}")
    if not 0 <= panoptic_threshold <= 1:
        raise ValueError(f"panoptic_threshold must be in [0, 1], got {panoptic_threshold}")


def _read_model_config(path_or_repo: str | os.PathLike, hub: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json beside the processor's file, empty if there is none."""
    path = os.fspath(path_or_repo)
    if os.path.isfile(path):
        path = os.path.dirname(path) or "."
    # Offline, a file that was never cached counts as a connection error.
    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = cached_file(path, "config.json", **optional, **hub)
    if file is None:
        return {}
    try:
        with open(file, encoding="utf-8") as reader:
            fields = json.load(reader)
    except (RecursionError, ValueError) as error:
        raise OSError(
            f"{file} is no json file ({type(error).__name__}); write it anew with save_pretrained"
        ) from error
    _check_is_mapping(fields, file)
    return fields


def _check_is_mapping(fields: Any, what: str) -> None:
    if not isinstance(fields, dict):
        raise ValueError(f"{what} holds no fields, but a {type(fields).__name__}")


def _adopt_foreign_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields saved by another class (transformers' Mask2FormerImageProcessor), without what means nothing here."""
    fields = dict(fields)
    size = fields.get("size")
    size = size if isinstance(size, dict) else {}
    is_fixed = "height" in size
    if is_fixed:
        fields.pop("max_size", None)
    # transformers never reads num_labels, so the files hold values that nobody checked, and that of the first training
    # would refuse the labels of a fine-tune.
    fields.pop("num_labels", None)
    if is_fixed and size.get("height") == size.get("width") == 384:
        # The released checkpoints were converted with this size; the paper's are 800 / 1333 and more, not squashed.
        logger.warning_once(
            "The processor's file asks for images squashed to 384 x 384, which is not what the paper's models were "
            'tested with. Pass size=, such as size={"shortest_edge": 800, "longest_edge": 1333}, or use from_preset.'
        )
    return fields
