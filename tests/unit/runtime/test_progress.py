"""Counts: against what MMEngine's hooks see, and where a resumed run has to go on."""

from raydet3d.runtime.progress import Phase, Progress


def test_within_an_iteration_a_resumed_run_goes_on_after_it() -> None:
    progress = Progress()
    for _ in range(3):
        progress.finish_iter()
    assert progress.state_dict() == {"epoch": 0, "iter": 3, "round": 0, "batch": 3, "validated": 0}
    progress.phase = Phase.ITER
    assert progress.iter == 3  # what hooks read
    assert progress.state_dict()["iter"] == progress.state_dict()["batch"] == 4
    progress.finish_iter()
    assert progress.state_dict()["iter"] == 4


def test_within_after_train_epoch_a_resumed_run_begins_the_next() -> None:
    progress = Progress(epoch=1, iter=20, data_pass=1, batch=10)
    progress.phase = Phase.EPOCH
    assert progress.state_dict() == {"epoch": 2, "iter": 20, "round": 2, "batch": 0, "validated": 0}
    progress.finish_epoch()
    assert (progress.epoch, progress.data_pass, progress.batch) == (2, 2, 0)


def test_load_state_dict_restores_the_counts() -> None:
    progress = Progress()
    progress.load_state_dict({"epoch": 2, "iter": 25, "round": 2, "batch": 5, "validated": 20})
    progress.finish_pass()
    assert (progress.epoch, progress.data_pass, progress.batch, progress.iter) == (2, 3, 0, 25)
