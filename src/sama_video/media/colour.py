"""Colours of video frames: any coding that FFmpeg decodes -> upright RGB as the model knows it, BT.709 in SDR.

Matrix and range are undone by FFmpeg's scaler. What it does not do is arithmetic here, on pixels that are already
resized: high dynamic range (HLG, PQ) is mapped to SDR, and wide primaries (BT.2020, P3) to BT.709's.

    E  light of a display per primary of the source: cd/m2 for HLG and PQ, share of its white for others
    W  the light that SDR shows as white, in the same unit
    L  light per primary of BT.709, in units of W
    V  the SDR signal, 0..1

Shape legend: H W height and width; signals are uint16 `[H, W, 3]`, 0..65535.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation

from ..system.errors import UserError

_HLG_PEAK = 1000.0  # cd/m2, the display that HLG's system gamma of 1.2 belongs to (BT.2100)
_PQ_PEAK = 10_000.0
# Where HDR has the white of SDR, in cd/m2: at 100 where SDR was taken over unscaled, at 203 by BT.2408, which real
# scenes exceed. A clip whose brightest parts are between the two has its white there.
_UNSCALED_WHITE, REFERENCE_WHITE = 100.0, 203.0
# Above this share of white, light is compressed: all highlights share what remains below 1.
_KNEE = 0.95
_BRIGHTEST = 4.0  # times white; from there on the compressed light is white in 8 bits
_GAMMA = 2.4  # of an SDR display, BT.1886

_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
# FFmpeg's numbers of matrices (AVColorSpace, ISO/IEC 23091-2) -> the scaler's.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_STRANGE_MATRICES = {8: "YCgCo", 11: "Y'D'zD'x", 14: "ICtCp", 15: "IPT-PQ-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"}

# CIE xy of red, green, blue; the white of all is D65 (0.3127, 0.3290), but for cinema's P3.
_PRIMARIES = {
    ColorPrimaries.BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), (0.3127, 0.3290)),
    ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290)),
    ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290)),
    ColorPrimaries.SMPTE431: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
}
_PRIMARY_NAMES = {ColorPrimaries.BT2020: "BT.2020", ColorPrimaries.SMPTE432: "P3", ColorPrimaries.SMPTE431: "P3"}
_HDR_NAMES = {ColorTrc.ARIB_STD_B67: "HLG", ColorTrc.SMPTE2084: "PQ"}
SMALL = 160
BLOCK = 2**16  # pixels worked on at once: few enough to stay in a processor's cache


@dataclass(frozen=True)
class Coding:
    """How a frame's colours are coded, as far as they are not BT.709's already.

    Args:
        transfer, primaries: numbers of FFmpeg's enums.
        white: W, cd/m2 for HLG and PQ.
    """

    transfer: int
    primaries: int
    white: float = 1.0

    @property
    def is_usual(self) -> bool:
        """Whether nothing is left to do when matrix and range are undone."""
        return self.primaries == ColorPrimaries.BT709 and self.transfer == ColorTrc.BT709

    @property
    def is_hdr(self) -> bool:
        return self.transfer in _HDR_NAMES

    @property
    def note(self) -> str | None:
        if self.is_hdr:
            name = _HDR_NAMES[ColorTrc(self.transfer)]
            return f"{name} tone-mapped to SDR (BT.709), {self.white:.0f} cd/m2 becoming white"
        if self.primaries in _PRIMARY_NAMES:
            return f"colours converted from {_PRIMARY_NAMES[ColorPrimaries(self.primaries)]} to BT.709"
        return None if self.is_usual else "linear light converted to BT.709"


def coding_of(frame: av.VideoFrame, white: float = REFERENCE_WHITE) -> Coding:
    """Primaries of BT.601 count as BT.709's, as players have it: they differ little, and are tagged at random.

    Args:
        white: of a frame in HDR, cd/m2.
    """
    transfer, primaries = int(frame.color_trc), int(frame.color_primaries)
    if transfer not in (*_HDR_NAMES, ColorTrc.LINEAR, ColorTrc.IEC61966_2_1):
        transfer = int(ColorTrc.BT709)
    is_hdr = transfer in _HDR_NAMES
    if primaries not in _PRIMARIES:
        # HDR whose primaries are not given has BT.2020's: no other is in use.
        untagged = primaries in (0, ColorPrimaries.UNSPECIFIED)
        primaries = int(ColorPrimaries.BT2020 if untagged and is_hdr else ColorPrimaries.BT709)
    if transfer == ColorTrc.IEC61966_2_1 and primaries == ColorPrimaries.BT709:
        transfer = int(ColorTrc.BT709)  # sRGB's pixels are shown as BT.709's
    return Coding(transfer, primaries, white if is_hdr else 1.0)


def find_white(frames: Iterable[av.VideoFrame]) -> float:
    """W for a clip in HDR, from frames out of it: its highest luminance, if that is between 100 and 203 cd/m2.

    Two pixels in a hundred may be brighter: highlights, which the curve compresses.
    """
    brightest = 0.0
    for frame in frames:
        coding = coding_of(frame)
        size = (max(1, frame.height * SMALL // frame.width), SMALL)
        light = _light_table(coding.transfer)[_scaled(frame, "rgb48le", size, _matrix_of(frame), Interpolation.AREA)]
        luminance = light @ _to_xyz(*_PRIMARIES[ColorPrimaries(coding.primaries)])[1]
        brightest = max(brightest, float(np.quantile(luminance, 0.98)))
    return round(min(max(brightest, _UNSCALED_WHITE), REFERENCE_WHITE), 1)


def _matrix_of(frame: av.VideoFrame) -> Colorspace:
    """The tagged matrix; files that do not say follow the players' convention.

    Raises:
        UserError: for one that cannot be undone.
    """
    if frame.colorspace in _STRANGE_MATRICES and not frame.format.is_rgb:
        raise UserError(f"its colours are coded as {_STRANGE_MATRICES[frame.colorspace]}; convert it to BT.709 first")
    if frame.colorspace in _MATRICES:
        return _MATRICES[frame.colorspace]
    coding = coding_of(frame)
    if coding.primaries == ColorPrimaries.BT2020 or coding.transfer in _HDR_NAMES:
        return Colorspace.BT2020
    return Colorspace.ITU709 if frame.height >= 720 or frame.width >= 1280 else Colorspace.ITU601


@dataclass(frozen=True)
class Rgb:
    """Pixels uint8 `[H, W, 3]`, on white where they are transparent; opacity `[H, W]`, None where all are opaque."""

    pixels: np.ndarray
    alpha: np.ndarray | None


def to_rgb(frame: av.VideoFrame, size: tuple[int, int], coding: Coding) -> Rgb:
    """A frame at `size` (height, width), not yet turned upright. Transparent parts show white.

    Raises:
        UserError: for a matrix that cannot be undone.
    """
    matrix = _matrix_of(frame)
    if any(component.is_alpha for component in frame.format.components):
        return _composited(frame, matrix, coding, size)
    return Rgb(_opaque(frame, matrix, coding, size), alpha=None)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture in memory, uint8 `[H, W, 3]`, at `size` (height, width), as the frames of a file are resized."""
    if pixels.shape[:2] == tuple(size):
        return pixels
    return _scaled(av.VideoFrame.from_ndarray(pixels, format="rgb24"), "rgb24", size, Colorspace.ITU709)


