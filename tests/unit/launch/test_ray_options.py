"""``ray=dict(...)``: what is read, what is refused; checked against the sentences a user should see."""

import pytest

from raydet3d.config import Config, configs_root
from raydet3d.errors import InputError
from raydet3d.launch.ray_options import RayOptions, describe


def test_defaults_leave_the_number_of_workers_to_the_cluster():
    options = RayOptions.from_config(None)
    assert options.num_workers is None
    assert options.gpus_per_worker is None
    assert options.threads_per_worker == 1
    assert (options.min_workers, options.max_workers, options.resolved_batch_workers, options.is_elastic) == (
        1,
        1,
        None,
        False,
    )


def test_flag_overrides_the_config():
    assert RayOptions.from_config({"num_workers": 4}, workers="0").num_workers == 0
    assert RayOptions.from_config({"num_workers": 4}, workers="2-3").num_workers == (2, 3)
    assert RayOptions.from_config({"num_workers": 4}).num_workers == 4


@pytest.mark.parametrize("value", ["1-3", "1..3", " 1 - 3 ", (1, 3), [1, 3]])
def test_range_is_elastic_with_batches_of_its_upper_end(value):
    options = RayOptions.from_config({"num_workers": value})
    assert (options.min_workers, options.max_workers, options.resolved_batch_workers, options.is_elastic) == (
        1,
        3,
        3,
        True,
    )
    assert options.placement_timeout_s == 20
    assert RayOptions.from_config({"num_workers": value, "batch_workers": 8}).resolved_batch_workers == 8


def test_range_of_one_number_is_that_number():
    assert RayOptions.from_config({"num_workers": (4, 4)}).num_workers == 4


@pytest.mark.parametrize("value", ["3-1", "0-2", (1, 2, 3), (1, 2.5), "many", "-1", ""])
def test_invalid_range_is_refused(value):
    with pytest.raises(InputError, match=r"ray.num_workers must be .*got "):
        RayOptions.from_config({"num_workers": value})
    if isinstance(value, str):
        with pytest.raises(InputError, match=r"--workers must be .*got "):
            RayOptions.from_config(None, workers=value)


def test_misspelt_option_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="ray has no 'num_worker'; did you mean 'num_workers'"):
        RayOptions.from_config({"num_worker": 2})
    with pytest.raises(InputError, match="ray has no 'colour'; it takes num_workers, "):
        RayOptions.from_config({"colour": 2})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_workers", -1),
        ("num_workers", 1.5),
        ("num_workers", "2"),
        ("num_workers", True),
        ("batch_workers", 0),
        ("cpus_per_worker", -0.5),
        ("cpus_per_worker", None),
        ("threads_per_worker", 0),
        ("max_failures", None),
        ("dashboard", 1),
        ("placement_strategy", "TIGHT"),
        ("label_selector", {"region": 3}),
        ("resources_per_worker", {"lidar": -1}),
        ("env_vars", {"A": 1}),
        ("runtime_env", "pip"),
        ("hang_timeout_s", -1),
        ("straggler_ratio", 1),
        ("resize_interval_s", 0),
        ("accelerator_type", ""),
        ("time_limit_s", "1h"),
    ],
)
def test_value_of_the_wrong_type_is_refused(key, value):
    with pytest.raises(InputError, match=f"ray.{key} must be ") as caught:
        RayOptions.from_config({key: value})
    assert ("got" in str(caught.value)) == (key not in ("env_vars", "runtime_env"))  # a value may be a secret


def test_ray_section_must_be_a_dict():
    with pytest.raises(InputError, match="ray must be a dict"):
        RayOptions.from_config(["num_workers"])


def test_bundle_has_only_requested_resources():
    options = RayOptions(cpus_per_worker=4, gpus_per_worker=0, resources_per_worker={"lidar": 1})
    assert options.bundle == {"CPU": 4.0, "lidar": 1}


def test_describe_names_workers_resources_and_limits():
    text = "\n".join(describe(RayOptions(num_workers=(2, 8), gpus_per_worker=1, cpus_per_worker=4)))
    assert "2 to 8 workers, as many as there is room for, each with 4 CPU, 1 GPU, placed by PACK" in text
    assert "in all: 8 CPU, 2 GPU at least, 32 CPU, 8 GPU at most" in text
    assert "an iteration is the batches of 8 workers" in text
    assert describe(RayOptions(num_workers=0)) == ["no Ray: the run trains in the process that starts it"]


@pytest.mark.parametrize(("name", "least", "most"), [("local", 2, 2), ("node8", 8, 8), ("multi-node", 1, 16)])
def test_shipped_ray_configs_are_valid(name, least, most):
    cfg = Config.fromfile(configs_root() / "_base_" / "ray" / f"{name}.py")
    options = RayOptions.from_config(cfg["ray"])
    assert (options.min_workers, options.max_workers) == (least, most)
