"""The nano's decoder beside the source of an edit: what it copies, what it leaves, and that old weights know none."""

import pytest
import torch

from sama_video.models.autoencoder_sama_nano import PATCH_VALUES, AutoencoderSamaNano
from sama_video.models.latents import Tiling, decode_latents, encode_video
from tests import tiny

Z_DIM = 24


def codec(**settings) -> AutoencoderSamaNano:
    """With orthonormal components at random; its refinement draws something."""
    torch.manual_seed(0)
    vae = AutoencoderSamaNano(z_dim=Z_DIM, decoder_width=16, decoder_layers=1, latents_std=[0.5] * Z_DIM, **settings)
    vae.components.data = torch.linalg.qr(torch.randn(PATCH_VALUES, Z_DIM)).Q.T.contiguous()
    torch.nn.init.normal_(vae.refine_out.weight, std=0.01)
    return vae.eval()


@pytest.fixture(scope="module")
def vae():
    return codec(source_width=16, source_layers=1)


@pytest.fixture
def source():
    return torch.rand(1, 3, 5, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_where_latents_did_not_change_the_source_comes_back_and_elsewhere_what_was_decoded(vae, source):
    target = source.clone()
    target[..., :16, :16] = -target[..., :16, :16]  # four patches, and nothing else
    latents = encode_video(vae, target)
    alone, beside = decode_latents(vae, latents), decode_latents(vae, latents, source=source)
    kept = torch.ones(source.shape[-2:], dtype=bool)
    kept[:16, :16] = False
    assert (beside - source)[..., kept].abs().max() < 0.05 < (alone - source)[..., kept].abs().mean()
    assert (beside - alone)[..., ~kept].abs().mean() < 0.1 * (source - alone)[..., ~kept].abs().mean()


@torch.no_grad()
def test_without_a_source_it_is_the_decoder_that_knows_none(vae, source):
    old = codec()
    assert not any(name.startswith("source_branch") for name in old.state_dict())
    old.load_state_dict({name: vae.state_dict()[name] for name in old.state_dict()})
    latents = encode_video(vae, source)
    alone = decode_latents(old, latents)
    assert torch.equal(decode_latents(vae, latents), alone)
    assert torch.equal(decode_latents(old, latents, source=source), alone)


@torch.no_grad()
def test_both_at_once_are_each_by_itself(vae, source):
    latents = vae.encode(source).latent_dist.mode() + 0.1
    alone, beside = vae.decode_both(latents, source)
    torch.testing.assert_close(alone, vae.decode_unclamped(latents))
    torch.testing.assert_close(beside, vae.decode_unclamped(latents, source))


@torch.no_grad()
def test_tiles_see_their_part_of_the_source(source):
    """A decoder that looks at nothing beyond its patch gives the same in tiles."""
    vae = codec(source_width=16, source_layers=0)
    torch.nn.init.zeros_(vae.refine_out.weight)
    latents = encode_video(vae, source) + 0.1 * torch.randn(1, Z_DIM, 2, 4, 6)
    tiled = decode_latents(vae, latents, Tiling(size=(2, 4), stride=(1, 2)), source=source)
    torch.testing.assert_close(tiled, decode_latents(vae, latents, source=source), rtol=0, atol=1e-5)


@torch.no_grad()
def test_one_source_serves_several_results(vae, source):
    latents = encode_video(vae, source)
    several = decode_latents(vae, torch.cat([latents, latents + 1]), source=source)
    for number, one in enumerate((latents, latents + 1)):
        alone = decode_latents(vae, one, source=source)
        torch.testing.assert_close(several[number : number + 1], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_wans_decoder_does_without(source):
    wan = tiny.vae()
    latents = encode_video(wan, source)
    assert torch.equal(decode_latents(wan, latents, source=source), decode_latents(wan, latents))


def test_a_source_that_does_not_fit_is_refused(vae, source):
    latents = vae.encode(source).latent_dist.mode()
    with pytest.raises(ValueError, match=r"shape of the clip, \(1, 3, 5, 32, 48\), got \(1, 3, 1, 32, 48\)"):
        vae.decode(latents, source=source[:, :, :1])
    with pytest.raises(ValueError, match="takes no source"):
        codec().decode(latents, source=source)


@torch.no_grad()
def test_a_saved_branch_is_loaded(vae, source, tmp_path):
    torch.nn.init.normal_(vae.source_branch.drawing.weight, std=0.1)
    vae.save_pretrained(tmp_path)
    loaded = AutoencoderSamaNano.from_pretrained(tmp_path)
    latents = vae.encode(source).latent_dist.mode()
    assert torch.equal(loaded.decode(latents, source=source).sample, vae.decode(latents, source=source).sample)
