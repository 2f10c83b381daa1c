"""SSIM of a frame by OpenCV's Gaussian filter, against scikit-image's, which gives the same map; what the others take.

The other scores have no baseline: their lines say what a frame, or a pair of frames, costs.
"""

import statistics
import time

import cv2
import numpy as np
from common import compare, report, setting
from skimage.metrics import structural_similarity

from sama_video.media.metrics import LUMA, flicker, haarpsi, motion_error, psnr, ssim

HEIGHT, WIDTH, FRAMES = 480, 832, 3


def clips() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    still = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 3)
    moving = np.stack([np.roll(still, 2 * index, axis=1) for index in range(FRAMES)])
    return moving, (moving * 0.9).astype(np.uint8)


def main() -> None:
    cv2.setNumThreads(1)
    print(f"{setting()}; {FRAMES} frames at {WIDTH}x{HEIGHT}, one thread")
    clip, other = clips()

    def reference() -> None:
        for a, b in zip(clip, other, strict=True):
            structural_similarity(
                a @ LUMA,
                b @ LUMA,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=255,
                full=True,
            )

    report("ssim", *compare(lambda: ssim(clip, other), reference))
    for metric in (psnr, haarpsi, flicker, motion_error):
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            metric(clip, other)
            seconds.append((time.perf_counter() - started) / FRAMES)
        print(f"{metric.__name__}: {statistics.median(seconds) * 1000:.1f} ms a frame")


if __name__ == "__main__":
    main()
