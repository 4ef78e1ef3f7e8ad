"""What the model card of the checkpoint `nuclei` says beside what every card says."""

import contextlib
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from m2f.cli import main as m2f
from m2f.training.option_values import read_options

OPTIONS_FILE, CURVES_FILE = "training_options.yaml", "curves.png"
VAL_OPTIONS = ("--split", "val")
SHOWN_SCORE = 0.5  # from which `m2f predict` shows an instance
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "PQ")

USAGE = """```bash
m2f predict image.png
```

```python
import m2f

result = m2f.Segmenter.from_pretrained()("image.png")
```

It comes with m2f, and is what these use where no checkpoint is named. Its name is `nuclei`: `m2f val nuclei DATA`,
`m2f train --model nuclei`, `m2f predict --checkpoint nuclei`. A checkpoint's folder of that name comes first."""

LIMITS = """## What it does not do

- It knows nuclei and nothing else, in microscope images like those of BBBC038: fluorescence, and fewer of stained
  tissue. In photographs it finds nonsense.
- It sees {tile} pixels at a time, enlarged to {size}. Nuclei that are longer than {overlap} pixels may come in pieces;
  scale images so that nuclei are 10 to {overlap} pixels long.
- Stained tissue is what it is worst at: large nuclei come in pieces, and what is dark or red is taken for nuclei, as
  the pictures of failures show.
- It is a small model that shows what m2f does, and no instrument: nothing was done for medical use."""


def training_facts(run: Path) -> str:
    """Command, seed, hardware and time of a run, in Markdown."""
    options = read_options(run / OPTIONS_FILE)
    rows = list(csv.DictReader((run / "log.csv").open()))
    batch, done, seconds = options["batch_size"], 0, 0.0
    for row in rows:
        seconds += (int(row["step"]) - done) * batch / float(row["images_per_second"])
        done = int(row["step"])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        m2f(["env", "--json"])
    machine = json.loads(printed.getvalue())
    devices = ", ".join(text for name, text in machine.items() if name.startswith("device"))
    device = "CPU" if options["cpu"] else "GPU if there is one"
    return f"""From random weights, on patches of the training split alone:

```
python scripts/train_nuclei_checkpoint.py DATA FOLDER
```

| | |
|---|---|
| seed | {options["seed"]} |
| steps | {done:,} of {batch} crops of {options["crop_size"]} pixels |
| time | {seconds / 3600:.2f} hours, evaluations not counted |
| device | {device} |
| machine | {machine["processor"]}; cores: {machine["cores"]}; {devices} |
| versions | torch {machine["torch"]}, transformers {machine["transformers"]}, m2f {machine["m2f"]} |

The weights are those with the best AP on patches of the validation split. Architecture, options and tiles were chosen
on that split too, so numbers on it are somewhat better than on images that nobody has looked at."""


def numbers_section(rows: Mapping[str, Mapping[str, float]]) -> str:
    table = "\n".join(
        f"| {name} | " + " | ".join("-" if row[key] is None else f"{row[key]:.4f}" for key in NUMBERS) + " |"
        for name, row in rows.items()
    )
    return f"""## Numbers

On whole images, in tiles as the checkpoint's image processor says, from the stored float16 weights:

| images | {" | ".join(NUMBERS)} |
|---|{"---|" * len(NUMBERS)}
{table}

```
m2f val nuclei DATA {" ".join(VAL_OPTIONS)}
m2f val nuclei examples/nuclei {" ".join(VAL_OPTIONS)}
```

Sizes are COCO's: small below 32 x 32 pixels, medium below 96 x 96, large above. PQ is that of what `m2f predict`
shows: instances with a score of {SHOWN_SCORE} or more, the better one on top. The images in `examples/nuclei` are of
one kind and easier than the others."""


def failures_section(lines: Sequence[str]) -> str:
    head = "## Failures\n\nThe images of the validation split (CC0) with the lowest PQ: image, truth, prediction.\n"
    return "\n".join([head, *lines]).rstrip()
