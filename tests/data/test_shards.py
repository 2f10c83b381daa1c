import json

import pytest
import torch

from sama_video.data.shards import INDEX, StoreWriter, TensorStore
from sama_video.system.errors import UserError


def fill(folder, names, **settings):
    with StoreWriter(folder, **settings) as writer:
        for number, name in enumerate(names):
            writer.add(name, torch.full((4,), float(number)))


def test_what_goes_in_comes_out(tmp_path):
    tensors = {
        "a": torch.randn(3, 4).bfloat16(),
        "b": torch.arange(6).view(2, 3).T,
        "c": torch.tensor([], dtype=torch.float16),
    }
    with StoreWriter(tmp_path / "store") as writer:
        for key, tensor in tensors.items():
            writer.add(key, tensor)
    store = TensorStore(tmp_path / "store")
    assert len(store) == 3
    for key, tensor in tensors.items():
        assert store[key].dtype == tensor.dtype
        assert torch.equal(store[key], tensor)
    with pytest.raises(KeyError):
        store["d"]


def test_views_of_one_tensor_may_be_added(tmp_path):
    whole = torch.arange(8.0)
    with StoreWriter(tmp_path) as writer:
        writer.add("a", whole[:4])
        writer.add("b", whole[2:])
    assert torch.equal(TensorStore(tmp_path)["b"], whole[2:])


def test_shards_are_written_as_they_fill(tmp_path):
    with StoreWriter(tmp_path, shard_bytes=32) as writer:
        for number in range(5):
            writer.add(str(number), torch.zeros(4))
            assert len([*tmp_path.glob("shard-*")]) == (number + 1) // 2
    assert len(TensorStore(tmp_path)) == 5


def test_writers_do_not_meet_and_an_old_index_does_not_hide(tmp_path):
    fill(tmp_path, ["a", "b"])
    TensorStore(tmp_path).write_index()
    assert sorted(key for keys in json.loads((tmp_path / INDEX).read_text()).values() for key in keys) == ["a", "b"]
    one, two = StoreWriter(tmp_path), StoreWriter(tmp_path)
    one.add("c", torch.ones(1))
    two.add("d", torch.ones(2))
    one.flush()
    two.flush()
    assert sorted(TensorStore(tmp_path).shard_of) == ["a", "b", "c", "d"]


def test_an_index_may_list_shards_that_are_gone(tmp_path):
    fill(tmp_path, ["a"])
    TensorStore(tmp_path).write_index()
    next(tmp_path.glob("shard-*")).unlink()
    assert "a" not in TensorStore(tmp_path)


def test_an_error_keeps_what_was_computed(tmp_path):
    def work():
        with StoreWriter(tmp_path) as writer:
            writer.add("a", torch.ones(1))
            raise UserError("a later clip is broken")

    with pytest.raises(UserError, match="later clip"):
        work()
    assert "a" in TensorStore(tmp_path)
    assert not [*tmp_path.glob(".*")]


def test_a_broken_shard_is_named(tmp_path):
    (tmp_path / "shard-0.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"shard-0\.safetensors is broken.*delete it"):
        TensorStore(tmp_path)
