import pytest
import torch
import torch.nn.functional as F

from sama_video.media.detail import CHUNK, fits, resize_plainly
from sama_video.synth.looks import LOOKS


def apply(look, video):
    """A look of `[F, 3, H, W]` in 0..1."""
    pixels = (video * 255).round().byte().movedim(1, -1).numpy()
    return torch.from_numpy(LOOKS[look](pixels)).movedim(-1, 1).float() / 255


def psnr(a, b, mask=None):
    error = (a - b).square().mean(dim=1, keepdim=True)
    return float(
        -10 * torch.log10(error.mean() if mask is None else (error * mask).sum() / mask.expand_as(error).sum())
    )


@pytest.fixture(scope="module")
def clip():
    """Full-size frames with detail at every scale, and the same at a quarter of the size."""
    g = torch.Generator().manual_seed(0)
    full = torch.zeros(5, 3, 384, 512)
    for octave in (6, 12, 24, 48, 96, 192):
        noise = torch.randn(1, 3, octave, octave * 4 // 3, generator=g)
        full += F.interpolate(noise, size=(384, 512), mode="bicubic", align_corners=False) * 1.5 / octave**0.5
    full = torch.stack([full[0].roll(2 * i, dims=-1) for i in range(5)])
    full = (full * 0.18 + 0.5).clamp(0, 1)
    return full, F.interpolate(full, size=(96, 128), mode="bicubic", antialias=True).clamp(0, 1)


def upsample(small, edit, full):
    every = fits(zip(small, edit, strict=True))
    return torch.stack([fit.upsample(frame) for fit, frame in zip(every, full, strict=True)])


def plainly(edit, full):
    return torch.stack([resize_plainly(frame, full.shape[-2:]) for frame in edit])


def noisy(edit):
    return (edit + 0.05 * torch.randn(edit.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


@pytest.mark.parametrize("look", ["grayscale", "sepia", "negative", "night", "warm"])
def test_noisy_edits_come_back_at_full_size(look, clip):
    full, small = clip
    edit = noisy(apply(look, small))
    exact = apply(look, full)
    assert psnr(upsample(small, edit, full), exact) > psnr(plainly(edit, full), exact) + 8
    assert psnr(upsample(small, edit, full), exact) > 34


def test_an_unedited_video_comes_back_as_it_was(clip):
    full, small = clip
    assert psnr(upsample(small, small, full), full) > 50


def paint(video, radius=0.2):
    """A patterned disc, the same at every size; returns the painted video and the disc's mask."""
    height, width = video.shape[-2:]
    y = ((torch.arange(height) + 0.5) / height - 0.5).view(-1, 1)
    x = ((torch.arange(width) + 0.5) / width - 0.5).view(1, -1) * 4 / 3
    mask = ((y**2 + x**2) < radius**2).float()
    pattern = torch.stack(
        [0.5 + 0.5 * torch.sin(x * 25) + 0 * y, 0.2 + 0 * (x + y), 0.5 + 0.5 * torch.cos(y * 31) + 0 * x]
    )
    return video * (1 - mask) + pattern * mask, mask


def test_an_added_object_is_neither_smeared_nor_ghosted(clip):
    full, small = clip
    edit, _ = paint(small)
    edit = noisy(edit)
    exact, mask = paint(full)
    joint, plain = upsample(small, edit, full), plainly(edit, full)
    assert psnr(joint, exact, mask) > psnr(plain, exact, mask) - 1
    assert psnr(joint, exact, 1 - mask) > psnr(plain, exact, 1 - mask) + 3


def test_a_blur_is_not_undone(clip):
    full, small = clip
    edit, exact = apply("blurred", small), apply("blurred", full)
    joint = upsample(small, edit, full)
    assert psnr(joint, exact) > 45

    def sharpness(video):
        return (video[..., 1:] - video[..., :-1]).square().mean().sqrt()

    assert sharpness(joint) < 1.3 * sharpness(exact) < 0.5 * sharpness(full)


def ghost(result, full, edit):
    """Share of the source's detail, beyond what the edit has at its own size, that shows in the result."""
    plain = plainly(edit, full)
    detail = full - plainly(F.interpolate(full, size=edit.shape[-2:], mode="bicubic", antialias=True), full)
    return float(((result - plain) * detail).sum() / detail.square().sum())


@pytest.mark.parametrize("spoil", [lambda edit: edit, noisy], ids=["exact", "noisy"])
@pytest.mark.parametrize("look", ["pixelated", "blurred"])
def test_the_source_does_not_shine_through_a_look_that_took_its_detail(look, spoil, clip):
    full, small = clip
    edit = spoil(apply(look, small))
    assert abs(ghost(upsample(small, edit, full), full, edit)) < 0.05
    warm = spoil(apply("warm", small))
    assert ghost(upsample(small, warm, full), full, warm) > 0.7


def test_a_blurred_part_stays_blurred_and_the_rest_sharp(clip):
    full, small = clip
    edit = small.clone()
    edit[..., 40:90] = apply("blurred", small)[..., 40:90]
    joint = upsample(small, edit, full)
    inside, outside = slice(4 * 50, 4 * 80), slice(0, 4 * 25)
    assert abs(ghost(joint[..., inside], full[..., inside], edit[..., 50:80])) < 0.1
    assert psnr(joint[..., outside], full[..., outside]) > 45


def test_chunks_do_not_show(clip):
    full, small = clip
    times = (CHUNK + 5) // 5 + 1
    long = torch.cat([small] * times)
    edit = noisy(apply("sepia", long))
    every = [*fits(zip(long, edit, strict=True))]
    assert len(every) == len(long)
    cut = slice(CHUNK - 4, CHUNK + 5)
    late = [*fits(zip(long[cut], edit[cut], strict=True))][4]
    torch.testing.assert_close(every[CHUNK].upsample(full[0]), late.upsample(full[0]), rtol=0, atol=1e-5)


def test_no_more_than_a_chunk_and_its_neighbours_are_held(clip):
    _, small = clip
    asked = []

    def pairs():
        for index in range(3 * CHUNK):
            asked.append(index)
            yield small[0], small[0]

    ahead = [len(asked) - index for index, _ in enumerate(fits(pairs()))]
    assert max(ahead) <= CHUNK + 3
    assert len(ahead) == 3 * CHUNK


def test_shapes_must_agree(clip):
    _, small = clip
    with pytest.raises(ValueError, match="one shape"):
        next(fits([(small[0], small[0, :, :2])]))
