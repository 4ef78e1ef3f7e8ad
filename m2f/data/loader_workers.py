"""The worker processes of a data loader."""

import signal


def leave_signals_to_the_main_process(_worker: int):
    """A `worker_init_fn`: a Ctrl-C at the terminal reaches the workers too, and the step under way still needs them.
    They inherit the handlers; what stops them is the main process's own SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
