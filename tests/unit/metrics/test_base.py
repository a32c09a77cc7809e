"""BaseMetric: what is gathered from whom, in which order, and what happens when rank 0 fails."""

import pytest

from raydet3d.dist import get_rank, get_world_size
from raydet3d.errors import InputError
from raydet3d.metrics import BaseMetric
from tests.kit.spawn import run_ranks


class Order(BaseMetric):
    """Remembers the order in which samples arrive."""

    def process(self, data_batch, data_samples):
        self.results += [sample["number"] for sample in data_samples]

    def compute_metrics(self, results):
        if "fail" in results:
            raise ValueError("cannot compute")
        return {"order": results, "rank": get_rank()}


def test_alone_with_prefix_and_twice():
    metric = Order(prefix="mine")
    metric.process(None, [{"number": 1}, {"number": 2}])
    assert metric.evaluate(2) == {"mine/order": [1, 2], "mine/rank": 0}
    metric.process(None, [{"number": 3}])
    assert metric.evaluate(1)["mine/order"] == [3]


def test_default_prefix():
    class Named(Order):
        default_prefix = "house"

    metric = Named()
    metric.process(None, [{"number": 1}])
    assert set(metric.evaluate(1)) == {"house/order", "house/rank"}


def test_evaluating_nothing_warns(caplog):
    assert Order().evaluate(0) == {"order": [], "rank": 0}
    assert "nothing to evaluate" in caplog.text


def test_refuses_an_unknown_device():
    with pytest.raises(InputError, match="collect_device must be 'cpu' or 'gpu', got 'tpu'"):
        Order(collect_device="tpu")


def gather_five():
    metric = Order()
    rank, world = get_rank(), get_world_size()
    for number in range(rank, 6, world):  # a sampler pads five samples to six
        metric.process(None, [{"number": number % 5}])
    gathered = metric.evaluate(5)
    metric.process(None, [{"number": "fail" if rank else 0}])
    try:
        metric.evaluate(2)
    except (ValueError, RuntimeError) as error:
        return gathered, repr(error)
    return gathered, "no error"


def test_ranks_gather_in_the_order_of_the_samples_and_fail_together():
    first, second = run_ranks(gather_five, 2)
    assert first[0] == second[0] == {"order": [0, 1, 2, 3, 4], "rank": 0}
    assert first[1] == "ValueError('cannot compute')"
    assert second[1] == "RuntimeError('Order failed on rank 0; its message says why')"
