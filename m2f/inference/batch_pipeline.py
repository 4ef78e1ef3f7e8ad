"""Items go through three steps at the same time: made ready in threads, computed in batches, finished in threads."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

# A batch that is not full is computed when so many batches' worth of items came after its first one, so that an odd
# size neither waits for the end nor fills the memory.
_PATIENCE = 4


class Prepared(Protocol):
    """What the first step makes of an item."""

    @property
    def key(self) -> Hashable:
        """Items of one key may come together in a batch; None: always alone."""


@dataclass(frozen=True)
class ItemOutcome:
    """What became of an item."""

    index: int  # of the item
    item: Any
    result: Any
    error: Exception | None = None  # then there is no result


class BatchPipeline:
    """Runs items through `prepare`, `compute` and `finish`, of each of which several may be under way.

    Args:
        prepare: makes an item ready; runs in threads.
        compute: of a list of items that are ready, all of one key, the list of what was computed for each; runs in
            the caller's thread.
        finish: makes the result of an item that is ready and what was computed; runs in threads.
        batch_size: items that are computed together at most; a number, or a function of their key. Few items are
            read ahead until it is known how many of their kind come together.
        workers: threads for each of the outer steps.
        item_errors: exceptions of `prepare` and `compute` that spoil one item alone. After such an error `compute` is
            called again for each item of the batch. Other exceptions, and those of `finish` that are not
            `result_errors`, end the run.
        result_errors: exceptions of `finish` that spoil one item alone.
    """

    def __init__(
        self,
        prepare: Callable[[Any], Prepared],
        compute: Callable[[list], Sequence],
        finish: Callable[[Any, Any], Any],
        batch_size: int | Callable[[Hashable], int] = 1,
        workers: int = 2,
        item_errors: tuple[type[Exception], ...] = (ValueError, OSError),
        result_errors: tuple[type[Exception], ...] = (ValueError,),
    ):
        self.prepare, self.compute, self.finish = prepare, compute, finish
        self.workers = workers
        self._limit = batch_size if callable(batch_size) else lambda key: batch_size
        self.item_errors, self.result_errors = item_errors, result_errors

    def run(self, items: Iterable) -> Iterator[ItemOutcome]:
        """The outcome of each item, as soon as it is there. Items are taken when there is room for them."""
        readers, finishers = ThreadPoolExecutor(self.workers), ThreadPoolExecutor(self.workers)
        try:
            yield from self._run(enumerate(items), readers, finishers)
        finally:  # also if the caller wants no more
            readers.shutdown(cancel_futures=True)
            finishers.shutdown(cancel_futures=True)

    def run_in_order(self, items: Iterable) -> Iterator[ItemOutcome]:
        """The same in the order of the items."""
        early: dict[int, ItemOutcome] = {}
        wanted = 0
        for outcome in self.run(items):
            early[outcome.index] = outcome
            while wanted in early:
                yield early.pop(wanted)
                wanted += 1

    def _run(
        self, source: Iterator[tuple[int, Any]], readers: ThreadPoolExecutor, finishers: ThreadPoolExecutor
    ) -> Iterator[ItemOutcome]:
        reading: deque[tuple[int, Any, Future]] = deque()
        finishing: deque[tuple[int, Any, Future]] = deque()
        waiting: dict[Hashable, list[tuple[int, Any, Prepared]]] = {}
        largest = 1
        while True:
            ahead = 2 * largest + self.workers
            while len(reading) < ahead and (entry := next(source, None)) is not None:
                reading.append((*entry, readers.submit(self.prepare, entry[1])))
            while finishing and (finishing[0][2].done() or len(finishing) > ahead):
                yield self._outcome(*finishing.popleft())
            if not reading and not waiting:
                break
            newest = None
            if reading:
                newest, item, future = reading.popleft()
                try:
                    prepared = future.result()
                except self.item_errors as error:
                    yield ItemOutcome(newest, item, None, error)
                else:
                    waiting.setdefault(prepared.key, []).append((newest, item, prepared))
                    largest = max(largest, self._most(prepared.key))
            batch = self._next_batch(waiting, newest)
            for index, item, prepared, computed in self._computed(batch):
                if isinstance(computed, Exception):
                    yield ItemOutcome(index, item, None, computed)
                else:
                    finishing.append((index, item, finishers.submit(self.finish, prepared, computed)))
        while finishing:
            yield self._outcome(*finishing.popleft())

    def _next_batch(self, waiting: dict[Hashable, list], newest: int | None) -> list:
        """Takes a batch that is full or has waited for long, or if no item comes any more, any."""
        for key, entries in waiting.items():
            most = self._most(key)
            is_old = newest is None or newest - entries[0][0] >= _PATIENCE * most
            if len(entries) >= most or is_old:
                return waiting.pop(key)
        return []

    def _most(self, key: Hashable) -> int:
        """Items of a key that come together."""
        return 1 if key is None else self._limit(key)

    def _computed(self, batch: list[tuple[int, Any, Prepared]]) -> Iterator[tuple[int, Any, Prepared, Any]]:
        """The entries of a batch, with what was computed or the error."""
        if not batch:
            return
        computed: Sequence | None
        try:
            computed = self.compute([prepared for _, _, prepared in batch])
        except self.item_errors as error:
            computed = [error] if len(batch) == 1 else None
        if computed is None:
            for entry in batch:
                yield from self._computed([entry])
        else:
            for entry, part in zip(batch, computed, strict=True):
                yield (*entry, part)

    def _outcome(self, index: int, item: Any, future: Future) -> ItemOutcome:
        try:
            return ItemOutcome(index, item, future.result())
        except self.result_errors as error:
            return ItemOutcome(index, item, None, error)
