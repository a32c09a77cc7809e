"""Why a try ended, read from exceptions that are wrapped as Ray wraps them."""

from __future__ import annotations

import ray
import ray.train

from raydet3d.errors import InputError
from raydet3d.launch.failures import process_death, user_mistake, was_not_placed


class WorkerGroupError(Exception):
    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("workers failed")
        self.worker_failures = failures


class ControllerError(Exception):
    def __init__(self, failure: Exception) -> None:
        super().__init__("the controller failed")
        self.controller_failure = failure


class WorkerGroupStartupTimeoutError(Exception):
    pass


def test_process_death_is_found_among_the_failures_that_it_caused() -> None:
    # Rank 0 raises since its peer is gone; rank 1 is the one that died.
    failures = {0: RuntimeError("Connection reset by peer"), 1: ray.exceptions.ActorDiedError()}
    assert process_death(WorkerGroupError(failures)) == "ActorDiedError"
    assert process_death(ray.exceptions.ActorDiedError()) == "ActorDiedError"  # the controller itself


def test_lost_peers_count_as_process_death() -> None:
    reset = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:4268: Connection reset by peer.")
    assert process_death(WorkerGroupError({0: reset})) == "its peers lost it"
    # Where a rank has raised, the others miss it too; what it raised is what counts.
    assert process_death(WorkerGroupError({0: reset, 1: ZeroDivisionError("of no use")})) is None


def test_error_in_code_is_no_process_death() -> None:
    error = WorkerGroupError({0: ZeroDivisionError("of no use")})
    assert process_death(error) is None
    assert user_mistake(error) is None


def test_input_error_of_a_worker_is_found() -> None:
    error = RuntimeError("in the worker")
    error.__cause__ = InputError("ray has no option 'x'")
    assert user_mistake(WorkerGroupError({0: error})) == "ray has no option 'x'"


def test_startup_timeout_means_not_placed() -> None:
    assert was_not_placed(ControllerError(WorkerGroupStartupTimeoutError()))
    assert not was_not_placed(ControllerError(ValueError()))


class WorkerGroupStartupFailedError(Exception):
    pass


def test_death_during_startup_is_a_process_death() -> None:
    """Its cause is gone by the time it comes out of Ray's controller, which is another process."""
    assert process_death(ControllerError(WorkerGroupStartupFailedError("a worker died"))) is not None
