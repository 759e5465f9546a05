"""How fast this machine multiplies matrices of the model's own sizes: the yardstick for useful FLOP/s.

For every size of product in the model, the best of several row counts is found, and on CPU the best of two ways to
use the cores: one product split over all threads, or as many single-threaded products side by side as there are
threads. The output head is tried whole and in tiles of its vocabulary. Outputs are written to allocated
memory, and operands are reused: an upper bound for a real forward pass.
"""

import heapq
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier

import torch
from measuring import wait_for
from useful_work import Product

_ROWS = {"cpu": (256, 512, 1024, 2048, 4096), "cuda": (512, 2048, 4096, 8192, 16384)}
_OUTPUTS_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 30}  # entries of an output matrix; larger ones are not tried
_TILE = 4096  # columns of a wide product when it is made piece by piece
_KEPT = 2  # ways for each size that are measured again and again: another program may have disturbed the first try
_BURSTS = 3  # a rate is the median of this many
_SECONDS_A_BURST = 0.03


@dataclass(frozen=True, slots=True)
class Way:
    """Products `(rows, inputs) x (inputs, columns)` by `lanes` single threads, or one by all threads if that is 1."""

    rows: int
    columns: int
    lanes: int


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The best ways for each size of product, with one number format on one device."""

    ways: dict[Product, list[Way]]
    dtype: torch.dtype
    device: torch.device
    threads: int

    def rate(self, products: dict[Product, int]) -> float:
        """FLOP/s now over products of these FLOP: all FLOP over the sum of the times that each size takes."""
        rates = {size: max(_rate(size, way, self) for way in ways) for size, ways in self.ways.items()}
        return sum(products.values()) / sum(flop / rates[size] for size, flop in products.items())


def find_yardstick(sizes: Iterable[Product], *, dtype: torch.dtype, device: torch.device, threads: int) -> Yardstick:
    """Try every way once and keep the best for each size."""
    blank = Yardstick({}, dtype, device, threads)
    sizes = list(sizes)
    _rate(sizes[0], Way(1, 1, 1), blank)  # a library's first call sets things up

    def best(size: Product) -> list[Way]:
        return heapq.nlargest(_KEPT, _ways(size, blank), key=lambda way: _rate(size, way, blank))

    return Yardstick({size: best(size) for size in sizes}, dtype, device, threads)


def _ways(size: Product, yardstick: Yardstick) -> Iterator[Way]:
    kind = yardstick.device.type
    for lanes in sorted({1, yardstick.threads if kind == "cpu" else 1}):
        for columns in sorted({size[1], min(size[1], _TILE)}):
            for rows in _ROWS[kind]:
                if rows * columns <= _OUTPUTS_AT_ONCE[kind]:
                    yield Way(rows // lanes, columns, lanes)


def _rate(size: Product, way: Way, yardstick: Yardstick) -> float:
    """FLOP/s: the median of a few bursts."""
    options = {"dtype": yardstick.dtype, "device": yardstick.device}
    weight = torch.randn(way.columns, size[0], **options).t()  # as linear layers hold theirs
    operands = [(torch.randn(way.rows, size[0], **options), torch.empty(way.rows, way.columns, **options))]
    operands += [(left.clone(), out.clone()) for left, out in operands * (way.lanes - 1)]

    def products(lane: int, repeats: int) -> None:
        left, out = operands[lane]
        for _ in range(repeats):
            torch.mm(left, weight, out=out)

    def timed(repeats: int) -> float:
        wait_for(yardstick.device)
        started = time.perf_counter()
        run(repeats)
        wait_for(yardstick.device)
        return time.perf_counter() - started

    with _lanes(products, way.lanes, yardstick.threads) as run:
        repeats = math.ceil(_SECONDS_A_BURST / timed(1))
        taken = statistics.median(timed(repeats) for _ in range(_BURSTS))
    return 2 * way.rows * size[0] * way.columns * way.lanes * repeats / taken


@contextmanager
def _lanes(products: Callable[[int, int], None], lanes: int, threads: int) -> Iterator[Callable[[int], None]]:
    """Something that runs `products(lane, repeats)` in every lane at once and returns when all are done."""
    torch.set_num_threads(threads)
    if lanes == 1:
        yield lambda repeats: products(0, repeats)
        return
    start = Barrier(lanes)  # so that no thread takes two lanes one after the other

    def lane_products(lane: int, repeats: int) -> None:
        start.wait()
        products(lane, repeats)

    with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def run(repeats: int) -> None:
            for _ in pool.map(lane_products, range(lanes), [repeats] * lanes):
                pass

        yield run
    torch.set_num_threads(threads)
