import pytest
import torch

from sama_video.models.autoencoder_sama_nano import AutoencoderSamaNano
from sama_video.nano import parts as nano
from sama_video.nano.decoder import score_decoders, with_source_branch
from sama_video.pipelines.pipeline_sama import SamaPipeline
from sama_video.synth.engine import Engine
from sama_video.synth.footage import Footage
from sama_video.system.errors import UserError
from tests import tiny
from tests.clips import write_photos

Z_DIM = 48


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """On blocky photographs, which a decoder can learn something of in a few steps."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, 9)
    footage = Footage(images=folder, videos=None, split="train", cache=folder)
    return Engine(families=("global_style",), footage=footage, footage_fraction=1.0)


@pytest.fixture(scope="module")
def codec(engine):
    vae = AutoencoderSamaNano(z_dim=Z_DIM)
    nano.fit_linear_codec(vae, engine, num_clips=8)
    return vae


def test_the_linear_codec_is_orthonormal_and_inverts_itself(codec):
    torch.testing.assert_close(codec.components @ codec.components.T, torch.eye(Z_DIM), rtol=0, atol=1e-4)
    latents = torch.randn(1, Z_DIM, 3, 4, 4) * 0.1
    with torch.no_grad():
        video = codec.decode_unclamped(latents)
        assert video.shape == (1, 3, 9, 32, 32)
        patches = codec.unpatchify(codec.patchify(video))
    assert torch.equal(patches, video)


@pytest.mark.slow
def test_a_finished_nano_edits_as_the_trained_one_with_a_better_decoder(engine, tmp_path):
    trained = small_nano(engine, 12, 300)
    trained.save_pretrained(tmp_path / "trained")
    scores = nano.finished_nano(
        str(tmp_path / "trained"), tmp_path / "finished", engine, engine, num_steps=40, batch_size=2, validation_clips=3
    )
    assert scores["without source"].inside > scores["linear"].inside
    finished = SamaPipeline.from_pretrained(tmp_path / "finished", dtype=torch.float32)
    for mine, theirs in zip(finished.transformer.parameters(), trained.transformer.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.half().float(), rtol=0, atol=0)
    again = score_decoders(finished.vae, engine, 3)
    assert again["with source"].inside == pytest.approx(scores["with source"].inside, abs=0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finished", "trained"]


def test_a_decoder_that_was_trained_apart_is_put_into_a_trained_nano(tmp_path):
    trained, other = tiny.pipeline(seed=0), tiny.pipeline(seed=1)
    trained.vae = AutoencoderSamaNano(z_dim=4, decoder_width=8, decoder_layers=1)
    torch.nn.init.normal_(trained.vae.components)
    other.vae = with_source_branch(trained.vae)
    trained.save_pretrained(tmp_path / "trained")
    other.save_pretrained(tmp_path / "decoder")
    nano.put_together(str(tmp_path / "trained"), str(tmp_path / "decoder"), tmp_path / "finished")
    finished = SamaPipeline.from_pretrained(tmp_path / "finished", dtype=torch.float32)
    assert finished.vae.takes_source
    state = trained.transformer.state_dict()
    for name, value in finished.transformer.state_dict().items():
        assert torch.equal(value, state[name].half().float())
    other.vae.components.data.neg_()
    other.save_pretrained(tmp_path / "decoder")
    with pytest.raises(UserError, match="has another encoder than"):
        nano.put_together(str(tmp_path / "trained"), str(tmp_path / "decoder"), tmp_path / "again")


def test_a_nano_is_written_at_twice_its_width(tmp_path, monkeypatch):
    narrow = tiny.pipeline(seed=0)
    narrow.save_pretrained(tmp_path / "narrow")
    command = ["parts", "--widen", str(tmp_path / "narrow"), "--out", str(tmp_path / "wide")]
    monkeypatch.setattr("sys.argv", command)
    nano.main()
    wide = SamaPipeline.from_pretrained(tmp_path / "wide", dtype=torch.float32)
    before, after = narrow.transformer.config, wide.transformer.config
    assert (after.num_attention_heads, after.ffn_dim) == (2 * before.num_attention_heads, 2 * before.ffn_dim)
    assert torch.equal(wide.text_encoder.shared.weight, narrow.text_encoder.shared.weight)
    monkeypatch.setattr("sys.argv", [*command, "--images", "photos"])
    with pytest.raises(SystemExit):
        nano.main()


def test_frames_must_be_4k_plus_1(codec):
    with pytest.raises(ValueError, match="num_frames must be 4k\\+1, got 4; use 1 or 5"):
        codec.encode(torch.zeros(1, 3, 4, 32, 32))


def test_heads_start_on_the_same_place():
    """A target token's attention in such a head peaks at the source token of its own place."""
    torch.manual_seed(0)
    transformer = nano.new_transformer({})
    nano.start_some_heads_on_the_same_position(transformer)
    attention = transformer.blocks[0].attn1
    cos, sin = transformer.rope(torch.zeros(1, Z_DIM, 3, 16, 16))
    tokens = torch.randn(1, 192, 192)
    query, key = attention.norm_q(attention.to_q(tokens)), attention.norm_k(attention.to_k(tokens))

    def rotate(x):
        x = x.unflatten(2, (4, -1))
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        c, s = cos[..., 0::2], sin[..., 1::2]
        return torch.stack([first * c - second * s, first * s + second * c], dim=-1).flatten(-2)

    logits = torch.einsum("bqhd,bkhd->bhqk", rotate(query), rotate(key)) / 48**0.5
    own = logits.softmax(dim=-1).diagonal(dim1=-2, dim2=-1).mean(dim=(0, 2))
    assert own[:2].min() > 20 * own[2:].max()


def small_nano(engine, z_dim, words, **head):
    torch.manual_seed(z_dim)
    vae = AutoencoderSamaNano(z_dim=z_dim)
    nano.fit_linear_codec(vae, engine, num_clips=8)
    tokenizer = nano.train_tokenizer(num_samples=200, vocab_size=words)
    return SamaPipeline(
        transformer=tiny.transformer(in_channels=z_dim, out_channels=z_dim, text_dim=192),
        vae=vae,
        text_encoder=nano.new_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        prompt_prefix="",
        num_semantic_tokens=0,
        **head,
    )