def _opaque(frame: av.VideoFrame, matrix: Colorspace, coding: Coding, size: tuple[int, int]) -> np.ndarray:
    signal = _scaled(frame, "rgb24" if coding.is_usual else "rgb48le", size, matrix)
    return signal if coding.is_usual else to_sdr(signal, coding)


def _scaled(
    frame: av.VideoFrame, pixel_format: str, size: tuple[int, int], matrix: Colorspace, how: int = _SCALING
) -> np.ndarray:
    return frame.reformat(
        width=size[1],
        height=size[0],
        format=pixel_format,
        src_colorspace=matrix,
        interpolation=how,
        threads=1,  # a frame is too small a piece of work: threads cost more than they bring
    ).to_ndarray()


def _composited(frame: av.VideoFrame, matrix: Colorspace, coding: Coding, size: tuple[int, int]) -> Rgb:
    """On white at the frame's own size and resized then, or hidden colours would bleed into the edges."""
    rgba = _scaled(frame, "rgba", (frame.height, frame.width), matrix)
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        return Rgb(_opaque(frame, matrix, coding, size), alpha=None)
    pixels = rgba[..., :3]
    if not coding.is_usual:
        pixels = to_sdr(_scaled(frame, "rgb48le", (frame.height, frame.width), matrix), coding)
    on_white = av.VideoFrame.from_ndarray(composite_on_white(pixels, alpha), format="rgb24")
    opacity = av.VideoFrame.from_ndarray(np.ascontiguousarray(alpha[..., 0]), format="gray")
    return Rgb(
        _scaled(on_white, "rgb24", size, Colorspace.ITU709), alpha=_scaled(opacity, "gray", size, Colorspace.ITU709)
    )


