"""Labels over two processes, with the functions that Trainer and training loops use to collect them."""

import os
import socket
from pathlib import Path

import pytest
import torch
from accelerate.state import PartialState
from accelerate.utils import gather, pad_across_processes
from test_collation import FORMS, assert_all_arrived, labels_of, two_batches


def gather_labels(rank: int, port: int, folder: str):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    PartialState._reset_state()  # what the parent process has set
    PartialState(cpu=True)
    for form in FORMS:
        # Trainer's prediction loop: the second dimension to one size, then all processes.
        padded = pad_across_processes(labels_of(mine(form, rank)), dim=1, pad_index=-100)
        torch.save(gather(padded), Path(folder, f"{form}_{rank}.pt"))
    torch.distributed.destroy_process_group()


def mine(form: str, rank: int) -> dict:
    """Gathering needs as many images on each process."""
    return {key: value[:1] for key, value in two_batches(form)[rank].items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gathered")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked, because to import torch again takes many times as long as the test.
    torch.multiprocessing.start_processes(gather_labels, (port, str(path)), nprocs=2, start_method="fork")
    return path


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_two_processes_arrive_on_both(folder, form):
    for rank in (0, 1):
        assert_all_arrived(torch.load(folder / f"{form}_{rank}.pt"), [mine(form, 0), mine(form, 1)])
