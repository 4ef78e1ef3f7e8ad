import os
import signal

from m2f.data.loader_workers import leave_signals_to_the_main_process


def test_workers_leave_an_interrupt_to_the_main_process():
    """Handlers that a worker inherits, as of `StopSignals`, are not called; SIGTERM ends it."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    received = []
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: received.append(number))
        leave_signals_to_the_main_process(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert not received
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