def composite_on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """C = alpha C + (1 - alpha) white, uint8 `[H, W, 3]` from the same and `[H, W, 1]`, rounded."""
    weighted = pixels.astype(np.uint16) * alpha + (255 - alpha.astype(np.uint16)) * 255
    return ((weighted + 127) // 255).astype(np.uint8)


def off_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """C' = (C - (1 - alpha) white) / alpha, the inverse of `composite_on_white` as far as there is one."""
    opacity = np.maximum(alpha, 1).astype(np.float32) / 255
    colours = (pixels - (1 - opacity) * 255) / opacity
    return np.where(alpha == 255, pixels, np.clip(np.round(colours), 0, 255).astype(np.uint8))


def to_sdr(signal: np.ndarray, coding: Coding) -> np.ndarray:
    """uint16 `[H, W, 3]` in a wide or high dynamic range coding -> uint8 in BT.709.

    E = EOTF(signal);  L = M E / W;  V = compress(L)^(1 / 2.4)
    """
    light_of, matrix = _light_table(coding.transfer), _matrix_to_bt709(coding.primaries) / np.float32(coding.white)
    codes = _code_table(coding.transfer)
    scale = np.float32((len(codes) - 1) / np.sqrt(_BRIGHTEST))
    flat = signal.reshape(-1, 3)
    pixels = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), BLOCK):
        red, green, blue = light_of.take(flat[start : start + BLOCK].T)
        # Written out, since BLAS is slow with matrices as flat as these.
        light = np.stack([a * red + b * green + c * blue for a, b, c in matrix])
        np.clip(light, 0.0, _BRIGHTEST, out=light)
        # Roots, since a table over light itself would be too coarse in the shadows.
        roots = np.multiply(np.sqrt(light, out=light), scale, out=light)
        pixels[start : start + BLOCK] = codes.take(roots.astype(np.uint16)).T
    return pixels.reshape(signal.shape)


@cache
def _light_table(transfer: int) -> np.ndarray:
    """Signal 0..65535 -> E, float32."""
    signal = np.arange(65536) / 65535
    return _EOTFS.get(transfer, lambda x: x**_GAMMA)(signal).astype(np.float32)


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """F_D = L_W E_s^gamma, L_W = 1000, gamma = 1.2; E_s by the inverse OETF of BT.2100 table 5.

    E' <= 1/2: E_s = E'^2 / 3, else E_s = (exp((E' - c) / a) + b) / 12. The system gamma is taken per primary, as
    converters do (zimg, and so FFmpeg's), where BT.2100 has it on the luminance: the two differ in vivid colours.
    """
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return _HLG_PEAK * scene**1.2


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """EOTF of BT.2100 table 4: F_D = 10000 (max(E'^(1/m2) - c1, 0) / (c2 - c3 E'^(1/m2)))^(1/m1)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = signal ** (1 / m2)
    return _PQ_PEAK * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def _srgb_light(signal: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def _srgb_signal(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


_EOTFS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    ColorTrc.ARIB_STD_B67: _hlg_light,
    ColorTrc.SMPTE2084: _pq_light,
    ColorTrc.IEC61966_2_1: _srgb_light,
    ColorTrc.LINEAR: lambda x: x,
}


@cache
def _code_table(transfer: int) -> np.ndarray:
    """sqrt(L / _BRIGHTEST), 0..65535 -> 255 V; what was coded by sRGB's curve comes back by it."""
    light = _BRIGHTEST * (np.arange(65536) / 65535) ** 2
    light = compress(light) if transfer in _HDR_NAMES else np.minimum(light, 1.0)
    signal = _srgb_signal(light) if transfer == ColorTrc.IEC61966_2_1 else light ** (1 / _GAMMA)
    return np.round(signal * 255).astype(np.uint8)


def compress(light: np.ndarray) -> np.ndarray:
    """The same up to the knee k, above it k + (1 - k) (1 - exp(-(L - k) / (1 - k))): smooth, and below 1 for all L."""
    room = 1 - _KNEE
    return np.where(light <= _KNEE, light, 1 - room * np.exp(-(np.maximum(light, _KNEE) - _KNEE) / room))


@cache
def _matrix_to_bt709(primaries: int) -> np.ndarray:
    """M = XYZ_709^-1 XYZ_source, float32 `[3, 3]`; whites meet."""
    source, target = (_to_xyz(*_PRIMARIES[ColorPrimaries(one)]) for one in (primaries, ColorPrimaries.BT709))
    return (np.linalg.inv(target) @ source).astype(np.float32)


def _to_xyz(*points: tuple[float, float]) -> np.ndarray:
    """Linear RGB -> XYZ, scaled per axis so that white is (1, 1, 1): a plain adaptation to the common white."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in points]).T
    red_green_blue, white = columns[:, :3], columns[:, 3]
    return (red_green_blue * np.linalg.solve(red_green_blue, white)) / white[:, None]
