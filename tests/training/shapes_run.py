"""A run on the shapes dataset as a program of its own: `shapes_run.py OUTPUT JSON`, where JSON holds fields of
`TrainingOptions`, "validation": whether to evaluate, "fixed_points": whether the loss samples the same points for any
batch, and "sharded": whether processes on CPUs share the model by FSDP2. Prints what the run says; goes on from a
checkpoint in OUTPUT."""

import gc
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

import torch  # noqa: E402
from accelerate import FullyShardedDataParallelPlugin  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402
from accelerate.utils import DistributedType  # noqa: E402
from shapes_dataset import ShapesDataset, flips, shapes_model, shapes_options, shapes_processor  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation  # noqa: E402
from m2f.training.run_folder import find_checkpoint  # noqa: E402
from m2f.training.training_run import TrainingRun  # noqa: E402
from m2f.training.training_setup import make_accelerator  # noqa: E402

MODULES_WITH_POINTS = ("m2f.modeling_m2f.point_sampling", "m2f.modeling_m2f.criterion")


def fixed_points(count: int, num_points: int, device: torch.device) -> torch.Tensor:
    """In place of random ones: the same for each mask, so that a mask's points do not depend on its batch."""
    generator = torch.Generator().manual_seed(num_points)
    return torch.rand(1, num_points, 2, generator=generator).expand(count, -1, -1).contiguous().to(device)


def fresh_accelerate():
    """Accelerate keeps devices and precision for a whole process; a run of its own in a test begins without."""
    if "WORLD_SIZE" not in os.environ:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def sharding_accelerator(options):
    """With FSDP2, which Accelerate keeps for GPUs; on CPUs it takes its switch for plain data parallelism."""
    accelerator = make_accelerator(options)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap"
    )
    return accelerator


def shapes_run(output, validation: bool = False, sharded: bool = False, **fields) -> TrainingRun:
    """A run that is ready to go on from its last checkpoint, or to begin."""
    fresh_accelerate()
    options = shapes_options(output, **fields)
    accelerator = sharding_accelerator(options) if sharded else None
    checkpoint = find_checkpoint(options, print)
    model = M2FForUniversalSegmentation.from_pretrained(checkpoint) if checkpoint else shapes_model()
    datasets = [ShapesDataset(), ShapesDataset(5, seed=1, split="val") if validation else None]
    return TrainingRun(
        options,
        model,
        shapes_processor(),
        *datasets,
        augmentation=flips(),
        checkpoint=checkpoint,
        accelerator=accelerator,
    )


def main(output: str, fields: dict):
    if fields.pop("fixed_points", False):
        for module in MODULES_WITH_POINTS:
            sys.modules[module].uniform_points = fixed_points
    run = shapes_run(output, **fields)
    outcome = run.run()
    print(outcome)
    # Which would hold the connection of the processes until Python exits, and then might wait for ever.
    assert not any(isinstance(thing, DistributedDataParallel) for thing in gc.get_objects())


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
