"""What test_graph_formats.py runs in a process of its own: exported files where m2f is not.

python -I -S elsewhere_process.py model.onnx model.pt2 folder examples packages...
"""

import sys


class Blocker:
    """Finds the packages that must not be there, and says no."""

    names = ("torch", "transformers", "m2f")

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is not to be imported here")


onnx, program, folder, examples, *packages = sys.argv[1:]
sys.path += [examples, *packages]
blocker = Blocker()
sys.meta_path.insert(0, blocker)
from segment_with_onnxruntime import main  # noqa: E402

main(onnx, f"{folder}/a.png", f"{folder}/ids.png")
assert not any(name.partition(".")[0] in blocker.names for name in sys.modules)

blocker.names = ("transformers", "m2f")
import torch  # noqa: E402

outputs = torch.export.load(program).module()(*torch.load(f"{folder}/inputs.pt"))
torch.save(list(outputs), f"{folder}/outputs.pt")
assert not any(name.partition(".")[0] in blocker.names for name in sys.modules)
