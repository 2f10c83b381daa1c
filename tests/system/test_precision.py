"""bfloat16 where it is fast: the choice follows the hardware, and is made without torch being imported before."""

import subprocess
import sys
import time

import pytest
import torch

from sama_video.system import precision
from sama_video.system.precision import WORTH_IT, choose_precision, relative_seconds


def test_what_is_asked_for_is_given():
    assert [choose_precision("cpu", wanted) for wanted in ("float32", "bfloat16")] == ["float32", "bfloat16"]


@pytest.mark.parametrize(
    ("relative", "chosen"), [(60.0, "float32"), (0.95, "float32"), (WORTH_IT, "bfloat16"), (0.2, "bfloat16")]
)
def test_a_processor_is_measured(monkeypatch, relative, chosen):
    monkeypatch.setattr(precision, "relative_seconds", lambda: relative)
    assert choose_precision("cpu") == chosen


@pytest.mark.parametrize(("supported", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_is_asked_for_real_support(monkeypatch, supported, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert choose_precision(torch.device("cuda", 0)) == chosen


def test_other_devices_get_what_is_right_everywhere():
    assert choose_precision("mps") == "float32"


def test_measuring_is_short_happens_once_and_leaves_the_threads():
    relative_seconds.cache_clear()
    threads = torch.get_num_threads()
    started = time.process_time()
    first = relative_seconds()
    assert time.process_time() - started < 10.0  # 0.1 to 0.2 s where nothing else runs
    assert first > 0
    assert relative_seconds() is first
    assert torch.get_num_threads() == threads


def test_asking_for_a_precision_by_name_imports_no_torch():
    program = (
        "import sys; from sama_video.system.precision import choose_precision; "
        "choose_precision('cpu', 'float32'); print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"
