"""``ray=dict(...)``: what is read, what is refused; checked against the sentences a user should see."""

import pytest

from raydet3d.errors import InputError
from raydet3d.launch.options import RayOptions


def test_defaults_leave_the_number_of_workers_to_the_cluster():
    options = RayOptions.from_config(None)
    assert options.num_workers is None
    assert options.gpus_per_worker is None
    assert options.threads_per_worker == 1


def test_the_flag_goes_before_the_config():
    assert RayOptions.from_config({"num_workers": 4}, workers=0).num_workers == 0
    assert RayOptions.from_config({"num_workers": 4}).num_workers == 4


def test_a_misspelt_option_is_named_with_the_nearest():
    with pytest.raises(InputError, match="ray has no option 'num_worker'; did you mean 'num_workers'"):
        RayOptions.from_config({"num_worker": 2})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_workers", -1),
        ("num_workers", 1.5),
        ("num_workers", "2"),
        ("num_workers", True),
        ("cpus_per_worker", -0.5),
        ("cpus_per_worker", None),
        ("threads_per_worker", 0),
        ("max_failures", None),
        ("dashboard", 1),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(key, value):
    with pytest.raises(InputError, match=f"ray.{key} must be .*got "):
        RayOptions.from_config({key: value})
