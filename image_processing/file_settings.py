"""A processor's file beside its caller, who says other things than the file."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import SizeDict

from m2f.image_processing.setting_types import check_setting_types

if TYPE_CHECKING:
    from m2f.image_processing.image_processing_m2f import M2FImageProcessor
    from m2f.image_processing.post_processing_mixin import PostProcessingMixin

# A caller's settings, and those of a file that are void beside them: `pad_size`, which is for images of the file's
# sizes; former names, whose value would win; and the overlap of other tiles.
_VOID = {
    "size": ("pad_size", "max_size"),
    "max_size": ("pad_size",),
    "do_resize": ("pad_size",),
    "size_divisor": ("pad_size", "size_divisibility"),
    "size_divisibility": ("pad_size",),
    "do_reduce_labels": ("reduce_labels",),
    "do_pad": ("pad_and_return_pixel_mask",),
    "tile": ("tile_overlap",),
}
# Of these a caller may repeat what the file says.
_REPEATABLE = ("do_resize", "size_divisor")


class FilePadSize(SizeDict):
    """The `pad_size` of a file. A checkpoint that was trained on small crops may be shown other images by a caller who
    says their `size`; for these it is no canvas.
    """

    sizes: tuple[Any, ...] | None = None  # what `sizes_of` says of the processor that was loaded


def file_fields(fields: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a file that hold beside what a caller gives when loading."""
    void = {
        name
        for setting, names in _VOID.items()
        if setting in given and not (setting in _REPEATABLE and given[setting] in (None, fields.get(setting)))
        for name in names
    }
    kept = {name: value for name, value in fields.items() if name not in void}
    check_setting_types(kept)  # before a size is made of what the file has
    if kept.get("pad_size") is not None:
        kept["pad_size"] = FilePadSize(**get_size_dict(kept["pad_size"], param_name="pad_size"))
    return kept


def pad_size_in_use(processor: "M2FImageProcessor | PostProcessingMixin", given: Mapping[str, Any]) -> SizeDict | None:
    """A processor's `pad_size`; None if it is a file's, and the caller gives sizes in this call or gave them since."""
    pad_size = processor.pad_size
    if not isinstance(pad_size, FilePadSize):
        return pad_size
    is_given = any(
        given.get(setting) is not None
        and (setting not in _REPEATABLE or given[setting] != getattr(processor, setting))
        for setting, names in _VOID.items()
        if "pad_size" in names
    )
    return None if is_given or pad_size.sizes != sizes_of(processor) else pad_size


def sizes_of(processor: "M2FImageProcessor | PostProcessingMixin") -> tuple[Any, ...]:
    """What decides how large images become, as values that a change of the processor leaves alone."""
    return size_fields(processor.size), processor.do_resize, processor.size_divisor


def size_fields(size: Any, is_square: bool = False) -> dict[str, int]:
    """A processor's `size` or `pad_size` as a dict, also where a caller has set it to an int (the shortest edge,
    or both edges) or to a pair."""
    is_dict = isinstance(size, Mapping | SizeDict)
    return dict(size) if is_dict else get_size_dict(size, default_to_square=is_square)
