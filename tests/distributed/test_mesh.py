"""Which axis lies on which devices, and what is chosen where nothing is configured."""

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from zojax.distributed import Layout, choose_mesh, make_layout
from zojax.distributed.mesh import FSDP
from zojax.errors import InputError
from zojax.models.opt import logical_axes

SPLITS = {"heads": 12, "MLP": 3072}  # of OPT-125M


def choose(data, model, **settings) -> tuple[int, int]:
    given = {"num_devices": 8, "weight_bytes": 26, "device_bytes": None, "splits": SPLITS}
    return choose_mesh(data, model, **{**given, **settings})


def test_all_devices_score_pages_where_the_weights_fit_on_one():
    assert choose(None, None) == (8, 1)
    assert choose(None, None, device_bytes=30) == (8, 1)


def test_weights_are_split_no_further_than_their_size_asks_for():
    assert choose(None, None, device_bytes=16) == (4, 2)
    assert choose(None, None, device_bytes=8) == (2, 4)
    assert choose(2, None, device_bytes=16) == (2, 2)


def test_weights_that_fit_nowhere_are_split_as_far_as_the_heads_allow():
    assert choose(None, None, device_bytes=1) == (2, 4)  # 8 does not divide 12 heads


def test_weights_that_are_split_over_data_too_fit_without_model():
    assert choose(None, None, device_bytes=8, fsdp=True) == (8, 1)


def test_what_is_configured_is_taken():
    assert choose(4, 2) == (4, 2)
    assert choose(None, 4) == (2, 4)
    assert choose(1, 1) == (1, 1)


def test_a_split_that_the_heads_do_not_allow_is_refused_with_those_that_they_do():
    with pytest.raises(InputError) as raised:
        choose(None, 8)
    assert "mesh.model=8 does not divide the model's 12 and 3072" in str(raised.value)
    assert str(raised.value).endswith("use one of 1, 2, 3, 4, 6, 12")


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(InputError, match="takes 16 devices, but there are 1"):
        make_layout(8, 2, devices=jax.devices()[:1])


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        (("layers", "self_attn", "q_proj", "weight"), (2, 8, 8), (None, "model", None)),
        (("layers", "self_attn", "q_proj", "bias"), (2, 8), (None, "model")),
        (("layers", "self_attn", "out_proj", "weight"), (2, 8, 8), (None, None, "model")),
        (("layers", "self_attn", "out_proj", "bias"), (2, 8), (None, None)),
        (("layers", "fc1", "weight"), (2, 16, 8), (None, "model", None)),
        (("layers", "fc2", "weight"), (2, 8, 16), (None, None, "model")),
        (("layers", "fc2", "weight"), (2, 8, 15), (None, None, None)),  # which 2 does not divide
        (("layers", "final_layer_norm", "weight"), (2, 8), (None, None)),
        (("embed_tokens", "weight"), (50, 8), ("model", None)),
        (("embed_positions", "weight"), (50, 8), (None, None)),
        (("final_layer_norm", "bias"), (8,), (None,)),
    ],
)
def test_weights_are_split_in_megatrons_way(path, shape, spec):
    layout = Layout(AbstractMesh((4, 2), ("data", "model")))  # pyright: ignore[reportArgumentType]
    assert layout.sharding(logical_axes(path, len(shape)), shape).spec == PartitionSpec(*spec)


def test_fsdp_splits_the_other_side_of_every_matrix_over_data():
    layout = Layout(AbstractMesh((4, 2), ("data", "model")), FSDP)  # pyright: ignore[reportArgumentType]
    axes = logical_axes(("layers", "fc2", "weight"), 3)
    assert layout.sharding(axes, (2, 8, 16)).spec == PartitionSpec(None, "data", "model")
    axes = logical_axes(("project_in", "weight"), 2)  # one axis of a mesh splits one of an array
    assert layout.sharding(axes, (8, 4)).spec == PartitionSpec("data", None)
