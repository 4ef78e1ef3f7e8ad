import os
import signal
import threading

import pytest

from m2f.training.stop_signals import StopSignals


def send(number: int):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_announced(number):
    lines = []
    with StopSignals(lines.append) as signals:
        assert signals.received == 0
        send(number)
        assert signals.received == number
    assert len(lines) == 1 and signal.Signals(number).name in lines[0]


def test_a_second_interrupt_stops_at_once(monkeypatch):
    monkeypatch.setattr("m2f.training.stop_signals._ECHO_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt), StopSignals(print):
        send(signal.SIGINT)
        send(signal.SIGINT)


def test_what_a_launcher_passes_on_is_no_second_interrupt():
    with StopSignals(print) as signals:
        send(signal.SIGINT)
        send(signal.SIGINT)
        send(signal.SIGTERM)
    assert signals.received == signal.SIGINT


def test_the_former_handlers_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals(print):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_handler_that_python_cannot_put_back_stays(monkeypatch):
    """One that a program around Python installed: Python gives None for it, and takes no None."""
    get, install = signal.getsignal, signal.signal
    before = get(signal.SIGTERM)

    def given(number: int, handler):
        return None if number == signal.SIGTERM else handler

    monkeypatch.setattr(signal, "getsignal", lambda number: given(number, get(number)))
    monkeypatch.setattr(signal, "signal", lambda number, handler: given(number, install(number, handler)))
    try:
        with StopSignals(print):
            assert get(signal.SIGTERM) == before
            assert get(signal.SIGINT) != signal.default_int_handler
    finally:
        install(signal.SIGTERM, before)


def test_another_thread_than_the_main_one_sets_no_handlers():
    received = []

    def run():
        with StopSignals(print) as signals:
            received.append(signals.received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert received == [0]
